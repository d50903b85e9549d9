"""The durable source log of one (stream, partition) in one-process mode.

Order is decided here once, made durable, and only then sealed
(``docs/format.md`` section 2): the same offsets, times and bytes that a Kafka
partition would hold, under a ``source_id`` of 16 random bytes. A record is::

    i64 ts_us | u8 0 (a null value), or u8 1 and the value,
                or u8 2, 16 bytes and u64 (the log and the record that it was taken from) and the value

What a value means is not known here. The third form makes taking exact: after
any crash ``taken`` says which record of another log comes next. Before records
are dropped, what they said of this goes into ``taken.json``.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import create_file_durably, replace_file_durably
from rlhf_audit_stores.recordlog import MAX_SEGMENT_BYTES, DamagedLogError, RecordLog

SOURCE_ID_BYTES = 16
_SOURCE_ID_FILE = "source.id"
_TAKEN_FILE = "taken.json"
_HEAD = struct.Struct(">qB")
_ORIGIN = struct.Struct(">16sQ")
_NULL, _PLAIN, _TAKEN = range(3)
_US_PER_MS = 1000  # a Kafka record's time has whole milliseconds, and both logs must seal to the same bytes


class Origin(NamedTuple):
    """Where a message was taken from: 16 bytes that name a log, and the record's offset there."""

    log: bytes
    offset: int


class SourceLog:
    """Messages of one partition in the order that was decided. One writer: the caller holds the folder's lock."""

    def __init__(self, source_id: bytes, log: RecordLog, folder: Path, disk: Disk) -> None:
        """For ``open``."""
        self._source_id = source_id
        self._log = log
        self._taken_path, self._disk = folder / _TAKEN_FILE, disk
        self._taken = _read_taken(self._taken_path, disk)
        for _, payload in log.read_from(log.first_offset):
            if _HEAD.unpack_from(payload)[1] == _TAKEN:
                self._note(Origin(*_ORIGIN.unpack_from(payload, _HEAD.size)))

    def _note(self, origin: Origin) -> None:
        self._taken[origin.log] = max(self._taken.get(origin.log, 0), origin.offset + 1)

    @classmethod
    def open(cls, folder: Path, disk: Disk | None = None, *, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> Self:
        """Open the log in ``folder`` or begin one; cuts off what nobody acknowledged."""
        disk = RealDisk() if disk is None else disk
        log = RecordLog.open(folder, disk, max_segment_bytes=max_segment_bytes)
        return cls(_source_id(folder, disk, log), log, folder, disk)

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

    def append_many(self, values: Iterable[bytes | None], ts_us: int, origins: Sequence[Origin] | None = None) -> range:
        """Append values of one time in order, in one write; durable only after ``sync``. Returns the offsets.

        ``origins``, one for each value, none of them null, are remembered for ``taken``. Raises ValueError unless
        ``ts_us`` is whole milliseconds.
        """
        if origins is None:
            return self._log.append([_encode(value, ts_us) for value in values])
        pairs = zip(values, origins, strict=True)
        offsets = self._log.append([_encode(value, ts_us, origin) for value, origin in pairs])
        for origin in origins:
            self._note(origin)
        return offsets

    def taken(self, log: bytes) -> int:
        """Offset in ``log`` of the first record that was not taken from it into this one."""
        return self._taken.get(log, 0)

    def forget(self, logs: Iterable[bytes]) -> None:
        """Forget logs that exist no more."""
        for log in logs:
            self._taken.pop(log, None)

    def sync(self) -> None:
        """Returns only when everything appended is durable."""
        self._log.sync()

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        """Durable messages from ``offset`` on, in constant memory; the same bytes at every call."""
        for at, payload in self._log.read_from(offset):
            ts_us, form = _HEAD.unpack_from(payload)
            start = _HEAD.size + (_ORIGIN.size if form == _TAKEN else 0)
            yield SourceMessage(at, ts_us, None if form == _NULL else payload[start:])

    def roll(self) -> None:
        """Begin a new segment, so that ``drop_before`` can delete what stands in the old one."""
        self._log.roll()

    def drop_before(self, offset: int) -> None:
        """Delete the segments that lie wholly below ``offset``."""
        if not self._log.drops_before(offset):
            return
        if self._taken or self._disk.exists(self._taken_path):
            self._log.sync()  # what is not durable was not taken
            taken = {log.hex(): at for log, at in sorted(self._taken.items())}
            replace_file_durably(self._disk, self._taken_path, json.dumps(taken).encode("ascii"))
        self._log.drop_before(offset)

    def close(self) -> None:
        """Close without syncing."""
        self._log.close()


def _encode(value: bytes | None, ts_us: int, origin: Origin | None = None) -> bytes:
    if ts_us % _US_PER_MS:
        raise ValueError(f"a source log keeps whole milliseconds, not {ts_us} us")
    if value is None:
        return _HEAD.pack(ts_us, _NULL)
    if origin is None:
        return _HEAD.pack(ts_us, _PLAIN) + value
    return _HEAD.pack(ts_us, _TAKEN) + _ORIGIN.pack(*origin) + value


def _read_taken(path: Path, disk: Disk) -> dict[bytes, int]:
    if not disk.exists(path):
        return {}
    try:
        return {bytes.fromhex(log): int(at) for log, at in json.loads(disk.read(path)).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise DamagedLogError(path, 0, "this is not the list of what was taken") from error


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
