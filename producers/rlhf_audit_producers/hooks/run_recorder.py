"""The story of one training on one rank: begin, updates, end.

A ``policy_update`` waits for what is logged about its step and goes out when
the next step begins, when the log line has come, or at the end. ``begin`` and
``end`` come in pairs whatever happens: a training that ends without saying so
is ended by the next one or when the process leaves. A forked child has no part
in the training that it inherits: it says nothing of it, not even its end.

It knows no trainer; ``callback`` and ``plain`` drive it.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rlhf_audit_producers.hooks.metrics import columns, taken
from rlhf_audit_producers.hooks.recording import Guard, Recording
from rlhf_audit_producers.process_end import HOOKS_PRIORITY, before_child_ends, fatal_error

Outcome = Literal["finished", "stopped_early", "failed", "interrupted"]
_US = 1000  # nanoseconds


class RunRecorder:
    """One per process and hook. All methods are to be called on the thread that trains."""

    def __init__(self, recording: Recording) -> None:
        self.guard = Guard(recording)
        self.recording = recording
        self._pid: int | None = None  # of the process in which a training is going on
        self.step = 0  # optimizer steps made
        self._pending: dict[str, Any] | None = None
        self._logged: dict[str, Any] = {}  # about the step of ``_pending``, numbers that a device may still work on
        self._losses: Sequence[Any] = ()
        self._began_ns = self._step_began_ns = self._inside_at_begin_ns = self._inside_reported_ns = 0
        self._counts_before: Mapping[str, int] = {}
        self._missed_before = 0
        self._before_end: Callable[[], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a training is going on in this process."""
        return self._pid == os.getpid()

    def begin(self, facts: Mapping[str, Any], *, step: int, before_end: Callable[[], None] | None = None) -> None:
        """Say that training begins; ``before_end`` is called before any end is said."""
        if self.is_open:
            self.end("failed", reason="another training began")
        self._pid, self._pending = os.getpid(), None
        self.step, self._before_end = step, before_end
        self._counts_before, self._missed_before = dict(self.guard.handed_over), self.guard.missed
        self._began_ns = time.perf_counter_ns()
        self._inside_at_begin_ns = self._inside_reported_ns = self.guard.inside_ns
        atexit.register(self._leave)  # runs before the trail's own, which was registered earlier
        before_child_ends(self._leave, priority=HOOKS_PRIORITY)
        world = self.recording.world_size
        with self.guard.observing("run_start"):
            self.guard.record("run_start", {"world_size": world, "expected_ranks": list(range(world)), **facts})

    def begin_step(self) -> None:
        """The forward pass of the next optimizer step begins."""
        self.flush()
        self._step_began_ns = time.perf_counter_ns()

    def restart_clock(self) -> None:
        """The next step begins now; what waits still waits."""
        self._step_began_ns = time.perf_counter_ns()

    def end_step(
        self,
        step: int,
        *,
        epoch: float | None = None,
        losses: Sequence[Any] = (),
        update_norm: float | None = None,
        annotation_ids: Sequence[str] | None = None,
        store_ids: bool = True,
        was_skipped: bool = False,
    ) -> None:
        """The optimizer has made (or skipped) step ``step``. ``annotation_ids`` None: lineage unknown.

        ``losses``: of its micro-batches on this rank, to be added up.
        """
        self.flush()
        self.step = step
        self._losses = losses
        began, self._step_began_ns = self._step_began_ns, 0
        with self.guard.observing("policy_update"):
            self._pending = {
                "step": step,
                "epoch": epoch,
                "is_logged": False,
                "update_norm": update_norm,
                "update_norm_method": None if update_norm is None else "exact",
                "annotation_ids": list(annotation_ids or ()) if store_ids else [],
                "annotation_ids_sha256": None if annotation_ids is None else ids_digest(annotation_ids),
                "annotation_count": None if annotation_ids is None else len(annotation_ids),
                "was_skipped": was_skipped,
                "step_us": (time.perf_counter_ns() - began) // _US if began else None,
            }

    def log(self, logs: Mapping[str, Any]) -> None:
        """A log line about the step made last; a second one adds to the first."""
        if self._pending is not None:
            self._logged |= taken(logs)
            self._pending["is_logged"] = True

    def flush(self) -> None:
        """Hand over the update that waits."""
        pending, self._pending = self._pending, None
        logged, self._logged = self._logged, {}
        losses, self._losses = self._losses, ()
        if pending is None or self._pid not in (None, os.getpid()):
            return
        with self.guard.observing():
            if losses:
                pending["local_loss"] = math.fsum(float(one) for one in losses)
        with self.guard.observing():
            found = {name: float(value) for name, value in logged.items()}
            pending.update(columns(found), metric_names=list(found), metric_values=list(found.values()))
        with self.guard.observing("policy_update"):
            inside = self.guard.inside_ns
            pending["audit_us"] = (inside - self._inside_reported_ns) // _US
            self._inside_reported_ns = inside
            self.guard.record("policy_update", pending)

    def end(
        self,
        outcome: Outcome,
        *,
        reason: str | None = None,
        error_type: str | None = None,
        epochs: float | None = None,
        train_loss: float | None = None,
    ) -> None:
        """Say that training ends. Nothing happens if none is going on."""
        if not self.is_open:
            return
        self._pid = None
        atexit.unregister(self._leave)
        if self._before_end is not None:
            self._before_end()
        self.flush()
        with self.guard.observing("run_end"):
            self.guard.record(
                "run_end",
                {
                    "outcome": outcome,
                    "reason": reason,
                    "error_type": error_type,
                    "steps": self.step,
                    "epochs": epochs,
                    "train_loss": train_loss,
                    "policy_updates": self._count("policy_update"),
                    "gradient_stats": self._count("gradient_stats"),
                    "rollouts": self._count("rollout"),
                    "checkpoints": self._count("checkpoint"),
                    "missed": self.guard.missed - self._missed_before,
                    "train_us": (time.perf_counter_ns() - self._began_ns) // _US,
                    "audit_us": (self.guard.inside_ns - self._inside_at_begin_ns) // _US,
                },
            )

    def end_with(self, error: BaseException) -> None:
        """Training ended by an exception, of which only the class is recorded."""
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        self.end("interrupted" if interrupted else "failed", error_type=type(error).__name__)

    def _count(self, kind: str) -> int:
        return self.guard.handed_over[kind] - self._counts_before.get(kind, 0)

    def _leave(self) -> None:
        """The process ends in the middle of a training."""
        error = fatal_error()
        self.end(
            "interrupted" if error is None or issubclass(error, KeyboardInterrupt) else "failed",
            reason="the process ended",
            error_type=None if error is None else error.__name__,
        )


def ids_digest(ids: Sequence[str]) -> bytes:
    """SHA-256 of the sorted distinct ids, each with its length in front: order and repeats do not matter."""
    digest = hashlib.sha256()
    for one in sorted({each.encode("utf-8") for each in ids}):
        digest.update(len(one).to_bytes(4, "big") + one)
    return digest.digest()
