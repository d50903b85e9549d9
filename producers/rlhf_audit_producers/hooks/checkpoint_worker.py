"""Digests checkpoints on a thread of its own, in the order they were saved.

``submit`` opens the files and returns; the training never waits for a digest
until it ends. What a process had submitted when it forked is its own to digest:
the child begins with nothing. Each event names the checkpoint before it, so the order in which
they were saved is in the record even where steps repeat after a restart.
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


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    step: int
    role: Role
    files: list[OpenedFile]
    metrics: Mapping[str, float]


class CheckpointWorker:
    """Hands one ``checkpoint`` event per folder to ``record``, which may be called on the worker's thread."""

    def __init__(self, record: Callable[[str, Mapping[str, Any]], None], *, rank: int) -> None:
        self._record, self._rank = record, rank
        self._parent: Mapping[str, Any] = {}
        self.failed = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._done = threading.Condition()

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
        with self._done:
            self._waiting += 1
        self._jobs.put(_Job(folder.name, step, role, files, metrics or {}))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="rlhf-audit-checkpoints", daemon=True)
            self._thread.start()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything submitted is recorded. Returns whether that came to pass."""
        self._begin_in_child()
        with self._done:
            return self._done.wait_for(lambda: self._waiting == 0, timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._digest(job)
            except Exception as error:  # noqa: BLE001 - a checkpoint that cannot be digested ends neither thread nor training
                self.failed += 1
                close_files(job.files)
                logger.error("checkpoint of step %d was not recorded: %s", job.step, type(error).__name__)
            finally:
                with self._done:
                    self._waiting -= 1
                    self._done.notify_all()

    def _digest(self, job: _Job) -> None:
        began = time.perf_counter_ns()
        digests = digest_files(job.files)
        self._record(
            "checkpoint",
            {
                "step": job.step,
                "role": job.role,
                "name": job.name,
                **(self._parent if job.role == "saved" else {}),
                **digests.event,
                "metric_names": list(job.metrics),
                "metric_values": list(job.metrics.values()),
                "digest_us": (time.perf_counter_ns() - began) // 1000,
            },
        )
        if job.role == "saved":
            self._parent = {"parent_step": job.step, "parent_files_sha256": digests.files_sha256}
