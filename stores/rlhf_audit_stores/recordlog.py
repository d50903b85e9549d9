"""An append-only log of records in local files, for source logs and sealed logs.

A folder of segments named by their first offset (20 digits, ``.log``)::

    segment = magic (8) | u64 first offset | mark (8) | u32 CRC-32 of the bytes before
    record  = mark (8) | u64 offset | u64 durable | u32 length | u32 CRC-32 of payload
              | u32 CRC-32 of the header before | payload

``mark`` is random per segment and begins each record, so that records can be
found again behind damage and no payload can imitate one. ``durable`` is the
offset below which all was acknowledged when the record was written.

What opening does with damage in the last segment, at the record of offset k:

1. a later record says that k was durable: acknowledged data changed, TamperError;
2. the file ends inside the record, or lost sectors (zeros) lie in it: a write
   that a crash cut short and nobody acknowledged; it is cut off;
3. anything else is a change, not a tear: TamperError.

CRC-32 (zlib, hardware speed, no dependency) finds accidents; whoever forges a
record also forges its CRC. Forgery is found by the hash chain, not here.
One writer at a time: the caller holds the folder's lock.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores._segment import (
    HEAD_BYTES,
    MARK_BYTES,
    RECORD_HEAD_BYTES,
    Damage,
    DamagedLogError,
    Segment,
    new_head,
    pack_record,
)
from rlhf_audit_stores.disk import Disk, DiskFullError, Handle, RealDisk
from rlhf_audit_stores.durable import create_file_durably, make_folders_durably, sweep

__all__ = ["MAX_SEGMENT_BYTES", "BrokenLogError", "DamagedLogError", "RecordLog"]

MAX_SEGMENT_BYTES = 64 << 20  # small enough to scan at every start, large enough that syncing a new name costs nothing
_RESERVE_STEP_BYTES = 1 << 20  # one call for many appends
_NAME = re.compile(r"([0-9]{20})\.log")


class BrokenLogError(AuditTrailError):
    """A write failed in a way that leaves open what the file holds; opening the log again finds out."""


class RecordLog:
    """Records numbered without gaps. Only what ``sync`` made durable is acknowledged, and only that is read."""

    def __init__(self, folder: Path, disk: Disk, segments: list[Segment], max_segment_bytes: int) -> None:
        """For ``open``; a log made otherwise is not recovered."""
        self._folder = folder
        self._disk = disk
        self._segments = segments
        self._max_segment_bytes = max_segment_bytes
        self._handle: Handle | None = None
        self._next = self._durable = segments[-1].first_offset
        self._size = self._durable_size = HEAD_BYTES
        self._is_broken = False
        self._reserved = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        disk: Disk | None = None,
        *,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        first_offset: int = 0,
    ) -> Self:
        """Open the log in ``folder``, or begin one at ``first_offset``; cuts off what nobody acknowledged.

        Everything that can be read afterwards is durable. Raises DamagedLogError if acknowledged data was changed.
        """
        disk = RealDisk() if disk is None else disk
        make_folders_durably(disk, folder)
        sweep(disk, folder)
        firsts = segment_offsets(disk, folder)
        if firsts:
            segments = [Segment.open(disk, segment_path(folder, first), first) for first in firsts]
        else:
            segments = [_create_segment(disk, folder, first_offset)]
        log = cls(folder, disk, segments, max_segment_bytes)
        log._recover()
        return log

    def _recover(self) -> None:
        last = self._segments[-1]
        for item in last.records(last.first_offset):
            if isinstance(item, Damage):
                if not last.is_torn(item):
                    raise DamagedLogError(last.path, item.position, item.reason)
                self._disk.truncate(last.path, item.position)
            else:
                self._next, self._size = item.offset + 1, item.end
        self._handle = self._disk.open_append(last.path)
        self._disk.sync(self._handle)
        self._disk.sync_dir(self._folder)
        self._durable, self._durable_size = self._next, self._size

    @property
    def first_offset(self) -> int:
        """Offset of the oldest record kept, or the one that the next record will get."""
        return self._segments[0].first_offset

    @property
    def next_offset(self) -> int:
        """Offset that the next record will get."""
        return self._next

    @property
    def durable_offset(self) -> int:
        """Offset below which everything is durable."""
        return self._durable

    def append(self, payloads: Sequence[bytes], *, may_roll: bool = True) -> range:
        """Append in order, in one write; durable only after ``sync``. Returns their offsets.

        Without ``may_roll`` a full segment grows on: a new one may not fit the disk where ``reserve`` made room here.
        After DiskFullError or another error none of them is in the log, and the log stays usable.
        """
        self._check_usable()
        added = record_bytes(payloads)
        if may_roll and self._size > HEAD_BYTES and self._size + added > self._max_segment_bytes:
            self.roll()
        segment, position = self._segments[-1], self._size
        parts: list[bytes] = []
        for offset, payload in enumerate(payloads, self._next):
            parts += (pack_record(segment.mark, offset, self._durable, payload), payload)
            segment.note(offset, position)
            position += RECORD_HEAD_BYTES + len(payload)
        self._write(b"".join(parts))
        offsets = range(self._next, self._next + len(payloads))
        self._next, self._size = offsets.stop, position
        return offsets

    def reserve(self, more_bytes: int) -> None:
        """Make sure that the current segment may grow by so much. Raises DiskFullError; then nothing has changed."""
        self._check_usable()
        wanted = self._size + more_bytes
        if wanted <= self._reserved:
            return
        handle = self._opened()
        try:
            self._disk.reserve(handle, wanted + _RESERVE_STEP_BYTES)
            wanted += _RESERVE_STEP_BYTES
        except DiskFullError:
            self._disk.reserve(handle, wanted)
        self._reserved = wanted

    def _write(self, data: bytes) -> None:
        self._is_broken = True  # until the file is known to hold all of it, or none
        try:
            self._disk.write(self._opened(), data)
        except Exception:
            segment = self._segments[-1]
            segment.forget_from(self._size)
            self._disk.truncate(segment.path, self._size)
            self._is_broken = False
            raise
        self._is_broken = False

    def sync(self) -> None:
        """Returns only when everything appended is durable. After an error the log must be opened again."""
        self._check_usable()
        if self._durable == self._next:
            return
        try:
            self._disk.sync(self._opened())
        except Exception:
            # The kernel reports a failed write once and then forgets it: what is lost must not look durable later.
            self._is_broken = True
            with suppress(OSError):
                self._disk.truncate(self._segments[-1].path, self._durable_size)
            raise
        self._durable, self._durable_size = self._next, self._size

    def read_from(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """Durable records from ``offset`` on, those that become durable meanwhile included; in constant memory.

        Raises DamagedLogError at the first record that is not what was written, ValueError below ``first_offset``.
        """
        if offset < self.first_offset:
            raise ValueError(f"{self._folder}: record {offset} was dropped, the log begins at {self.first_offset}")
        while offset < self._durable:
            at = bisect_right(self._segments, offset, key=lambda one: one.first_offset) - 1
            segment = self._segments[at]
            is_last = at == len(self._segments) - 1
            end = self._durable if is_last else self._segments[at + 1].first_offset
            position = HEAD_BYTES
            for item in segment.records(offset, self._durable_size if is_last else None):
                position = item.position
                if isinstance(item, Damage):
                    raise DamagedLogError(segment.path, position, item.reason)
                yield item.offset, item.payload
                offset += 1
            if offset < end:
                raise DamagedLogError(segment.path, position, f"the segment ends before record {offset} of {end}")

    def roll(self) -> None:
        """Begin a new segment, so that ``drop_before`` can delete what stands in the old one; syncs first."""
        self._check_usable()
        if self._next == self._segments[-1].first_offset:
            return
        self.sync()
        self._begin_segment(self._next)

    def drops_before(self, offset: int) -> bool:
        """Whether ``drop_before`` would delete anything."""
        return len(self._segments) > 1 and self._segments[1].first_offset <= offset

    def drop_before(self, offset: int) -> None:
        """Delete the segments that lie wholly below ``offset``, oldest first; never the last one."""
        while self.drops_before(offset):
            self._disk.unlink(self._segments[0].path)
            self._disk.sync_dir(self._folder)  # one by one, or a power cut may leave a hole between two segments
            del self._segments[0]

    def restart_at(self, offset: int) -> None:
        """Drop everything and go on at ``offset``: for a log whose records are all known to be stored elsewhere."""
        self._check_usable()
        if offset < self._next:
            raise ValueError(f"{self._folder}: cannot skip back from {self._next} to {offset}")
        self._is_broken = True
        while self._segments:
            self._disk.unlink(self._segments[0].path)
            self._disk.sync_dir(self._folder)
            del self._segments[0]
        self._begin_segment(offset)
        self._next = self._durable = offset
        self._is_broken = False

    def close(self) -> None:
        """Close without syncing."""
        if self._handle is not None:
            self._disk.close(self._handle)
            self._handle = None

    def _begin_segment(self, first_offset: int) -> None:
        segment = _create_segment(self._disk, self._folder, first_offset)
        handle = self._disk.open_append(segment.path)
        if self._reserved > self._size and self._segments:
            # Gives back what was reserved behind its end, only now that the new one has its place on the disk. Whoever
            # drains a spool may have deleted the old one by then.
            with suppress(FileNotFoundError):
                self._disk.truncate(self._segments[-1].path, self._size)
        self.close()
        self._handle = handle
        self._reserved = 0
        self._segments.append(segment)
        self._size = self._durable_size = HEAD_BYTES

    def _check_usable(self) -> None:
        if self._is_broken:
            raise BrokenLogError(f"{self._folder}: an earlier write failed half-way; open the log again")
        self._opened()

    def _opened(self) -> Handle:
        if self._handle is None:
            raise ValueError(f"{self._folder}: the log is closed")
        return self._handle


def record_bytes(payloads: Sequence[bytes]) -> int:
    """Bytes that these records take in a log."""
    return sum(map(len, payloads)) + RECORD_HEAD_BYTES * len(payloads)


def segment_offsets(disk: Disk, folder: Path) -> list[int]:
    """First offsets of the segments in a folder, ascending."""
    return sorted(int(match[1]) for entry in disk.list_dir(folder) if (match := _NAME.fullmatch(entry.name)))


def segment_path(folder: Path, first_offset: int) -> Path:
    return folder / f"{first_offset:020d}.log"


def _create_segment(disk: Disk, folder: Path, first_offset: int) -> Segment:
    mark = bytes(1 + secrets.randbelow(255) for _ in range(MARK_BYTES))  # no zeros: they mean a lost sector
    path = segment_path(folder, first_offset)
    create_file_durably(disk, path, new_head(first_offset, mark))
    return Segment(disk, path, first_offset, mark)
