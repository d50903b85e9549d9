"""The writer of a spool: one turn takes what the queue holds, numbers it, cuts, signs, writes, syncs.

Runs on a thread of its own, or wherever the owner calls ``turn``; the thread
that trains never waits for it. What happens when there is no room:

1. gradients lose their numbers at once, and a ``loss`` event says so, in the reserve;
2. annotations and lifecycle events wait in the queue; when that is full too, it drops the lowest class;
3. as soon as there is room, what waits is written and the rest of the losses is declared.

A lane holds at most so many gaps and so long ones (``docs/format.md`` section
4): before that a new epoch begins, whose lanes have none.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

from rlhf_audit_ledger.batch import MAX_BATCH_BYTES, MAX_BATCH_EVENTS
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.batches import LIFECYCLE, EndReason, ProducerSession
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_producers.spool_files import (
    ProducerLock,
    acquire_name,
    epoch_folder,
    read_heads,
    write_name,
)
from rlhf_audit_producers.spool_log import LedgerFacts, SpoolFullError, SpoolLog
from rlhf_audit_producers.spool_queue import Lost, Place, SpoolQueue, Submission, events_of
from rlhf_audit_producers.spool_routes import Router
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import Disk, DiskFullError
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_stores.epochs import take_epoch

logger = logging.getLogger(__name__)

MAX_LANE_GAPS = 60  # below the 64 that a lane may have
MAX_LANE_SKIP = 1 << 19  # below the 2**20 numbers that a lane may jump
_MEASURE_EVERY_TURNS = 25
_GRADIENTS = frozenset({"gradients"})
_NO_ROOM = (SpoolFullError, DiskFullError, OSError)


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """What a spool needs to know; times are read through ``now_us``."""

    directory: Path
    facts: LedgerFacts
    base_producer: str
    run_id: str | None
    software: str
    disk: Disk
    now_us: Callable[[], int]
    quota_bytes: int = 4 << 30
    max_queue_events: int = 65_536
    max_queue_bytes: int = 64 << 20

    @property
    def spool(self) -> Path:
        """The folder that all spools of the trail share."""
        return self.directory / "spool"


@dataclass(slots=True)
class WriterCounts:
    """For people and tests: events durable, and lost by reason."""

    recorded: int = 0
    lost: Counter[str] = field(default_factory=Counter)


class SpoolWriter:
    """One producer of this process, from its lock to its end."""

    def __init__(
        self, settings: SpoolSettings, queue: SpoolQueue, router: Router, claim: Callable[[bytes], bool] | None = None
    ) -> None:
        self._settings, self._queue, self._router, self._claim = settings, queue, router, claim
        self._signer = SeedSigner(os.urandom(32))
        self._held: list[Submission | Lost] = []
        self._losses: list[tuple[str, int, int, int, str]] = []
        self._no_room: str | None = None
        self._turns = 0
        self.counts = WriterCounts()
        self.has_ended = False  # its end is in the spool, and so is every loss
        self._lock: ProducerLock | None = None
        self._log: SpoolLog | None = None
        self._session: ProducerSession | None = None

    @property
    def producer(self) -> str:
        """Id under which this process records, once it is open."""
        return self._router.producer

    @property
    def session(self) -> ProducerSession:
        """The open epoch."""
        if self._session is None:
            raise ValueError("the spool is not open")
        return self._session

    @property
    def log(self) -> SpoolLog:
        """The log of the open epoch."""
        if self._log is None:
            raise ValueError("the spool is not open")
        return self._log

    @property
    def is_full(self) -> bool:
        """Whether the last turn found no room."""
        return self._no_room is not None

    @property
    def events_left(self) -> int:
        """Events that were taken from the queue and are neither recorded nor declared."""
        return sum(events_of(item) for item in self._held)

    def open(self) -> None:
        """Take name and epoch, begin the log, say ``producer_start``."""
        settings = self._settings
        make_folders_durably(settings.disk, settings.spool)
        if self._lock is None:
            self._lock = acquire_name(settings.disk, settings.spool, settings.base_producer)
            self._router.producer = self._lock.producer
            write_name(settings.disk, self._lock.folder, self._lock.producer)
        self._open_epoch([])

    def _open_epoch(self, previous_lanes: list[LaneView]) -> None:
        settings, lock = self._settings, self._lock
        if lock is None:
            raise ValueError("the spool has no name yet")
        epoch = take_epoch(settings.disk, settings.spool, lock.producer)
        known = previous_lanes or read_heads(settings.disk, lock.folder, epoch.previous)
        log = SpoolLog(
            settings.facts, epoch_folder(lock.folder, epoch.number), settings.disk, quota_bytes=settings.quota_bytes
        )
        session = ProducerSession(
            log,
            producer=lock.producer,
            epoch=epoch.number,
            signer=self._signer,
            batch_events=MAX_BATCH_EVENTS,
            now_us=settings.now_us,
        )
        session.start(
            software=settings.software,
            previous_epoch=epoch.previous,
            previous_lanes=known,
            purpose="train",
            run_id=settings.run_id,
        )
        session.cut()
        log.work()
        self._log, self._session = log, session

    def turn(self) -> None:
        """Record what the queue holds; durable when it returns, unless there is no room (``is_full``)."""
        self._turns += 1
        before, self._no_room = self._no_room, None
        try:
            if before is not None or self._turns % _MEASURE_EVERY_TURNS == 0:
                self.log.measure()
                self.log.work()
                self.session.cut()
            self._drain_held()
            self._held += self._queue.take()  # only now: what cannot be written yet must stay bounded
            self._drain_held()
            self._flush()
        except _NO_ROOM as error:
            self._no_room = before
            self._suffer(error)
            return
        if before is not None:
            self._queue.reason = "queue_full"
            logger.warning("spool of %s: writing again", self.producer)

    def _drain_held(self) -> None:
        while self._held:
            item = self._held[0]
            if isinstance(item, Lost):
                self._use_up(item)
            elif self.log.has_room(item.kind.stream, item.bytes_held):
                lost = self._record(item)
                if lost is not None:
                    self._held[0] = lost
                    continue
            elif item.kind.stream in _GRADIENTS:
                self._held[0] = Lost("spool_full", self._router.places(item))
                continue
            else:
                raise SpoolFullError("the spool's quota is used up")
            del self._held[0]
            if self.is_full:
                raise SpoolFullError("the last batch found no room")

    def _record(self, item: Submission) -> Lost | None:
        """Number the events of a call. Returns those that have to be declared instead."""
        claim = None
        oversize: Counter[Place] = Counter()
        try:
            if item.claim is not None and self._claim is not None:
                claim = item.claim()
            groups = self._encoded(item, oversize)
        except Exception as error:  # noqa: BLE001 - whatever a caller's values do, training and the other events go on
            level = logging.DEBUG if self.counts.lost["encode_failed"] else logging.ERROR  # once, not at every step
            logger.log(level, "%s events could not be encoded: %s", item.kind.name, type(error).__name__)
            return Lost("encode_failed", self._router.places(item))
        if claim is not None and self._claim is not None and not self._claim(claim):
            return None  # another rank recorded the same rows
        for partition, mine in groups:
            self._put(item, partition, mine)
            self.counts.recorded += len(mine)
        return Lost("oversize", oversize) if oversize else None

    def _encoded(self, item: Submission, oversize: Counter[Place]) -> list[tuple[int, list[bytes]]]:
        """Events by partition; those that fit into no batch are counted in ``oversize``."""
        events = item.encode()
        if len(events) != item.count:
            raise FormatError(f"{item.kind.name}: {len(events)} events for {item.count}")
        partitions = self._router.partitions(item)
        if isinstance(partitions, int):
            groups = [(partitions, events)]
        else:
            groups = [
                (one, list(compress(events, [each == one for each in partitions]))) for one in sorted(set(partitions))
            ]
        for at, (partition, mine) in enumerate(groups):
            if max(map(len, mine)) > MAX_BATCH_BYTES:
                small = [event for event in mine if len(event) <= MAX_BATCH_BYTES]
                oversize[item.kind.stream, partition] = len(mine) - len(small)
                groups[at] = (partition, small)
        return groups

    def _put(self, item: Submission, partition: int, events: list[bytes]) -> None:
        """Numbers are given even if cutting finds no room: the events wait in their lane then."""
        try:
            self.session.record(item.kind.stream, partition, item.kind, events)
        except _NO_ROOM as error:
            self._note_no_room(error)

    def _use_up(self, lost: Lost) -> None:
        """May be called again after an error: what was used up is taken from ``lost``."""
        for stream, partition in sorted(lost.counts):
            while (count := lost.counts[stream, partition]) > 0:
                step = min(count, MAX_LANE_SKIP)
                self._renew_if_worn(stream, partition)
                first = self.session.lane(stream, partition).skip(step)
                self._note_loss(stream, partition, first, step, lost.reason)
                lost.counts[stream, partition] -= step

    def _note_loss(self, stream: str, partition: int, first: int, count: int, reason: str) -> None:
        self.counts.lost[reason] += count
        for at, (known_stream, known_partition, start, so_far, why) in enumerate(self._losses):
            if (known_stream, known_partition, why) == (stream, partition, reason) and start + so_far == first:
                self._losses[at] = (stream, partition, start, so_far + count, reason)
                return
        self._losses.append((stream, partition, first, count, reason))

    def _renew_if_worn(self, stream: str, partition: int) -> None:
        """Begin a new epoch before a lane has more or longer gaps than the format allows."""
        lane = self.session.lane(stream, partition)
        is_long = lane.head - lane.written >= MAX_LANE_SKIP
        if lane.gaps < MAX_LANE_GAPS and not is_long:
            return
        self._flush()
        heads = [LaneView(one.stream, one.partition, one.epoch, one.head, True) for one in self.session.lanes.values()]
        self._end_epoch("interrupted")
        self._open_epoch(heads)

    def _flush(self) -> None:
        """Everything numbered becomes durable, losses are declared, heartbeats said."""
        self.session.cut()
        self._declare()
        self.session.beat_if_due()
        self.session.lifecycle.cut()
        self.log.work()

    def _declare(self) -> None:
        while self._losses:
            self.session.declare_loss(*self._losses[0])
            del self._losses[0]
        self.session.lifecycle.cut()

    def _suffer(self, error: Exception) -> None:
        """No room: keep what waits, give up gradients, declare that in the reserve."""
        self._note_no_room(error)
        try:
            self._held = [item for item in self._held if not self._gave_up(item)]
            for item in self._queue.take(_GRADIENTS):
                self._gave_up(item)
            for (stream, partition), lane in list(self.session.lanes.items()):
                if stream in _GRADIENTS and lane.waiting:
                    first, count = lane.drop_waiting()
                    self._note_loss(stream, partition, first, count, "spool_full")
            self._declare_in_reserve()
        except _NO_ROOM as again:
            logger.debug("the reserve is used up: %s", type(again).__name__)

    def _gave_up(self, item: Submission | Lost) -> bool:
        """Drop an item of the lowest class; a mark of others stays."""
        if isinstance(item, Submission):
            if item.kind.stream not in _GRADIENTS:
                return False
            item_lost = Lost("spool_full", self._router.places(item))
        elif all(place[0] in _GRADIENTS for place in item.counts):
            item_lost = item
        else:
            return False
        for (stream, partition), count in item_lost.counts.items():
            lane = self.session.lane(stream, partition)
            first, waiting = lane.drop_waiting()
            if waiting:
                self._note_loss(stream, partition, first, waiting, "spool_full")
            if lane.head - lane.written + count <= MAX_LANE_SKIP:
                self._note_loss(stream, partition, lane.skip(count), count, item_lost.reason)
            else:
                return False
        return True

    def _declare_in_reserve(self) -> None:
        if not self._losses:
            return
        with self.log.in_reserve():
            self._declare()
        self.log.work()

    def _note_no_room(self, error: Exception) -> None:
        if self._no_room is None:
            logger.warning("spool of %s: no room (%s); losses will be declared", self.producer, type(error).__name__)
        self._no_room = type(error).__name__
        self._queue.reason = "spool_full"

    def close(self, reason: EndReason) -> None:
        """Write what is left, say the end, let the name go; without room, declare what was lost, in the reserve."""
        try:
            self.turn()
            if self.is_full or self._held:
                self._give_up_everything()
            self._end_epoch(reason)
            self.has_ended = True
        except _NO_ROOM as error:
            logger.error("spool of %s: no room for its end (%s): the ledger will call it lost", self.producer, error)
        finally:
            if self._log is not None:
                self._log.close()
            self.abandon()

    def _give_up_everything(self) -> None:
        for stream, partition in list(self.session.lanes):
            lane = self.session.lane(stream, partition)
            if lane.waiting and stream != LIFECYCLE:
                first, count = lane.drop_waiting()
                self.counts.recorded -= count
                self._note_loss(stream, partition, first, count, "spool_full")
        with self.log.in_reserve():
            for item in [*self._held, *self._queue.take()]:
                lost = item if isinstance(item, Lost) else Lost("spool_full", self._router.places(item))
                for (stream, partition), count in lost.counts.items():
                    step = min(count, MAX_LANE_SKIP)  # no lane can jump further
                    first = self.session.lane(stream, partition).skip(step)
                    self._note_loss(stream, partition, first, step, lost.reason)
        self._held = []

    def _end_epoch(self, reason: EndReason) -> None:
        with self.log.in_reserve():
            self._declare()
            self.session.end(rows=self.counts.recorded, bad_rows=self.counts.lost.total(), reason=reason, is_final=True)
        self.log.work()
        self.log.close()

    def forget_files(self) -> None:
        """In a forked child: close the copies of the parent's files, which stay open there."""
        if self._log is not None:
            self._log.close()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the name and write no more."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._session = self._log = None
