"""What a hook hands its observations to, and the guard around everything a hook does.

The guard is the process boundary of style section 4: whatever fails inside it
is logged once by its class, counted, and declared: the events that it should
have given use up their numbers, and a ``loss`` event says so. A strict trail's
own errors pass through, because stopping the training is what strict asks for.

Time inside the guard on the thread that trains is what the hook costs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Recording(Protocol):
    """A trail opened for recording. ``record`` MUST NOT wait for a disk or a network."""

    @property
    def run_id(self) -> str:
        """The run this process belongs to."""

    @property
    def rank(self) -> int:
        """Rank of this process, from 0."""

    @property
    def world_size(self) -> int:
        """How many ranks the run has."""

    def record(self, kind: str, fields: Mapping[str, Any], /) -> None:
        """Queue one event; salt, time, run, rank and nullable fields are filled in."""

    def log_rollouts(
        self,
        *,
        prompts: Sequence[str | bytes],
        completions: Sequence[str | bytes],
        rewards: Mapping[str, Sequence[float | None]],
        step: int | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        """Queue one ``rollout`` event per completion."""

    def declare_lost(self, kind: str, count: int, /) -> None:
        """``count`` events of ``kind`` could not be made: the record MUST say so."""


class Observation:
    """What ``Guard.observing`` gives to ``with``."""

    __slots__ = ("_count", "_guard", "_kind")

    def __init__(self, guard: Guard, kind: str | None, count: int) -> None:
        self._guard, self._kind, self._count = guard, kind, count

    def __enter__(self) -> None:
        self._guard.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._guard.leave(error, self._kind, self._count)


class Guard:
    """Runs observations of one process: times them, keeps what they raise away from the training."""

    def __init__(self, recording: Recording, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.recording = recording
        self.handed_over: Counter[str] = Counter()  # events by kind
        self.missed = 0  # observations that failed
        self.inside_ns = 0  # on the thread that trains
        self._clock_ns = clock_ns
        self._is_strict = bool(getattr(recording, "strict", False))
        self._depth = 0
        self._began_ns = 0
        self._said: set[str] = set()
        self._noting = threading.Lock()
        self._unseen: Exception | None = None  # what a strict trail has yet to say on the thread that trains

    def observing(self, kind: str | None = None, count: int = 1) -> Observation:
        """Everything a hook does stands in here. If it fails, ``count`` events of ``kind`` are lost."""
        return Observation(self, kind, count)

    def enter(self) -> None:
        """An observation begins; they may stand in one another."""
        if self._depth == 0:
            unseen, self._unseen = self._unseen, None
            if unseen is not None:
                raise unseen
            self._began_ns = self._clock_ns()
        self._depth += 1

    def leave(self, error: BaseException | None, kind: str | None, count: int = 1) -> bool:
        """An observation ends. Returns whether its error stays here."""
        is_ours = isinstance(error, Exception)
        if isinstance(error, Exception):
            self._note(error, kind, count)
        self._depth -= 1
        if self._depth == 0:
            self.inside_ns += self._clock_ns() - self._began_ns
        return is_ours and not self._is_strict

    def failed_elsewhere(self, kind: str, error: Exception) -> None:
        """An observation failed on a thread of our own. A strict trail raises it at the next on the one that trains."""
        self._note(error, kind, 1)
        if self._is_strict:
            self._unseen = error

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Hand one event over; to be called inside ``observing``."""
        self.recording.record(kind, fields)
        self.handed_over[kind] += 1

    def log_rollouts(self, **columns: Any) -> None:
        """Hand over one event per completion; to be called inside ``observing``."""
        self.recording.log_rollouts(**columns)
        self.handed_over["rollout"] += len(columns["completions"])

    def _note(self, error: Exception, kind: str | None, count: int) -> None:
        name = f"{kind or 'observation'}: {type(error).__name__}"
        with self._noting:
            self.missed += 1
            is_new = name not in self._said
            self._said.add(name)
        if is_new:
            logger.error("the training goes on without this observation: %s in %s (logged once)", name, _place(error))
        if kind is not None:
            with suppress(Exception):
                self.recording.declare_lost(kind, count)


def _place(error: Exception) -> str:
    """File and line; never the message, which may hold texts if somebody else wrote it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
