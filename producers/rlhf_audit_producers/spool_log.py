"""The recorder behind which a spool lies: batches go into one record log, in the order in which they are cut.

Keeps three promises that the lanes above rely on:

1. after an error nothing of an ``append`` is in the log, and the lane may try again;
2. a batch that was appended stays: if a sync fails, ``recover`` appends the
   very same bytes under the same offsets, because somebody may have read them;
3. ``in_reserve`` writes into room that was kept free while there was some, so
   that a full disk or quota still takes the declaration of what was lost.

It knows bytes and quotas, no events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_producers.recorder import EventCounts, LaneView
from rlhf_audit_producers.spool_files import pack_spool_record
from rlhf_audit_schemas.errors import AuditTrailError, TransportError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.epochs import Epoch
from rlhf_audit_stores.recordlog import RecordLog, record_bytes, segment_offsets, segment_path

SEGMENT_BYTES = 8 << 20  # what is stored leaves the disk segment by segment
RESERVE_BYTES = 256 << 10  # some hundred declarations of losses, and the end of every lane
_SHARES = {"gradients": 0.80, "annotations": 0.95, "lifecycle": 1.0}  # of the quota: the lowest class stops first


class SpoolFullError(TransportError):
    """The quota of the spool is used up; the same call works again once something was stored and deleted."""


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What a recording process has to know of its ledger. The routing key is secret."""

    ledger_id: bytes
    routing_key: bytes
    partitions: Mapping[str, int]

    def __repr__(self) -> str:
        return f"LedgerFacts(ledger_id={self.ledger_id.hex()})"


class SpoolLog:
    """Implements ``Recorder`` as far as one epoch of one producer needs it. Used by one thread."""

    def __init__(self, facts: LedgerFacts, folder: Path, disk: Disk, *, quota_bytes: int) -> None:
        self._facts, self._folder, self._disk, self._quota = facts, folder, disk, quota_bytes
        self._log = RecordLog.open(folder, disk, max_segment_bytes=SEGMENT_BYTES)
        self._unsynced: list[bytes] = []
        self._first_unsynced = self._log.next_offset
        self._in_reserve = False
        self._is_broken = False
        self._used = 0
        self._appended = 0
        self.measure()

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

    @property
    def records(self) -> int:
        """Records appended so far."""
        return self._log.next_offset

    def measure(self) -> int:
        """Bytes that the spool holds on disk; others delete what is stored."""
        used = 0
        for first in segment_offsets(self._disk, self._folder):
            with suppress(FileNotFoundError):  # deleted since it was listed
                used += self._disk.size(segment_path(self._folder, first))
        self._used = used
        return used

    def has_room(self, stream: str, more_bytes: int = 0) -> bool:
        """Whether the quota lets this stream write."""
        return self._used + more_bytes <= self._quota * _SHARES.get(stream, 1.0)

    @contextmanager
    def in_reserve(self) -> Iterator[None]:
        """What is appended inside may use the reserve."""
        self._in_reserve = True
        try:
            yield
        finally:
            self._in_reserve = False

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        """Append batches. Raises SpoolFullError or DiskFullError; then none of them is in the log."""
        records = [pack_spool_record(stream, partition, value) for value in values]
        if self._is_broken:
            raise SpoolFullError(f"{self._folder}: an earlier write is not durable yet")
        size = record_bytes(records)
        if self._in_reserve:
            self._log.append(records, may_roll=False)
        else:
            if not self.has_room(stream, size):
                raise SpoolFullError(f"{self._folder}: {self._used} bytes used of a quota of {self._quota}")
            self._reserve(size)
            self._log.append(records)
        self._unsynced += records
        self._used += size
        self._appended += len(records)

    def _reserve(self, size: int) -> None:
        """Room for these records and, behind them, the reserve."""
        self._log.reserve(size + RESERVE_BYTES)

    def work(self) -> None:
        """Make everything appended durable."""
        if self._is_broken:
            self.recover()
        if not self._unsynced:
            return
        try:
            self._log.sync()
        except (OSError, AuditTrailError):
            self._is_broken = True
            raise
        self._settle()

    def recover(self) -> None:
        """After a failed sync: open again and append once more what may be gone."""
        self._log.close()
        self._log = RecordLog.open(self._folder, self._disk, max_segment_bytes=SEGMENT_BYTES)
        missing = self._unsynced[self._log.next_offset - self._first_unsynced :]
        self._log.append(missing, may_roll=False)
        self._is_broken = False

    def _settle(self) -> None:
        self._unsynced.clear()
        self._first_unsynced = self._log.next_offset

    def close(self) -> None:
        """Close the file; no syncing."""
        self._log.close()

    # A spool is written, not asked: order, sealing and storing are the runtime's.

    def drain(self) -> None:
        """Durable here; sealed and stored later by whoever reads the spool."""
        self.work()

    def take_epoch(self, producer: str) -> Epoch:
        raise NotImplementedError("the epoch of a spool is taken before it is opened")

    def last_epoch(self, producer: str) -> int | None:
        raise NotImplementedError("the epoch of a spool is taken before it is opened")

    def lanes_of(self, producer: str) -> Sequence[LaneView]:
        raise NotImplementedError("sealed lanes are the runtime's")

    def delivered(self, producer: str) -> EventCounts:
        raise NotImplementedError("sealed events are the runtime's")
