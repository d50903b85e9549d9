"""State of a partition at its published checkpoint, from objects alone (``docs/format.md`` section 4).

1. The published checkpoint must hold under the log key; its log must hash to it; its last entry is a close.
2. State at that close: from the close itself, the log's right edge and the lane rows of the newest segments.

A sealer goes on from here, a sink folds on from here. What follows the
checkpoint (sealed log, source log) is read by whoever has it. Anything that
does not fit is refused with an explanation: never restarted at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint
from rlhf_audit_ledger.close import NO_COUNTS, Close
from rlhf_audit_ledger.fold import decode_close, fold
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.lanes import LaneRow, LaneTable, table_digest
from rlhf_audit_ledger.objects import SEGMENT, log_prefix, segment_name
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import ALL_ROWS_EVERY, MAX_ROW_BYTES, SealState, first_state
from rlhf_audit_ledger.tiles import Edge, TileReader, load_edge
from rlhf_audit_schemas.errors import FormatError, TamperError
from rlhf_audit_stores.objects import NotStoredError, ObjectStore, Version

_ROW_ROOM = (
    4096  # above the largest lane row (200-byte name, 64 gaps): a record with this much room left nothing behind
)


class RefusedToGoOnError(TamperError):
    """What is stored does not fit together; signing on could sign a lie. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """``state`` is right after ``close``, the last entry under the ``published`` checkpoint; ``edge`` the log's.

    ``last_source_id`` is the source log of the window that was closed: another one than the state's after a switch.
    """

    published: Checkpoint
    version: Version
    close: Close
    edge: Edge
    state: SealState
    last_source_id: bytes


def stored_state(settings: PartitionSettings, objects: ObjectStore) -> StoredState | None:
    """What the objects say; None if nothing is published. Raises RefusedToGoOnError if it does not fit together."""
    prefix = log_prefix(settings.stream.stream, settings.partition)
    try:
        data, version = objects.get_versioned(f"{prefix}/checkpoint")
    except NotStoredError:
        return None
    published = open_checkpoint(data, settings.log_key, settings.origin).checkpoint
    edge = load_edge(published.size, published.root, lambda path: objects.get(f"{prefix}/{path}"))
    last = TileReader(published.size, lambda path: objects.get(f"{prefix}/{path}")).entry(published.size - 1)
    close = decode_close(last, f"{settings.name} index {published.size - 1}")
    segments = Segments(objects, settings.stream.stream, settings.partition)
    last_header = SealHeader.decode(segments.read(close.window)[-1].header)
    state = _state_at(settings, objects, segments, close, edge, last_header)
    return StoredState(published, version, close, edge, state, last_header.source_id)


def _state_at(
    settings: PartitionSettings, objects: ObjectStore, segments: Segments, close: Close, edge: Edge, last: SealHeader
) -> SealState:
    """State right after a close, from close, right edge, segments and the header of its last message."""
    lanes = _lanes_from_rows(segments, close)
    if lanes is None:
        return fold_segments(settings, objects, close)
    return SealState(
        source_id=close.source_id,
        next_offset=close.next_offset,
        last_value=last.value_digest if last.source_id == close.source_id else None,
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
        format=close.format,
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


def fold_segments(settings: PartitionSettings, objects: ObjectStore, close: Close) -> SealState:
    """State right after a close by re-running every window from the first: slow, and always exact."""
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
