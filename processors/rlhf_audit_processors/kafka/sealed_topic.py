"""The two logs of a partition as recovery reads them from Kafka.

A sealed topic may hold a record twice: a worker that was thought dead, or a
producer's resend, appends what is there already. Records are told apart by
their source offset. Where to begin is searched backwards from the end in
growing steps, so a restart costs what the objects do not hold yet and not what
the ledger holds:

1. Read a piece before what was read; remember source offset and digest of each record.
2. Two records of one source offset that differ are a fork.
3. Stop when the records behind the published state follow one another without a gap, and at least ``LOOK_BACK``
   records were looked at, since the last of them may be duplicates.

If duplicates hide more than that, fewer records are found, and their messages
are sealed again: to the same bytes, by the same rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import SealState
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_stores.stored_state import RefusedToGoOnError

MAX_IN_FLIGHT = 64  # records of one partition that a worker sends before it waits: a zombie has no more to say
LOOK_BACK = 2 * MAX_IN_FLIGHT
_GROWTH = 4
# Anybody may send any time; up to 2**50 ms every reader reads it alike, those that make float seconds of it too.
_MAX_US = (1 << 50) * 1000


class ForkedTopicError(RefusedToGoOnError):
    """A sealed topic holds two different records for one source offset."""


class Tail(Protocol):
    """A plain reader of one partition (``rlhf_audit_stores.kafka.tail``)."""

    @property
    def where(self) -> str:
        """Topic and partition, for messages."""

    def watermarks(self) -> tuple[int, int]:
        """Offset of the oldest message kept, and of the next one to come."""

    def read(self, first: int, end: int) -> Iterator[SourceMessage]:
        """Messages of the offsets [first, end), nulls included."""


def as_sealed(message: SourceMessage) -> SourceMessage:
    """A message as the seal step sees it: without wire header, its time within what every reader reads alike."""
    value = None if message.value is None else strip_header(message.value)
    return SourceMessage(message.offset, max(-_MAX_US, min(message.ts_us, _MAX_US)), value)


def time_us(timestamp_s: float | None) -> int:
    """CreateTime in whole milliseconds, times 1000, from the seconds that Faust makes of it; for ``as_sealed``."""
    return round((-0.001 if timestamp_s is None else timestamp_s) * 1000) * 1000


class SourceTopic:
    """``recovery.Source`` over a source partition, as long as it was when this was made."""

    def __init__(self, tail: Tail, source_id: bytes) -> None:
        self._tail, self._source_id = tail, source_id
        self._first, self._next = tail.watermarks()

    @property
    def source_id(self) -> bytes:
        """16 bytes, from cluster id and topic UUID."""
        return self._source_id

    @property
    def first_offset(self) -> int:
        """Offset of the oldest message kept."""
        return self._first

    @property
    def next_offset(self) -> int:
        """Offset that the next message will get."""
        return self._next

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        """Messages from ``offset`` on."""
        for message in self._tail.read(offset, self._next):
            yield as_sealed(message)


class SealedTopic:
    """``recovery.SealedReader`` over a sealed partition: the records behind ``start``, each once, in order."""

    def __init__(self, tail: Tail, start: SealState) -> None:
        """Raises ForkedTopicError, and RefusedToGoOnError if records behind ``start`` are missing."""
        self._tail, self._start = tail, start
        self._low, self._high = tail.watermarks()
        self._ends: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        self._position = self._search()
        if start.m == 0 and any(source != start.source_id for source, _ in self._ends):
            raise RefusedToGoOnError(
                f"{tail.where}: holds records of another source log than the one to be sealed, and no object tells of "
                "a switch: the source topic was deleted and made again, or this is the topic of another ledger"
            )

    @property
    def first_m(self) -> int:
        """m of the first record behind ``start``, there or to come."""
        return self._start.m + 1

    @property
    def next_m(self) -> int:
        """m that the next record will get."""
        return self._start.m + 1 + self._chain()[0]

    @property
    def holds_start(self) -> bool:
        """Whether the topic holds the record that ``start`` is behind, or one behind it: it was not emptied."""
        end = self._start.next_offset
        source = self._start.source_id
        return any(key[0] == source and known[0] >= end for key, known in self._ends.items())

    def read_from(self, m: int) -> Iterator[tuple[int, bytes]]:
        """Records from m on."""
        expected, number = self._start.next_offset, self._start.m
        for topic_offset, data, header in self._records(self._position, self._high):
            if header.source_id != self._start.source_id or header.offset < expected:
                continue
            if header.offset > expected:
                raise self._missing(expected, topic_offset)
            expected, number = _end(header), number + 1
            if number >= m:
                yield number, data

    def _search(self) -> int:
        first, step = self._high, LOOK_BACK
        while first > self._low:
            begin = max(self._low, first - step)
            for topic_offset, data, header in self._records(begin, first):
                self._note(topic_offset, data, header)
            first, step = begin, step * _GROWTH
            if self._is_whole():
                return first
        if not self._is_whole():
            raise self._missing(self._chain()[1], first)
        return first

    def _note(self, topic_offset: int, data: bytes, header: SealHeader) -> None:
        key, digest = (header.source_id, header.offset), hashlib.sha256(data).digest()
        known = self._ends.setdefault(key, (_end(header), digest))
        if known[1] != digest:
            raise ForkedTopicError(
                f"{self._tail.where}: fork: source offset {header.offset} was sealed twice, differently, the second "
                f"time near topic offset {topic_offset}"
            )

    def _chain(self) -> tuple[int, int]:
        """How many records follow ``start`` without a gap, and the source offset behind them."""
        count, at = 0, self._start.next_offset
        while (known := self._ends.get((self._start.source_id, at))) is not None:
            count, at = count + 1, known[0]
        return count, at

    def _is_whole(self) -> bool:
        """Whether nothing that was read stands behind a gap."""
        end = self._chain()[1]
        return not any(key[0] == self._start.source_id and key[1] > end for key in self._ends)

    def _records(self, first: int, end: int) -> Iterator[tuple[int, bytes, SealHeader]]:
        for message in self._tail.read(first, end):
            data = strip_header(message.value or b"")
            try:
                header = SealHeader.decode(SealedRecord.decode(data).header)
            except FormatError as error:
                raise RefusedToGoOnError(
                    f"{self._tail.where}: offset {message.offset} is no sealed record: somebody else writes there"
                ) from error
            yield message.offset, data, header

    def _missing(self, source_offset: int, topic_offset: int) -> RefusedToGoOnError:
        return RefusedToGoOnError(
            f"{self._tail.where}: the record of source offset {source_offset} is missing (read back to topic offset "
            f"{topic_offset}): the object store was restored from an older state, or records are lost"
        )


def _end(header: SealHeader) -> int:
    return header.offset + 1 if header.end_offset is None else header.end_offset
