"""The local log of sealed records of one (stream, partition), numbered by m from 1.

Payloads are opaque; that they continue the chain is checked by whoever reads
them back. The counterpart on Kafka is the partition of ``audit.sealed.*``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.recordlog import MAX_SEGMENT_BYTES, RecordLog

_FIRST_M = 1  # m counts sealed records from 1 (format, section 4)


class SealedLog:
    """Sealed records in order. One writer: the caller holds the folder's lock."""

    def __init__(self, log: RecordLog) -> None:
        """For ``open``."""
        self._log = log

    @classmethod
    def open(cls, folder: Path, disk: Disk | None = None, *, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> Self:
        """Open the log in ``folder`` or begin one at m = 1; cuts off what nobody acknowledged."""
        return cls(RecordLog.open(folder, disk, max_segment_bytes=max_segment_bytes, first_offset=_FIRST_M))

    @property
    def first_m(self) -> int:
        """m of the oldest record kept."""
        return self._log.first_offset

    @property
    def next_m(self) -> int:
        """m that the next record will get."""
        return self._log.next_offset

    @property
    def durable_m(self) -> int:
        """m below which every record is durable."""
        return self._log.durable_offset

    def append(self, records: Sequence[bytes]) -> range:
        """Append in order, in one write; durable only after ``sync``. Returns the numbers m."""
        return self._log.append(records)

    def sync(self) -> None:
        """Returns only when everything appended is durable."""
        self._log.sync()

    def read_from(self, m: int) -> Iterator[tuple[int, bytes]]:
        """Durable records from m on, in constant memory."""
        return self._log.read_from(m)

    def roll(self) -> None:
        """Begin a new segment, so that ``drop_before`` can delete what stands in the old one."""
        self._log.roll()

    def drop_before(self, m: int) -> None:
        """Delete the segments that lie wholly below m."""
        self._log.drop_before(m)

    def restart_at(self, m: int) -> None:
        """Drop everything and go on at m: for a log that lags behind what the object store holds."""
        self._log.restart_at(m)

    def close(self) -> None:
        """Close without syncing."""
        self._log.close()
