"""The durable source log of one (stream, partition) in one-process mode.

Order is decided here once, made durable, and only then sealed
(``docs/format.md`` section 2): the same offsets, times and bytes that a Kafka
partition would hold, under a ``source_id`` of 16 random bytes. A record is::

    i64 ts_us | u8 1 and the value, or u8 0 (a null value)

What a value means is not known here.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import create_file_durably
from rlhf_audit_stores.recordlog import MAX_SEGMENT_BYTES, DamagedLogError, RecordLog

SOURCE_ID_BYTES = 16
_SOURCE_ID_FILE = "source.id"
_HEAD = struct.Struct(">qB")
_US_PER_MS = 1000  # a Kafka record's time has whole milliseconds, and both logs must seal to the same bytes


class SourceLog:
    """Messages of one partition in the order that was decided. One writer: the caller holds the folder's lock."""

    def __init__(self, source_id: bytes, log: RecordLog) -> None:
        """For ``open``."""
        self._source_id = source_id
        self._log = log

    @classmethod
    def open(cls, folder: Path, disk: Disk | None = None, *, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> Self:
        """Open the log in ``folder`` or begin one; cuts off what nobody acknowledged."""
        disk = RealDisk() if disk is None else disk
        log = RecordLog.open(folder, disk, max_segment_bytes=max_segment_bytes)
        return cls(_source_id(folder, disk, log), log)

    @property
    def source_id(self) -> bytes:
        """Names this log for good; another log never has the same."""
        return self._source_id

    @property
    def first_offset(self) -> int:
        """Offset of the oldest message kept."""
        return self._log.first_offset

    @property
    def next_offset(self) -> int:
        """Offset that the next message will get."""
        return self._log.next_offset

    @property
    def durable_offset(self) -> int:
        """Offset below which everything is durable."""
        return self._log.durable_offset

    def append(self, value: bytes | None, ts_us: int) -> int:
        """``append_many`` of one message; returns its offset."""
        return self.append_many([value], ts_us).start

    def append_many(self, values: Iterable[bytes | None], ts_us: int) -> range:
        """Append values of one time in order, in one write; durable only after ``sync``. Returns the offsets.

        Raises ValueError unless ``ts_us`` is whole milliseconds.
        """
        return self._log.append([_encode(value, ts_us) for value in values])

    def sync(self) -> None:
        """Returns only when everything appended is durable."""
        self._log.sync()

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        """Durable messages from ``offset`` on, in constant memory; the same bytes at every call."""
        for at, payload in self._log.read_from(offset):
            ts_us, has_value = _HEAD.unpack_from(payload)
            yield SourceMessage(at, ts_us, payload[_HEAD.size :] if has_value else None)

    def roll(self) -> None:
        """Begin a new segment, so that ``drop_before`` can delete what stands in the old one."""
        self._log.roll()

    def drop_before(self, offset: int) -> None:
        """Delete the segments that lie wholly below ``offset``."""
        self._log.drop_before(offset)

    def close(self) -> None:
        """Close without syncing."""
        self._log.close()


def _encode(value: bytes | None, ts_us: int) -> bytes:
    if ts_us % _US_PER_MS:
        raise ValueError(f"a source log keeps whole milliseconds, not {ts_us} us")
    if value is None:
        return _HEAD.pack(ts_us, 0)
    return _HEAD.pack(ts_us, 1) + value


def _source_id(folder: Path, disk: Disk, log: RecordLog) -> bytes:
    """The stored id. A log that holds messages and lost its id is another log to everybody: refused."""
    path = folder / _SOURCE_ID_FILE
    if not disk.exists(path):
        if log.next_offset > 0:
            raise DamagedLogError(path, 0, "the log holds messages but its id is missing")
        create_file_durably(disk, path, secrets.token_hex(SOURCE_ID_BYTES).encode() + b"\n")
    text = disk.read(path)
    try:
        source_id = bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise DamagedLogError(path, 0, "this is not a source id in hex") from error
    if len(source_id) != SOURCE_ID_BYTES:
        raise DamagedLogError(path, 0, f"a source id has {SOURCE_ID_BYTES} bytes, not {len(source_id)}")
    return source_id
