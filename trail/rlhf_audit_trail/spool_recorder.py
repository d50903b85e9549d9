"""``Recorder`` for programs whose ledger is sealed elsewhere: into a spool, by the shipper to Kafka.

What a local trail answers from its sealed state is answered from the stored
windows here: where an earlier run of the same producer was cut short, first all
that it recorded has to be shipped, sealed and stored, and then is counted.

``drain`` returns when the brokers have acknowledged everything and it is
stored; if nothing is stored for a while, it says so and returns: from the
acknowledgement on it is in the hands of sealers and sinks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rlhf_audit_producers.recorder import EventCounts, LaneView
from rlhf_audit_producers.refused_batches import REFUSED_FOLDER, refused_batches
from rlhf_audit_producers.spool_files import (
    ProducerLock,
    acquire_name,
    done_epoch,
    epoch_folder,
    producers,
    read_heads,
    write_name,
)
from rlhf_audit_producers.spool_log import LedgerFacts, SpoolFullError, SpoolLog
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
from rlhf_audit_stores.disk import Disk, DiskFullError
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_stores.epochs import Epoch, last_epoch, producer_folder_name, take_epoch
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_trail.counting import counted
from rlhf_audit_trail.stored_lanes import StoredLanes

logger = logging.getLogger(__name__)

QUOTA_BYTES = 1 << 30  # what a file is ahead of its shipping; reading waits beyond
_LOOK_AGAIN_S = 0.1
_LOOK_AFTER_SHIPPER_S = 2.0
_PATIENCE_S = 120.0


class SpoolRecorder:
    """One producer at a time. A context manager; ``ensure_shipper`` starts a shipper if none runs."""

    def __init__(
        self,
        directory: Path,
        facts: LedgerFacts,
        objects: ObjectStore,
        disk: Disk,
        *,
        ensure_shipper: Callable[[], object],
        say: Callable[[str], None],
        quota_bytes: int = QUOTA_BYTES,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._spool = directory / "spool"
        self._facts, self._objects, self._disk = facts, objects, disk
        self._ensure_shipper, self._say = ensure_shipper, say
        self._quota_bytes, self._patience_s = quota_bytes, patience_s
        self._lock: ProducerLock | None = None
        self._log: SpoolLog | None = None
        self._stored: StoredLanes | None = None
        self._look_after_shipper_at = 0.0
        make_folders_durably(disk, self._spool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def ledger_id(self) -> bytes:
        """16 bytes."""
        return self._facts.ledger_id

    @property
    def routing_key(self) -> bytes:
        """Secret that routes annotators to partitions."""
        return self._facts.routing_key

    @property
    def partitions(self) -> Mapping[str, int]:
        """Stream -> P."""
        return self._facts.partitions

    def last_epoch(self, producer: str) -> int | None:
        """Highest epoch the producer ever took here, None if it is new."""
        return last_epoch(self._disk, self._spool, producer)

    def take_epoch(self, producer: str) -> Epoch:
        """Take name and epoch. Raises ConfigError if another process records under this name at the moment."""
        self._close()
        lock = acquire_name(self._disk, self._spool, producer)
        if lock.producer != producer:
            lock.release()
            raise ConfigError(f"{producer}: another process ingests this very file at the moment")
        self._lock = lock
        write_name(self._disk, lock.folder, producer)
        epoch = take_epoch(self._disk, self._spool, producer)
        if self._stored is None or self._stored.producer != producer:
            self._stored = StoredLanes(self._objects, self._facts.partitions, producer)
            self._stored.skip_stored()
        folder = epoch_folder(lock.folder, epoch.number)
        self._log = SpoolLog(self._facts, folder, self._disk, quota_bytes=self._quota_bytes)
        return epoch

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        """Append in order; waits while the spool has no room."""
        log = self._opened()
        is_told = False
        while True:
            try:
                log.append(stream, partition, values)
            except (SpoolFullError, DiskFullError) as error:
                if not is_told:
                    self._say(f"waiting for the shipper: {error}")
                is_told = True
                self.work()
                time.sleep(_LOOK_AGAIN_S)
                log.measure()
                continue
            return

    def work(self) -> None:
        """Make everything appended durable, and see to it that somebody ships it."""
        self._opened().work()
        self._look_after_shipper()

    def drain(self) -> None:
        """Hand everything over and wait until it is stored; nothing to do where nothing is open."""
        if self._log is None or self._lock is None:
            return
        self._log.work()
        producer, stored = self._lock.producer, self._stored
        self._close()
        self._wait_until_shipped(producer)
        heads = self._heads_of(producer)
        self._check_refused(producer)
        if stored is None:
            return
        deadline = time.monotonic() + self._patience_s
        while not self._is_stored(stored, heads):
            if time.monotonic() >= deadline:
                self._say(
                    "everything is acknowledged by the brokers, and not all of it stored yet: do `rlhf-audit seal`, "
                    "`sink objects` and `sequence` run?"
                )
                return
            time.sleep(_LOOK_AGAIN_S)

    def lanes_of(self, producer: str) -> Sequence[LaneView]:
        """Newest lane in each partition, once all that it recorded before is stored. Raises CouldNotCheckError."""
        return self._all_stored_of(producer).lanes

    def delivered(self, producer: str) -> EventCounts:
        """Stored events of the producer over all epochs, once all that it recorded is stored."""
        return self._all_stored_of(producer).counts

    def _all_stored_of(self, producer: str) -> StoredLanes:
        self._wait_until_shipped(producer)
        self._check_refused(producer)
        heads = self._heads_of(producer)
        if self._stored is None or self._stored.producer != producer:
            self._stored = StoredLanes(self._objects, self._facts.partitions, producer)
        deadline = time.monotonic() + self._patience_s
        while True:
            self._stored.look()
            if _reach(self._stored.lanes, heads):
                return self._stored
            if time.monotonic() >= deadline:
                raise CouldNotCheckError(
                    f"{producer}: what an earlier ingest recorded is not all stored yet: do `rlhf-audit seal` and "
                    "`sink objects` run? Nothing was read; try again"
                )
            time.sleep(_LOOK_AGAIN_S)

    def _check_refused(self, producer: str) -> None:
        """What was stored of a producer tells which rows are there only if no batch of it was refused."""
        kept = sum(one.head.producer == producer for one in refused_batches(self._disk, self._spool))
        if kept:
            raise CouldNotCheckError(
                f"{producer}: {counted(kept, 'record')} of batches larger than the brokers take: not in the ledger, "
                f"kept in {self._spool / REFUSED_FOLDER}. Raise max.message.bytes of the topic (`rlhf-audit topics "
                f"check`), then `rlhf-audit spool resend {self._spool.parent}`"
            )

    def _heads_of(self, producer: str) -> list[LaneView]:
        """How far the brokers have its last epoch."""
        folder = self._spool / "producers" / producer_folder_name(producer)
        return read_heads(self._disk, folder, done_epoch(self._disk, folder))

    @staticmethod
    def _is_stored(stored: StoredLanes, heads: Sequence[LaneView]) -> bool:
        stored.look()
        return _reach(stored.lanes, heads)

    def _wait_until_shipped(self, producer: str) -> None:
        folder = self._spool / "producers" / producer_folder_name(producer)
        is_told, told_at = False, time.monotonic() + _LOOK_AFTER_SHIPPER_S
        while not self._is_shipped(folder):
            self._look_after_shipper()
            if not is_told and time.monotonic() >= told_at:
                self._say("waiting until the brokers have everything (spool/runtime.log tells how shipping goes)")
                is_told = True
            time.sleep(_LOOK_AGAIN_S)

    def _is_shipped(self, folder: Path) -> bool:
        done = done_epoch(self._disk, folder)
        for found, refs in producers(self._disk, self._spool):
            if found == folder:
                return all(ref.epoch <= done for ref in refs)
        return True

    def _look_after_shipper(self) -> None:
        now = time.monotonic()
        if now >= self._look_after_shipper_at:
            self._look_after_shipper_at = now + _LOOK_AFTER_SHIPPER_S
            self._ensure_shipper()

    def _opened(self) -> SpoolLog:
        if self._log is None:
            raise ValueError("no epoch was taken")
        return self._log

    def _close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _reach(lanes: Iterable[LaneView], heads: Iterable[LaneView]) -> bool:
    """Whether stored lanes are as far as the heads that were shipped, ends included."""
    stored = {(lane.stream, lane.partition, lane.epoch): (lane.next_seq, lane.ended) for lane in lanes}
    return all(
        stored.get((head.stream, head.partition, head.epoch), (0, False)) >= (head.next_seq, head.ended)
        for head in heads
    )
