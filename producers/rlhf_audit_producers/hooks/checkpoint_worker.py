"""Digests checkpoints on a thread of its own, in the order they were saved.

``submit`` opens the files and returns; the training never waits for a digest
until it ends. What a process had submitted when it forked is its own to digest:
the child begins with nothing. Each event names the checkpoint before it, so the
order in which they were saved is in the record even where steps repeat after a
restart.

A checkpoint is recorded, or its error is told to ``failed``: one of the two, once.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf_audit_producers.hooks.checkpoint_files import OpenedFile, close_files, digest_files, open_files

logger = logging.getLogger(__name__)

Role = Literal["saved", "initial", "reference"]

DRAIN_S = 600.0  # checkpoints still being digested when training ends; reading goes at 1.5 GB/s
_INTERRUPTED_DRAIN_S = 30.0  # whoever sends a signal sends a stronger one soon


def patience_s(error: BaseException | None) -> float:
    """How long to wait for digests when a training ends by ``error``."""
    return _INTERRUPTED_DRAIN_S if isinstance(error, (KeyboardInterrupt, SystemExit)) else DRAIN_S


@dataclass(frozen=True, slots=True)
class _Job:
    number: int
    name: str
    step: int
    role: Role
    files: list[OpenedFile]
    metrics: Mapping[str, float]


class CheckpointWorker:
    """Hands one ``checkpoint`` event per folder to ``record``, or its error to ``failed``, on the worker's thread."""

    def __init__(
        self,
        record: Callable[[str, Mapping[str, Any]], None],
        *,
        rank: int,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self._record, self._rank, self._failed = record, rank, failed
        self._parent: Mapping[str, Any] = {}
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._done = threading.Condition()
        self._submitted = self._given_up = 0  # numbers of jobs
        self.failed = 0

    def _begin_in_child(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def follow(self, *, run_id: str | None, step: int) -> None:
        """The first checkpoint goes back to one of another run."""
        self._parent = {"parent_run_id": run_id, "parent_step": step}

    def submit(
        self, folder: Path, *, step: int, saves: bool, role: Role = "saved", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Digest the files of ``folder`` that this rank answers for. Does nothing if there are none."""
        files = open_files(folder, rank=self._rank, saves=saves)
        if not files:
            return
        self._begin_in_child()
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="rlhf-audit-checkpoints", daemon=True)
            thread.start()
            self._thread = thread
        with self._done:
            self._waiting += 1
            self._submitted += 1
        self._jobs.put(_Job(self._submitted, folder.name, step, role, files, metrics or {}))

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything submitted is recorded. Returns whether that came to pass, for all that ever was."""
        self._begin_in_child()
        with self._done:
            return self._done.wait_for(lambda: self._waiting == 0, timeout_s) and not self.failed

    def give_up(self, timeout_s: float) -> None:
        """The same, but what is not digested by then, or by an interruption of this, is never recorded: it failed."""
        self._begin_in_child()
        with self._done:
            try:
                self._done.wait_for(lambda: self._waiting == 0, timeout_s)
            finally:
                lost, self._waiting, self._given_up = self._waiting, 0, self._submitted
                for _ in range(lost):
                    self._fail(TimeoutError("it was still being digested"))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                event, error = self._digest(job), None
            except Exception as caught:  # noqa: BLE001 - a checkpoint that cannot be digested ends neither thread nor training
                event, error = {}, caught
                close_files(job.files)
            with self._done:
                if job.number > self._given_up:
                    self._tell(job, event, error)
                    self._waiting -= 1
                    self._done.notify_all()

    def _tell(self, job: _Job, event: Mapping[str, Any], error: Exception | None) -> None:
        try:
            if error is not None:
                raise error
            self._record("checkpoint", event)
            if job.role == "saved":
                self._parent = {"parent_step": job.step, "parent_files_sha256": event["files_sha256"]}
        except Exception as caught:  # noqa: BLE001 - as above
            logger.error("checkpoint of step %d was not recorded: %s", job.step, type(caught).__name__)
            self._fail(caught)

    def _fail(self, error: Exception) -> None:
        self.failed += 1
        if self._failed is not None:
            self._failed(error)

    def _digest(self, job: _Job) -> dict[str, Any]:
        began = time.perf_counter_ns()
        digests = digest_files(job.files)
        return {
            "step": job.step,
            "role": job.role,
            "name": job.name,
            **(self._parent if job.role == "saved" else {}),
            **digests.event,
            "metric_names": list(job.metrics),
            "metric_values": list(job.metrics.values()),
            "digest_us": (time.perf_counter_ns() - began) // 1000,
        }
