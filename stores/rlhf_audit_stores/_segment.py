"""One segment file of a record log: its bytes, reading it, and judging damage. See ``recordlog``."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from rlhf_audit_schemas.errors import TamperError
from rlhf_audit_stores.disk import Disk

MAGIC = b"rlhflog1"
_HEAD = struct.Struct(">8sQ8sI")
_RECORD = struct.Struct(">8sQQIII")
_RECORD_FIELDS = struct.Struct(">8sQQII")  # the record header without its own CRC
HEAD_BYTES = _HEAD.size
RECORD_HEAD_BYTES = _RECORD.size
MARK_BYTES = 8
MAX_RECORD_BYTES = 2**32 - 1
_READ_BYTES = 1 << 20
_SECTOR_BYTES = 512  # the smallest unit that a disk loses
_INDEX_BYTES = 256 << 10  # one remembered position per so many bytes: a look-up reads no more than that in vain


class DamagedLogError(TamperError):
    """A local log holds bytes that were not written there by us."""

    def __init__(self, path: Path, position: int, reason: str) -> None:
        super().__init__(f"{path} byte {position}: {reason}")
        self.path, self.position = path, position


@dataclass(frozen=True, slots=True)
class Record:
    """A record with the position of its header; ``durable`` as in ``recordlog``."""

    offset: int
    durable: int
    position: int
    payload: bytes

    @property
    def end(self) -> int:
        """Position of the next record."""
        return self.position + RECORD_HEAD_BYTES + len(self.payload)


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a segment stops being readable; ``offset`` is that of the record that should stand there."""

    position: int
    offset: int
    reason: str


def new_head(first_offset: int, mark: bytes) -> bytes:
    """The bytes of a segment without records."""
    fields = struct.pack(">8sQ8s", MAGIC, first_offset, mark)
    return fields + struct.pack(">I", crc32(fields))


def pack_record(mark: bytes, offset: int, durable: int, payload: bytes) -> bytes:
    """The header of a record; its payload follows."""
    fields = _RECORD_FIELDS.pack(mark, offset, durable, len(payload), crc32(payload))
    return fields + struct.pack(">I", crc32(fields))


@dataclass(slots=True)
class Segment:
    """A segment file; ``index`` holds the positions of some offsets and grows as the file is written or read."""

    disk: Disk
    path: Path
    first_offset: int
    mark: bytes
    index: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def open(cls, disk: Disk, path: Path, first_offset: int) -> Segment:
        """Read the head. Raises DamagedLogError if it is not that of this segment."""
        head = disk.read_range(path, 0, HEAD_BYTES)
        if len(head) == HEAD_BYTES:
            magic, offset, mark, _ = _HEAD.unpack(head)
            if magic == MAGIC and offset == first_offset and head == new_head(offset, mark):
                return cls(disk, path, first_offset, mark)
        raise DamagedLogError(path, 0, "this is not the head of the segment")

    def note(self, offset: int, position: int) -> None:
        """Remember where a record begins, if that is far enough from the last one remembered."""
        if position - (self.index[-1][1] if self.index else 0) >= _INDEX_BYTES:
            self.index.append((offset, position))

    def forget_from(self, position: int) -> None:
        """Forget what lay at ``position`` and behind it: it was cut off."""
        while self.index and self.index[-1][1] >= position:
            self.index.pop()

    def records(self, offset: int, limit: int | None = None) -> Iterator[Record | Damage]:
        """Records from ``offset`` on, up to position ``limit``; the last item is a Damage if one ends the reading."""
        expected, position = self.first_offset, HEAD_BYTES
        if at := bisect_right(self.index, offset, key=lambda entry: entry[0]):
            expected, position = self.index[at - 1]
        for item in self.records_at(expected, position, limit):
            if isinstance(item, Damage) or item.offset >= offset:
                yield item

    def records_at(self, expected: int, position: int, limit: int | None = None) -> Iterator[Record | Damage]:
        """``records`` from the record ``expected``, whose header stands at ``position``."""
        buffer, start = b"", position
        while limit is None or position < limit:
            at = position - start
            if len(buffer) - at < RECORD_HEAD_BYTES:
                buffer, start, at = self._read(position, RECORD_HEAD_BYTES), position, 0
                if not buffer:
                    return
            header = buffer[at : at + RECORD_HEAD_BYTES]
            length = self._length(header, expected)
            if isinstance(length, str):
                yield Damage(position, expected, length)
                return
            if len(buffer) - at < RECORD_HEAD_BYTES + length:
                buffer, start, at = self._read(position, RECORD_HEAD_BYTES + length), position, 0
            payload = buffer[at + RECORD_HEAD_BYTES : at + RECORD_HEAD_BYTES + length]
            _, _, durable, _, crc, _ = _RECORD.unpack(header)
            if len(payload) < length:
                yield Damage(position, expected, "the file ends inside a record")
                return
            if crc32(payload) != crc:
                yield Damage(position, expected, "the checksum of a record does not hold")
                return
            self.note(expected, position)
            yield Record(expected, durable, position, payload)
            expected += 1
            position += RECORD_HEAD_BYTES + length

    def is_torn(self, damage: Damage) -> bool:
        """Whether damage in the last segment is a write that nobody acknowledged (rules 1 to 3 of ``recordlog``)."""
        size = self.disk.size(self.path)
        tail = self.disk.read_range(self.path, damage.position, size - damage.position)
        later = list(self._later_records(tail))
        if any(durable > damage.offset for _, durable in later):
            return False
        if not later and self._ends_inside(tail, damage.offset):
            return True
        torn = tail[: later[0][0]] if later else tail
        return _has_lost_sector(torn, damage.position)

    def _later_records(self, tail: bytes) -> Iterator[tuple[int, int]]:
        """Position in ``tail`` and ``durable`` of every record header behind its first byte."""
        at = tail.find(self.mark, 1)
        while at >= 0:
            header = tail[at : at + RECORD_HEAD_BYTES]
            if _is_record_head(header):
                yield at, _RECORD.unpack(header)[2]
            at = tail.find(self.mark, at + 1)

    def _ends_inside(self, tail: bytes, offset: int) -> bool:
        if len(tail) < RECORD_HEAD_BYTES:
            return True
        length = self._length(tail[:RECORD_HEAD_BYTES], offset)
        return isinstance(length, int) and len(tail) < RECORD_HEAD_BYTES + length

    def _length(self, header: bytes, expected: int) -> int | str:
        """Length of the payload that follows, or what is wrong with the header."""
        if len(header) < RECORD_HEAD_BYTES:
            return "the file ends inside the header of a record"
        if not _is_record_head(header):
            return "this is not the header of a record"
        mark, offset, _, length, _, _ = _RECORD.unpack(header)
        if mark != self.mark or offset != expected:
            return f"expected record {expected} of this segment, found record {offset}"
        return int(length)

    def _read(self, position: int, least: int) -> bytes:
        return self.disk.read_range(self.path, position, max(least, _READ_BYTES))


def _is_record_head(header: bytes) -> bool:
    return len(header) == RECORD_HEAD_BYTES and crc32(header[:-4]) == int.from_bytes(header[-4:], "big")


def _has_lost_sector(region: bytes, position: int) -> bool:
    """Whether some sector of the file, as far as ``region`` covers it, holds nothing but zeros."""
    start = 0
    end = _SECTOR_BYTES - position % _SECTOR_BYTES
    while start < len(region):
        sector = region[start:end]
        if sector.count(0) == len(sector):
            return True
        start, end = end, end + _SECTOR_BYTES
    return False
