"""Where a restarted worker goes on: the ledger is the state (``docs/format.md`` section 4).

1. The published checkpoint must hold under our own key; its log must hash to it; its last entry is a close.
2. State at that close: from the close itself, the log's right edge and the lane rows of the newest segments.
3. The sealed log goes on from there: each record is sealed again and must come out byte for byte.
4. The source log is the same one, is not shorter, and its last sealed message is the same.

Anything else (another source log, a restored backup, a fork) is refused with
an explanation: never restarted at 0, never signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rlhf_audit_ledger.batch import value_digest
from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint
from rlhf_audit_ledger.close import NO_COUNTS, Close
from rlhf_audit_ledger.entries import offset_salt, quarantine_digest
from rlhf_audit_ledger.fold import decode_close, fold
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.lanes import LaneRow, LaneTable, table_digest
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.objects import SEGMENT, log_prefix, segment_name
from rlhf_audit_ledger.seal import NOTHING, Sealed, Sealer, seal, seal_hole
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import ALL_ROWS_EVERY, MAX_ROW_BYTES, SealState, first_state
from rlhf_audit_ledger.tiles import Edge, TileReader, load_edge
from rlhf_audit_schemas.errors import FormatError, TamperError
from rlhf_audit_stores.objects import NotStoredError, ObjectStore, Version

_ROW_ROOM = (
    4096  # above the largest lane row (200-byte name, 64 gaps): a record with this much room left nothing behind
)


class RefusedToGoOnError(TamperError):
    """What is stored does not fit together; signing on could sign a lie. The message says what to look at."""


class SealedReader(Protocol):
    """Sealed records as they were written."""

    @property
    def first_m(self) -> int:
        """m of the oldest record kept."""

    @property
    def next_m(self) -> int:
        """m that the next record will get."""

    def read_from(self, m: int) -> Iterator[tuple[int, bytes]]:
        """Records from m on."""


class Source(Protocol):
    """Source log as far as recovery needs it."""

    @property
    def source_id(self) -> bytes:
        """16 bytes."""

    @property
    def next_offset(self) -> int:
        """Offset that the next message will get."""

    @property
    def first_offset(self) -> int:
        """Offset of the oldest message kept."""

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        """Messages from ``offset`` on."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """``published`` and ``edge`` are those of the object store, ``state`` is after the sealed log's last record and
    ``unstored`` what was sealed in between. ``is_log_short``: the sealed log lacks records the objects have."""

    published: Checkpoint | None
    version: Version | None
    close: Close | None
    edge: Edge
    state: SealState
    unstored: list[Sealed]
    is_log_short: bool


def recover(sealer: Sealer, objects: ObjectStore, sealed: SealedReader, source: Source) -> Recovered:
    """State of a partition from what is stored. Raises RefusedToGoOnError if it does not fit together."""
    settings = sealer.settings
    prefix = log_prefix(settings.stream.stream, settings.partition)
    try:
        data, version = objects.get_versioned(f"{prefix}/checkpoint")
    except NotStoredError:
        start, published, close, edge, version = first_state(settings, source.source_id), None, None, Edge.empty(), None
    else:
        published = open_checkpoint(data, settings.log_key, settings.origin).checkpoint
        edge = load_edge(published.size, published.root, lambda path: objects.get(f"{prefix}/{path}"))
        last = TileReader(published.size, lambda path: objects.get(f"{prefix}/{path}")).entry(published.size - 1)
        close = decode_close(last, f"{settings.name} index {published.size - 1}")
        start = _state_at(sealer, objects, close, edge)
    state, unstored = _read_back(sealer, sealed, start)
    _check_source(sealer, source, state)
    is_log_short = sealed.next_m <= start.m and start.m > 0
    return Recovered(published, version, close, edge, state, unstored, is_log_short)


def _state_at(sealer: Sealer, objects: ObjectStore, close: Close, edge: Edge) -> SealState:
    """State right after a close, from close, right edge and segments."""
    settings = sealer.settings
    segments = Segments(objects, settings.stream.stream, settings.partition)
    lanes = _lanes_from_rows(segments, close)
    if lanes is None:
        return fold_segments(sealer, objects, close)
    last = SealHeader.decode(segments.read(close.window)[-1].header)
    return SealState(
        source_id=close.source_id,
        next_offset=close.next_offset,
        last_value=last.value_digest,
        m=close.m,
        link=close.link,
        tree=edge.compact_range(),
        window_id=close.window + 1,
        first_index=close.size,
        first_offset=close.next_offset,
        counts=NO_COUNTS,
        window=None,
        previous_close=close.end_index,
        ticks=close.ticks,
        lanes=lanes,
        added_schemas=close.added_schemas,
    )


def _lanes_from_rows(segments: Segments, close: Close) -> LaneTable | None:
    """Lane table at a close from at most ALL_ROWS_EVERY segments; None if rows were still waiting to be spread."""
    base = close.window - close.window % ALL_ROWS_EVERY
    rows: dict[str, LaneRow] = {}
    for window in range(base, close.window + 1):
        records = segments.read(window)
        if sum(len(row) for _, row in records[-1].lane_rows) > MAX_ROW_BYTES - _ROW_ROOM:
            return None
        for record in records:
            for at, encoded in record.lane_rows:
                if at >= base:
                    row = LaneRow.decode(encoded)
                    rows[row.producer] = row
    table = LaneTable(rows)
    if len(table) != close.lanes or table_digest(table.rows()) != close.lanes_digest:
        return None
    return table


def fold_segments(sealer: Sealer, objects: ObjectStore, close: Close) -> SealState:
    """State right after a close by re-running every window from the first: slow, and always exact."""
    settings = sealer.settings
    segments = Segments(objects, settings.stream.stream, settings.partition)
    prefix = log_prefix(settings.stream.stream, settings.partition)
    reader = TileReader(close.size, lambda path: objects.get(f"{prefix}/{path}"))
    state: SealState | None = None
    for window in range(close.window + 1):
        for record in segments.read(window):
            if state is None:
                header = SealHeader.decode(record.header)
                state = first_state(settings, header.source_id, header.offset)
            start = state.tree.size + len(record.entries)
            entries = [reader.entry(start + n) for n in range(_events_in(record))]
            _, result = fold(settings, state, record, lambda count, entries=entries: entries[:count])  # type: ignore[misc]
            state = result.state
    if state is None or state.link != close.link:
        raise RefusedToGoOnError(f"{settings.name}: segments do not lead to the published checkpoint")
    return state


def _events_in(record: SealedRecord) -> int:
    header = SealHeader.decode(record.header)
    return header.batch.count if header.batch is not None and header.outcome in ("accepted", "gap_filled") else 0


class Segments:
    """Segment objects of one partition."""

    def __init__(self, objects: ObjectStore, stream: str, partition: int) -> None:
        self._objects, self._stream, self._partition = objects, stream, partition

    def read(self, window: int) -> list[SealedRecord]:
        """Records of a window. Raises RefusedToGoOnError if the object is lost or broken."""
        name = segment_name(self._stream, self._partition, window)
        try:
            return [SealedRecord.from_segment(raw) for raw in SEGMENT.decode(name, self._objects.get(name))]
        except (NotStoredError, FormatError) as error:
            raise RefusedToGoOnError(f"{name}: {error}; run `rlhf-audit verify` on this trail") from error


def _read_back(sealer: Sealer, sealed: SealedReader, start: SealState) -> tuple[SealState, list[Sealed]]:
    """Seal the tail of the sealed log again; it must come out byte for byte."""
    if sealed.next_m <= start.m + 1:
        return start, []
    name = sealer.settings.name
    if sealed.first_m > start.m + 1:
        raise RefusedToGoOnError(
            f"{name}: the objects end at record {start.m}, the sealed log begins at {sealed.first_m}: "
            "the object store was restored from an older state, or records are lost"
        )
    state, unstored = start, []
    for m, data in sealed.read_from(start.m + 1):
        record = SealedRecord.decode(data)
        header = SealHeader.decode(record.header)
        if header.end_offset is not None:
            state, again = seal_hole(sealer, state, header.ts_us, header.end_offset)
        else:
            state, again = seal(sealer, state, SourceMessage(header.offset, header.ts_us, record.value))
        if again.record.encode() != data or state.m != m:
            raise RefusedToGoOnError(
                f"{name}: sealed record {m} is not what sealing its message gives: the sealed log was changed, or "
                "keys or objects belong to another ledger"
            )
        unstored.append(again)
    return state, unstored


def _check_source(sealer: Sealer, source: Source, state: SealState) -> None:
    name = sealer.settings.name
    if source.source_id != state.source_id:
        raise RefusedToGoOnError(f"{name}: this is another source log than the one that was sealed")
    if source.next_offset < state.next_offset:
        raise RefusedToGoOnError(
            f"{name}: the source log ends at {source.next_offset}, sealed up to {state.next_offset}: it was restored "
            "from an older state"
        )
    last = state.next_offset - 1
    if state.last_value is None or state.last_value == NOTHING or last < source.first_offset:
        return
    for message in source.read_from(last):
        value = message.value or b""
        salt = offset_salt(sealer.quarantine_key, source.source_id, last)
        if state.last_value not in (value_digest(value), quarantine_digest(salt, value)):
            raise RefusedToGoOnError(f"{name}: source message {last} is not the one that was sealed")
        return
