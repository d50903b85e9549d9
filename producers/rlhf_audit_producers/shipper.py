"""The shipper: drains every spool of a node to the brokers, one lane to one partition, and deletes what they hold.

One per directory (``spool_lock``). A turn:

1. read what is new in every spool, each producer's epochs in ascending order:
   one queue per partition keeps that order on the way;
2. hand over, take in acknowledgements (``shipper_queue``);
3. a few times a second note durably how far each spool is acknowledged, then
   delete the segments below;
4. where a producer has gone (its lock is free) and its spool is acknowledged to
   the end: if it said no end, say ``producer_lost`` for it, through a spool of
   its own; then note the epoch as done.

Killed at any moment, the next shipper sends again what lies behind the last
durable position. A repeat is byte for byte the same, and the sealer knows it.
Nothing is deleted that was not acknowledged by all in-sync replicas.

Training never waits for any of this: while brokers are away the spools grow to
their quota. What a batch says is not known here, only whose it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rlhf_audit_ledger.batch import batch_head
from rlhf_audit_producers.batches import LIFECYCLE, ProducerSession
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_producers.refused_batches import REFUSED_FOLDER
from rlhf_audit_producers.shipper_positions import Positions, Shipped
from rlhf_audit_producers.shipper_queue import Parcel, ShipQueue
from rlhf_audit_producers.spool_files import SpoolRef, done_epoch, is_alive, producers, write_heads
from rlhf_audit_producers.spool_following import SpoolFollower, SpoolItem, remove_spool
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_producers.spool_notices import say_lost, write_notice
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import Disk, DiskFullError
from rlhf_audit_stores.durable import AlreadyStoredError, create_file_durably, sweep
from rlhf_audit_stores.kafka.wire import strip_header

logger = logging.getLogger(__name__)

NOTICE_PREFIX: Final = "shipper"
READ_BYTES: Final = 4 << 20  # of one spool, before the next one has its turn
SAVE_EVERY_S: Final = 0.25
_FAULT: Final = KINDS["fault"]
MAX_UNDERWAY: Final = 200_000  # of one spool, acknowledged ones behind an open one included: some 40 MB


class _Source:
    """One spool on its way: what was read, and how far from the front that is settled."""

    def __init__(self, ref: SpoolRef, follower: SpoolFollower, shipped: Shipped) -> None:
        self.ref, self.follower = ref, follower
        self.spool_id = ref.spool_id  # a hash, once
        self.offset = shipped.offset
        self.lanes = dict(shipped.lanes)
        self.underway: deque[Parcel] = deque()
        self.reason: str | None = None  # why it ends, once its writer has gone and all was read

    def advance(self) -> bool:
        """Take in what is settled. Returns whether the position moved."""
        before, underway = self.offset, self.underway
        while underway and underway[0].is_settled:
            parcel = underway.popleft()
            self.offset = parcel.offset + 1
            if parcel.head is not None and not parcel.is_refused:  # a lane is as far as brokers have it
                self.lanes[parcel.head.stream, parcel.head.partition] = parcel.head
        return self.offset != before

    @property
    def has_said_its_end(self) -> bool:
        """A lifecycle lane ends with the batch behind ``producer_end``."""
        return any(view.ended for (stream, _), view in self.lanes.items() if stream == LIFECYCLE)


@dataclass(frozen=True, slots=True)
class Left:
    """What of one spool is not acknowledged."""

    producer: str
    epoch: int
    records: int
    is_read_to_its_end: bool


class Shipper:
    """The turns. Used by one thread, which holds the right to drain."""

    def __init__(
        self,
        spool: Path,
        facts: LedgerFacts,
        disk: Disk,
        make_queue: Callable[[Callable[[Parcel], None]], ShipQueue],
        *,
        with_header: Callable[[bytes], bytes],
        software: str,
        now_us: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        """``make_queue`` gets what to do with a record that the brokers refuse for its size."""
        self._spool, self._facts, self._disk = spool, facts, disk
        self._with_header, self._software = with_header, software
        self._now_us, self._clock = now_us, clock
        self.queue = make_queue(self._put_aside)
        if disk.exists(spool / REFUSED_FOLDER):  # nobody else writes there; ranks write into the spool's own folder
            sweep(disk, spool / REFUSED_FOLDER)
        self._positions = Positions(disk, spool)
        self._sources: dict[bytes, _Source] = {}
        self._done: dict[Path, int] = {}
        self._saved_at = clock()
        self._is_draining = False
        self._read_out: set[bytes] = set()

    def turn(self, wait_s: float = 0.0) -> bool:
        """Returns whether anything is left to do, or somebody still records."""
        is_busy = False
        found = list(producers(self._disk, self._spool))
        for folder, refs in found:
            is_busy |= self._read(folder, refs)
        self.queue.work(wait_s)
        if self._clock() - self._saved_at >= SAVE_EVERY_S:
            self._settle(found)
        return is_busy or self.queue.records > 0 or not self._is_saved

    def begin_drain(self) -> None:
        """From now on read every spool to where it ends, and no further."""
        self._is_draining = True

    @property
    def is_drained(self) -> bool:
        """After ``begin_drain``: whether everything that was there is acknowledged, and that is durable."""
        if self.queue.records or not self._is_saved:
            return False
        return all(
            ref.epoch <= self._done_epoch(folder) or self._is_read_out(ref.spool_id)
            for folder, refs in producers(self._disk, self._spool)
            for ref in refs
        )

    def _is_read_out(self, spool_id: bytes) -> bool:
        """Of one that still records; where the writer has gone, the spool must be done."""
        return spool_id in self._read_out and self._sources[spool_id].reason is None

    def left(self) -> list[Left]:
        """Spools with records that are not acknowledged."""
        found = []
        for folder, refs in producers(self._disk, self._spool):
            for ref in refs:
                if ref.epoch <= self._done_epoch(folder):
                    continue
                source = self._sources.get(ref.spool_id)
                records = 0 if source is None else sum(not one.is_settled for one in source.underway)
                is_read = source is not None and (source.follower.is_exhausted or ref.spool_id in self._read_out)
                if records or not is_read:
                    found.append(Left(ref.producer, ref.epoch, records, is_read))
        return found

    def close(self) -> None:
        """Let the client go; what is acknowledged by now is noted durably."""
        self.queue.abandon()
        self._settle(list(producers(self._disk, self._spool)))

    @property
    def oldest_read_at(self) -> float | None:
        """When the oldest record that is not acknowledged was read; None without one."""
        fronts = [source.underway[0].read_at for source in self._sources.values() if source.underway]
        return min(fronts, default=None)

    # Reading.

    def _read(self, folder: Path, refs: Sequence[SpoolRef]) -> bool:
        alive = is_alive(folder)  # before reading: what a dead process wrote is all there
        for at, ref in enumerate(refs):
            if ref.epoch <= self._done_epoch(folder):
                self._forget(ref)
                continue
            source = self._source(ref)
            if source.reason is None:
                is_open = alive and at == len(refs) - 1
                if not self._reads_to_its_end(source, is_open) or is_open:
                    return True
                source.reason = source.follower.why_it_ends()
        return alive or any(ref.epoch > self._done_epoch(folder) for ref in refs)

    def _reads_to_its_end(self, source: _Source, is_open: bool) -> bool:
        """Read on. Returns whether a look just now found nothing more; not having looked is no such thing."""
        spool_id = source.spool_id
        if spool_id in self._read_out or not self.queue.has_room or len(source.underway) >= MAX_UNDERWAY:
            return False
        now = self._clock()
        read_bytes = 0
        for item in source.follower.read(READ_BYTES):
            parcel = self._parcel(source, item, now)
            source.underway.append(parcel)
            self.queue.put(parcel)
            read_bytes += len(item.value)
        is_exhausted = source.follower.is_exhausted
        if self._is_draining and (is_exhausted or (is_open and read_bytes < READ_BYTES)):
            self._read_out.add(spool_id)  # a rank that goes on recording must not keep us for ever
        return is_exhausted

    def _parcel(self, source: _Source, item: SpoolItem, now: float) -> Parcel:
        if not item.is_addressed:
            return Parcel(source.spool_id, item.offset, item.place, item.value, None, now)
        head = _head_of(item, source.ref.epoch)
        return Parcel(source.spool_id, item.offset, item.place, self._with_header(item.value), head, now)

    def _source(self, ref: SpoolRef) -> _Source:
        source = self._sources.get(ref.spool_id)
        if source is None:
            shipped = self._positions.of(ref.spool_id)
            follower = SpoolFollower(ref, self._facts.partitions, self._disk, offset=shipped.offset)
            source = self._sources[ref.spool_id] = _Source(ref, follower, shipped)
        return source

    # Settling.

    @property
    def _is_saved(self) -> bool:
        fronts = (source.underway for source in self._sources.values())
        return not self._positions.is_dirty and not any(front and front[0].is_settled for front in fronts)

    def _settle(self, found: Sequence[tuple[Path, Sequence[SpoolRef]]]) -> None:
        self._saved_at = self._clock()
        moved = [source for source in self._sources.values() if source.advance()]
        for source in moved:
            self._positions.note(source.spool_id, Shipped(source.offset, dict(source.lanes)))
        try:
            self._positions.save()
            for folder, refs in found:
                self._finish(folder, refs)
            self._positions.save()
        except DiskFullError as error:
            logger.error("%s", error)  # deleting what is acknowledged makes room; a lost position costs repeats only
        for source in moved:
            source.follower.release(source.offset, is_done=False)

    def _finish(self, folder: Path, refs: Sequence[SpoolRef]) -> None:
        """Note as done what is acknowledged to its end, epoch after epoch."""
        for ref in refs:
            if ref.epoch <= self._done_epoch(folder):
                continue
            source = self._sources.get(ref.spool_id)
            if source is None or source.reason is None or source.underway:
                return
            if not source.has_said_its_end:
                self._say_lost(source, source.reason)
            write_heads(self._disk, folder, ref.epoch, list(source.lanes.values()))
            self._done[folder] = ref.epoch
            self._forget(ref)

    def _forget(self, ref: SpoolRef) -> None:
        remove_spool(self._disk, ref)
        self._sources.pop(ref.spool_id, None)
        self._positions.forget(ref.spool_id)

    def _done_epoch(self, folder: Path) -> int:
        if folder not in self._done:
            self._done[folder] = done_epoch(self._disk, folder)
        return self._done[folder]

    # What it has to say itself.

    def _say_lost(self, source: _Source, reason: str) -> None:
        ref = source.ref
        lanes = [source.lanes[place] for place in sorted(source.lanes)]
        if self._notice(ref.spool_id.hex(), partial(say_lost, ref=ref, lanes=lanes, reason=reason)):
            logger.warning("producer %s epoch %d is lost: %s", ref.producer, ref.epoch, reason)

    def _put_aside(self, parcel: Parcel) -> None:
        """Keep the bytes of a record that no broker takes, and say so in the ledger; both durable when it returns."""
        name = f"{parcel.spool_id.hex()}-{parcel.offset}"
        path = self._spool / REFUSED_FOLDER / name
        value = strip_header(parcel.value)
        digest = hashlib.sha256(value).digest()
        producer = self._sources[parcel.spool_id].ref.producer
        with suppress(AlreadyStoredError):  # a shipper died between this and the next durable position
            create_file_durably(self._disk, path, value)

        def say(session: ProducerSession) -> None:
            fault = {
                "salt": os.urandom(16),
                "ts_us": self._now_us(),
                "producer": producer,
                "input_sha256": None,
                "input_line": None,
                "reason": "a batch was larger than the brokers take: kept in the node's spool/refused",
                "row_sha256": digest,
                "row_bytes": len(value),
            }
            session.record_lifecycle(_FAULT, [_FAULT.codec.encode(fault)])

        self._notice(f"{parcel.spool_id.hex()}/{parcel.offset}", say)
        logger.error(
            "producer %s: a batch of %d bytes is larger than the brokers take; its lane goes on without it, its bytes "
            "are kept as %s: raise max.message.bytes of the topic (`rlhf-audit topics check`)",
            producer,
            len(value),
            path,
        )

    def _notice(self, name: str, say: Callable[[ProducerSession], None]) -> bool:
        return write_notice(
            self._disk,
            self._spool,
            self._facts,
            f"{NOTICE_PREFIX}/{name}",
            say,
            software=self._software,
            now_us=self._now_us,
        )


def _head_of(item: SpoolItem, epoch: int) -> LaneView | None:
    """Head of the lane behind this batch; None where the value is no batch of that partition."""
    try:
        head = batch_head(item.value)
    except FormatError:
        return None
    if (head.stream, head.partition) != item.place or head.epoch != epoch:
        return None
    return LaneView(head.stream, head.partition, epoch, head.first_seq + head.count, head.final)
