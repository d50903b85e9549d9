"""What a hook hands its observations to, and the guard around everything a hook does.

The guard is the process boundary of style section 4: whatever fails inside it
is logged once by its class, counted, and declared. Declared how: an event
whose fields could not be made is handed in without them; the spool cannot
encode it, uses up its number and says so in a ``loss`` event. A strict trail's
own errors pass through, because stopping the training is what strict asks for.

Time inside the guard on the thread that trains is what the hook costs.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
        self._said: set[str] = set()

    @contextmanager
    def observing(self, kind: str | None = None) -> Iterator[None]:
        """Everything a hook does stands in here. ``kind`` is the event that is lost if it fails."""
        began = self._clock_ns()
        self._depth += 1
        try:
            yield
        except Exception as error:
            self._note(error, kind)
            if self._is_strict:
                raise
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.inside_ns += self._clock_ns() - began

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Hand one event over; to be called inside ``observing``."""
        self.recording.record(kind, fields)
        self.handed_over[kind] += 1

    def log_rollouts(self, **columns: Any) -> None:
        """Hand over one event per completion; to be called inside ``observing``."""
        self.recording.log_rollouts(**columns)
        self.handed_over["rollout"] += len(columns["completions"])

    def _note(self, error: Exception, kind: str | None) -> None:
        self.missed += 1
        name = f"{kind or 'observation'}: {type(error).__name__}"
        if name not in self._said:
            self._said.add(name)
            logger.error(
                "the training goes on without this observation; %s (logged once)", name, exc_info=_where(error)
            )
        if kind is not None:
            with suppress(Exception):
                self.recording.record(kind, {})  # cannot be encoded: uses up a number and is declared lost


def _where(error: Exception) -> bool:
    """A trace only where somebody debugs us: messages of other people's errors may hold texts."""
    del error
    return logger.isEnabledFor(logging.DEBUG)
