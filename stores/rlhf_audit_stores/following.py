"""Reading a record log that another process is still writing.

``RecordLog`` belongs to its writer: opening it cuts off torn ends. A follower
changes nothing. It reads whole records as they appear; a torn one at the end
is one that is not there yet. What it hands on may not be durable: whoever
acts on it makes a durable copy, and the writer, if a sync fails, appends the
very same bytes again under the same offsets (``docs/format.md`` section 2: a
batch is cut once).

Segments may be deleted from the front meanwhile, also one that was read to its
end, as long as the next one has begun.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_audit_stores._segment import HEAD_BYTES, Damage, DamagedLogError, Record, Segment
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.recordlog import segment_offsets, segment_path


class RecordFollower:
    """Reads on from ``offset``, or from the first record that is kept, if that is later."""

    def __init__(self, folder: Path, disk: Disk, offset: int = 0) -> None:
        self._folder, self._disk = folder, disk
        self._next = offset
        self._segment: Segment | None = None
        self._expected, self._position = 0, HEAD_BYTES

    @property
    def next_offset(self) -> int:
        """Offset of the record that is read next."""
        return self._next

    def read(self, max_bytes: int) -> list[tuple[int, bytes]]:
        """Whole records that are there, at least one if there is any, and no more after ``max_bytes`` of them."""
        found: list[tuple[int, bytes]] = []
        total = 0
        while total < max_bytes:
            segment = self._segment or self._open()
            if segment is None:
                break
            before = self._expected
            for item in self._new_records(segment):
                self._expected, self._position = item.offset + 1, item.end
                if item.offset >= self._next:
                    self._next = item.offset + 1
                    found.append((item.offset, item.payload))
                    total += len(item.payload)
                    if total >= max_bytes:
                        return found
            if self._expected == before and not self._step():
                break
        return found

    def check_end(self) -> None:
        """After the writer has gone: raises DamagedLogError unless what follows is nothing, or a torn write."""
        if self._segment is None:
            return
        for item in self._segment.records_at(self._expected, self._position):
            if isinstance(item, Damage) and not self._segment.is_torn(item):
                raise DamagedLogError(self._segment.path, item.position, item.reason)
            return

    def _new_records(self, segment: Segment) -> list[Record]:
        try:
            if self._disk.size(segment.path) <= self._position:
                return []
        except FileNotFoundError:
            return []  # read to its end and deleted since
        records = []
        total = 0
        for item in segment.records_at(self._expected, self._position):
            if isinstance(item, Damage):
                break
            records.append(item)
            total += len(item.payload)
            if total >= _READ_BYTES:
                break
        return records

    def _open(self) -> Segment | None:
        firsts = segment_offsets(self._disk, self._folder) if self._disk.exists(self._folder) else []
        if not firsts:
            return None
        first = max((each for each in firsts if each <= self._next), default=firsts[0])
        self._segment = Segment.open(self._disk, segment_path(self._folder, first), first)
        self._expected, self._position = first, HEAD_BYTES
        self._next = max(self._next, first)
        return self._segment

    def _step(self) -> bool:
        """Go on to the next segment, if the writer has begun it where this one ends."""
        path = segment_path(self._folder, self._expected)
        if self._segment is None or self._segment.path == path or not self._disk.exists(path):
            return False
        self._segment = Segment.open(self._disk, path, self._expected)
        self._position = HEAD_BYTES
        return True


_READ_BYTES = 4 << 20  # payloads looked at in one go
