"""The workers of one trail on Kafka, on one machine: shipper, sealers, sinks and sequencer.

::

    DIR/logs/<worker>.log       what it said

1. Each is the ``rlhf-audit`` command that an orchestrator would run, tied to
   this process. One that ends is started again, ever more rarely; one that says
   that a setting is wrong (2), or that it found a contradiction (1), is not.
2. ``drain`` ends them in the order in which records pass them: all is shipped;
   all is sealed, and the sealers close their windows; all is stored; published.
3. Leaving without a drain stops them at once; nothing is lost, it waits.

For demos and trials: a cluster has an orchestrator of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rlhf_audit_producers.spool_lock import spools_have_work
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_trail import cluster_progress
from rlhf_audit_trail.runtime_start import python_path
from rlhf_audit_trail.sealing import FIRST_PAUSE_S, LONGEST_PAUSE_S
from rlhf_audit_trail.tied_process import TiedProcess
from rlhf_audit_trail.trail_state import Place

if TYPE_CHECKING:
    from rlhf_audit_trail.settings import Settings

logger = logging.getLogger(__name__)

LOGS = "logs"
MAX_SEALERS = 2
STEP_S = 120.0  # for each step of a drain
_STOP_S = 45.0  # a sealer's flush waits for brokers, a shipper for acknowledgements
_STEADY_S = 60.0
_POLL_S = 0.2
_FOR_GOOD = (1, 2)  # exit statuses of one that would say the same again
_TAIL_LINES = 5


@dataclass(slots=True)
class _Worker:
    name: str
    words: Sequence[str]
    process: TiedProcess | None = None
    is_wanted: bool = True
    started: float = 0.0
    start_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    starts: int = 0


def commands_of(directory: Path, *, sealers: int, clickhouse: bool) -> dict[str, list[str]]:
    """Name -> words of ``rlhf-audit``; its name is also that in the consumer group."""
    trail = str(directory)
    found = {"ship": ["ship", trail]}
    for number in range(sealers):
        name = f"seal-{number}"
        found[name] = ["seal", trail, "--instance", name]
    found["sink-objects"] = ["sink", "objects", trail, "--instance", "sink-objects"]
    if clickhouse:
        found["sink-clickhouse"] = ["sink", "clickhouse", trail, "--instance", "sink-clickhouse"]
    return found | {"sequence": ["sequence", trail]}


class ClusterWorkers:
    """A context manager: they run inside the block. ``sealers``: by default one a core, two at most."""

    def __init__(
        self, directory: Path, settings: Settings, *, sealers: int | None = None, clickhouse: bool = True
    ) -> None:
        """``settings`` must name the brokers, as those of ``directory`` do: workers read them there."""
        self.directory = directory.absolute()
        self._kafka = settings.need_kafka()
        count = min(os.cpu_count() or 1, MAX_SEALERS) if sealers is None else sealers
        words = commands_of(self.directory, sealers=count, clickhouse=clickhouse)
        self._workers = {name: _Worker(name, said) for name, said in words.items()}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._failure: str | None = None

    @property
    def commands(self) -> list[list[str]]:
        """What runs, as a person would type it."""
        return [["rlhf-audit", *worker.words] for worker in self._workers.values()]

    @property
    def logs(self) -> Path:
        """Where their words are."""
        return self.directory / LOGS

    @property
    def restarts(self) -> dict[str, int]:
        """Workers that had to be started again, and how often."""
        return {worker.name: worker.starts - 1 for worker in self._workers.values() if worker.starts > 1}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            for worker in self._workers.values():
                self._start(worker)
            self._watcher.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def check(self) -> None:
        """Raises CouldNotCheckError, with its last words, if a worker ended that is not started again."""
        if self._failure is not None:
            raise CouldNotCheckError(self._failure)

    def drain(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Until everything recorded is in the global log, then all have ended. Raises CouldNotCheckError if not."""
        from rlhf_audit_trail.places import StoredTrail

        trail = StoredTrail.of(self.directory)
        places = trail.partitions()
        kafka, spool = self._kafka, self.directory / "spool"
        say("the shipper sends the rest")
        self._until("shipped", lambda left: [("spool", 0)] if spools_have_work(RealDisk(), spool) else [], [])
        self._stop("ship")
        say("the sealers read to the end and close their windows")
        self._until("sealed", lambda left: cluster_progress.unsealed(kafka, left), places)
        self._stop(*(name for name in self._workers if name.startswith("seal-")))
        say("the sinks store the rest")
        self._until("stored", lambda left: cluster_progress.unstored(kafka, left, trail.objects), places)
        if "sink-clickhouse" in self._workers:
            self._until("copied", lambda left: self._uncopied(), [])
        self._stop(*(name for name in self._workers if name.startswith("sink-")))
        say("the sequencer publishes the rest")
        self._stop("sequence")

    def _uncopied(self) -> list[Place]:
        """Partitions that the engine beside this one lacks windows of; one that does not answer lags, and is asked."""
        from rlhf_audit_schemas.errors import AuditTrailError
        from rlhf_audit_trail.places import StoredTrail
        from rlhf_audit_trail.query_ask import live_asker
        from rlhf_audit_trail.trail_state import missing_windows

        try:
            asker = live_asker(self.directory)
            if asker is None:
                return [("clickhouse", 0)]
            try:
                return list(missing_windows(StoredTrail.of(self.directory), asker))
            finally:
                asker.close()
        except AuditTrailError:
            return [("clickhouse", 0)]

    def _until(
        self,
        what: str,
        left_of: Callable[[list[Place]], list[Place]],
        left: list[Place],
    ) -> None:
        """Until ``left_of`` has nothing left; it is asked only for what it left last time."""
        deadline = time.monotonic() + STEP_S
        while left := left_of(left):
            self.check()
            if time.monotonic() > deadline:
                names = ", ".join(f"{stream}/{number}" for stream, number in left[:5])
                raise CouldNotCheckError(f"not everything was {what} within {STEP_S:.0f} s: {names}; see {self.logs}")
            time.sleep(_POLL_S)

    def _stop(self, *names: str) -> None:
        """SIGTERM, and wait until they have done what they do then. Raises CouldNotCheckError if one did not."""
        self._until("running", lambda left: [(n, 0) for n in names if self._workers[n].process is None], [])
        with self._lock:
            stopped = [self._workers[name] for name in names]
            for worker in stopped:
                worker.is_wanted = False
                if worker.process is not None:
                    worker.process.terminate()
        deadline = time.monotonic() + _STOP_S
        for worker in stopped:
            if worker.process is None:
                continue
            status = worker.process.wait(max(0.1, deadline - time.monotonic()))
            if status is None:
                worker.process.end()
                raise CouldNotCheckError(f"{worker.name} did not end in time; {self._last_words(worker)}")
            if status != 0:
                raise CouldNotCheckError(f"{worker.name} ended with status {status}; {self._last_words(worker)}")

    def _watch(self) -> None:
        while not self._is_over.wait(_POLL_S):
            with self._lock:
                for worker in self._workers.values():
                    if worker.is_wanted:
                        self._tend(worker, time.monotonic())

    def _tend(self, worker: _Worker, now: float) -> None:
        if worker.process is None:
            if now >= worker.start_at:
                self._start(worker)
            return
        status = worker.process.poll()
        if status is None:
            return
        worker.process = None
        if status in _FOR_GOOD:
            worker.is_wanted = False
            self._failure = f"{worker.name} ended with status {status}; {self._last_words(worker)}"
            return
        if now - worker.started > _STEADY_S:
            worker.pause_s = FIRST_PAUSE_S
        worker.start_at = now + worker.pause_s
        logger.warning("%s ended with %d: started again in %.1f s", worker.name, status, worker.pause_s)
        worker.pause_s = min(2 * worker.pause_s, LONGEST_PAUSE_S)

    def _start(self, worker: _Worker) -> None:
        command = [sys.executable, "-P", "-m", "rlhf_audit_trail", "-v", *worker.words]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        worker.process = TiedProcess(command, self.logs / f"{worker.name}.log", environment)
        worker.started, worker.starts = time.monotonic(), worker.starts + 1

    def _end(self) -> None:
        """End whatever runs, all at once."""
        self._is_over.set()
        if self._watcher.is_alive():
            self._watcher.join()
        running = [worker.process for worker in self._workers.values() if worker.process is not None]
        for process in running:
            process.let_end()
        for process in running:
            process.end()

    def _last_words(self, worker: _Worker) -> str:
        log = self.logs / f"{worker.name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        return f"{log} ends:\n" + "\n".join(lines)
