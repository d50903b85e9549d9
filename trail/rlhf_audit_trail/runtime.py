"""The one-process runtime: drains every spool of a trail's directory, seals, stores, and ends when nobody is left.

One per directory (``runtime.lock``). A turn:

1. take what is new in every spool, each producer's epochs in ascending order: a
   newer epoch supersedes an older one, so that has to be taken to its end first;
2. make it durable, seal it, store what is complete; close windows whose time is over;
3. where a producer has gone (its lock is free) and its spool is read to the end:
   if it said no end, write ``producer_lost``; then note the epoch as done;
4. delete spool segments whose records are all stored.

Killed at any moment, the next runtime goes on from what this one wrote: how
far each spool was taken stands in the source logs, which epochs are done in
the producers' ``heads``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_producers.batches import LIFECYCLE
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_producers.spool_files import SpoolRef, done_epoch, is_alive, producers, write_heads
from rlhf_audit_producers.spool_lock import acquire_drain, spools_have_work
from rlhf_audit_producers.spool_notices import say_lost, speaker
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import LockedError, make_folders_durably
from rlhf_audit_trail import __version__
from rlhf_audit_trail.borrowing import is_wanted
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.spool_reader import SpoolReader

logger = logging.getLogger(__name__)

IDLE_S = 1.0  # a restarted rank comes back within this, or finds a new runtime
_BUSY_POLL_S, _IDLE_POLL_S = 0.02, 0.1
_WAIT_FOR_TRAIL_S = 0.2


class Runtime:
    """The turns, over a trail that is open."""

    def __init__(self, trail: LocalTrail, disk: Disk | None = None) -> None:
        self._trail = trail
        self._disk = RealDisk() if disk is None else disk
        self._spool = trail.directory / "spool"
        self._readers: dict[tuple[str, int], SpoolReader] = {}
        self._ending: dict[tuple[str, int], str] = {}
        self._done: dict[Path, int] = {}

    def turn(self) -> bool:
        """Returns whether anything is left to do, or somebody still records."""
        is_busy = False
        for folder, refs in list(producers(self._disk, self._spool)):
            is_busy |= self._take(folder, refs)
        self._trail.work()
        self._trail.work_on_idle()
        for folder, refs in list(producers(self._disk, self._spool)):
            self._settle(folder, refs)
        return is_busy

    def drain(self) -> None:
        """Close every window and delete what is stored."""
        self._trail.drain()
        for folder, refs in list(producers(self._disk, self._spool)):
            self._settle(folder, refs)

    def _take(self, folder: Path, refs: Sequence[SpoolRef]) -> bool:
        alive = is_alive(folder)  # before reading: what a dead process wrote is all there
        for at, ref in enumerate(refs):
            if ref.epoch <= self._done_epoch(folder):
                continue
            reader = self._reader(ref)
            if reader.take() or not reader.is_exhausted:
                return True
            if at == len(refs) - 1 and alive:
                return True
            self._ending[ref.producer, ref.epoch] = reader.why_it_ends()
            return True
        return alive

    def _settle(self, folder: Path, refs: Sequence[SpoolRef]) -> None:
        """Note as done what is read to its end; delete what is stored."""
        for ref in refs:
            reason = self._ending.pop((ref.producer, ref.epoch), None)
            if reason is not None:
                lanes = [view for view in self._trail.lanes_of(ref.producer) if view.epoch == ref.epoch]
                if not self._has_said_its_end(ref):
                    self._say_lost(ref, lanes, reason)
                write_heads(self._disk, folder, ref.epoch, lanes)
                self._done[folder] = ref.epoch
            is_done = ref.epoch <= self._done_epoch(folder)
            if self._reader(ref, is_done=is_done).release(is_done=is_done):
                self._readers.pop((ref.producer, ref.epoch), None)
                self._trail.forget_spool(ref.spool_id)

    def _done_epoch(self, folder: Path) -> int:
        if folder not in self._done:
            self._done[folder] = done_epoch(self._disk, folder)
        return self._done[folder]

    def _reader(self, ref: SpoolRef, *, is_done: bool = False) -> SpoolReader:
        key = (ref.producer, ref.epoch)
        if key not in self._readers:
            reader = self._readers[key] = SpoolReader(ref, self._trail, self._disk)
            while is_done and (reader.take() or not reader.is_exhausted):
                pass  # an earlier runtime took it to its end; what is not stored yet has to be known again
        return self._readers[key]

    def _has_said_its_end(self, ref: SpoolRef) -> bool:
        partition = partition_of(self._trail.routing_key, ref.producer, self._trail.partitions[LIFECYCLE])
        row = self._trail.part(LIFECYCLE, partition).state.lanes.get(ref.producer)
        return row is not None and row.epoch == ref.epoch and row.state in ("final", "ended")

    def _say_lost(self, ref: SpoolRef, lanes: Sequence[LaneView], reason: str) -> None:
        """Write ``producer_lost``, exactly once: the lane that says it is named after the spool."""
        producer = f"runtime/{ref.spool_id.hex()}"
        said = self._trail.lanes_of(producer)
        if any(view.ended for view in said):
            return
        epoch = self._trail.take_epoch(producer)
        session = speaker(self._trail, producer, epoch.number, lambda: time.time_ns() // 1000)
        session.start(
            software=f"rlhf-audit-trail {__version__}",
            previous_epoch=epoch.previous,
            previous_lanes=said,
            purpose="runtime",
        )
        if not any(view.next_seq > 1 for view in said):  # else a runtime died between saying it and ending the lane
            say_lost(session, ref, lanes, reason)
        session.end(rows=0, bad_rows=0, reason="finished")
        self._trail.work()
        logger.warning("producer %s epoch %d is lost: %s", ref.producer, ref.epoch, reason)


def has_work(directory: Path, disk: Disk | None = None) -> bool:
    """Whether somebody records, or left records that were not taken to their end."""
    return spools_have_work(RealDisk() if disk is None else disk, directory / "spool")


def run_runtime(
    directory: Path,
    open_trail: Callable[[], LocalTrail],
    *,
    until_idle: bool,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run until told to stop, or until nobody records any more. Returns False if another runtime holds the trail."""
    make_folders_durably(RealDisk(), directory / "spool")
    while True:
        lock = acquire_drain(directory / "spool")
        if lock is None:
            return False
        try:
            _run_locked(directory, open_trail, until_idle=until_idle, should_stop=should_stop)
        finally:
            lock.release()
        # Whoever wrote its last record while we still held the lock relies on us: look once more without it.
        if should_stop() or not until_idle or not has_work(directory):
            return True


def _run_locked(
    directory: Path, open_trail: Callable[[], LocalTrail], *, until_idle: bool, should_stop: Callable[[], bool]
) -> None:
    while True:
        trail = _opened(directory, open_trail, until_idle, should_stop)
        if trail is None:
            return
        try:
            if _serve(directory, trail, until_idle=until_idle, should_stop=should_stop):
                return
        finally:
            trail.close()
        logger.info("%s is lent to another process", directory)


def _serve(directory: Path, trail: LocalTrail, *, until_idle: bool, should_stop: Callable[[], bool]) -> bool:
    """Take turns. Returns False when somebody else wants the trail for a while."""
    runtime = Runtime(trail)
    idle_since: float | None = None
    is_drained = False
    while not should_stop():
        if not (directory / "spool").exists():
            logger.warning("%s is gone: nothing left to do", directory)
            return True
        if is_wanted(directory):
            return False
        if runtime.turn():
            idle_since, is_drained = None, False
            time.sleep(_BUSY_POLL_S)
            continue
        now = time.monotonic()
        idle_since = now if idle_since is None else idle_since
        if now - idle_since >= IDLE_S and not is_drained:
            if until_idle:
                break
            runtime.drain()
            is_drained = True
        time.sleep(_IDLE_POLL_S)
    runtime.drain()
    return True


def _opened(
    directory: Path, open_trail: Callable[[], LocalTrail], until_idle: bool, should_stop: Callable[[], bool]
) -> LocalTrail | None:
    """The trail, waiting for whoever holds or wants it as long as there is work; None if there is none."""
    said = False
    while True:
        if not is_wanted(directory):
            with suppress(LockedError):
                return open_trail().__enter__()
        if should_stop() or (until_idle and not has_work(directory)) or not (directory / "spool").exists():
            return None
        if not said:
            logger.info("%s is in use by another process: waiting", directory)
        said = True
        time.sleep(_WAIT_FOR_TRAIL_S)
