"""The part of sealing that needs no payload: apply a move to the state, close windows by rule.

A ``Move`` is what one source message does. ``seal`` makes it from the bytes,
``fold`` (recovery, ``verify``) from the header and the log; both come through
``advance``, so the rules of the chain and of windows stand here once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf_audit_ledger.chain import next_link
from rlhf_audit_ledger.close import NO_COUNTS, Close, TickState, count_one
from rlhf_audit_ledger.control import FormatSwitch, SourceSwitch, Tick
from rlhf_audit_ledger.genesis import SchemaEntry
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.lanes import LaneRow, table_digest
from rlhf_audit_ledger.merkle import leaf_hash, leaf_hashes
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import ALL_ROWS_EVERY, MAX_ROW_BYTES, OpenWindow, SealState, require_known_format


@dataclass(frozen=True, slots=True)
class ValidTick:
    """A tick that is valid in its state, with the source value a close keeps verbatim."""

    tick: Tick
    value: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """What one source message does to its partition. ``entries`` come before ``event_entries`` in the log."""

    header: SealHeader
    header_bytes: bytes
    entries: tuple[bytes, ...] = ()
    event_entries: Sequence[bytes] = ()
    row: LaneRow | None = None
    tick: ValidTick | None = None
    added: SchemaEntry | None = None
    switch: SourceSwitch | FormatSwitch | None = None
    is_silent: bool = False  # a tick or an ignored control message: opens no window


@dataclass(frozen=True, slots=True)
class Advance:
    """Result of a move. ``close`` stands at index ``state.tree.size - 1`` if not None."""

    state: SealState
    leaves: list[bytes]
    lane_rows: tuple[tuple[int, bytes], ...]
    close: Close | None
    close_entry: bytes | None


def advance(settings: PartitionSettings, state: SealState, move: Move) -> Advance:
    """Apply a move: link, tree, window, lanes; then close the window if a rule says so.

    Raises UnknownFormatError behind a switch to a format that this version does not know.
    """
    require_known_format(settings, state)
    header = move.header
    leaves = leaf_hashes(move.entries)
    leaves += leaf_hashes(move.event_entries)
    m = state.m + 1
    window = _grown(settings, state, move, leaves)
    after = replace(
        state,
        next_offset=header.end_offset if header.end_offset is not None else header.offset + 1,
        last_value=header.value_digest,
        m=m,
        link=next_link(state.link, m, move.header_bytes, leaves),
        tree=state.tree.extend(leaves) if leaves else state.tree,
        counts=count_one(state.counts, header.outcome),
        window=window,
        ticks=state.ticks if move.tick is None else _ticked(state.ticks, move.tick.tick),
        lanes=state.lanes if move.row is None else state.lanes.with_row(move.row),
        pending_schemas=state.pending_schemas if move.added is None else (*state.pending_schemas, move.added),
    )
    if move.switch is not None:
        after = _switched(after, move.switch)
    close = close_entry = None
    if window is not None and _closes(settings, state.ticks, window, move):
        close = _close_record(settings, after, window, move.tick)
        close_entry = close.encode()
        after = _closed(after, close, close_entry)
    after, rows = _spread(after)
    return Advance(after, leaves, rows, close, close_entry)


def _grown(settings: PartitionSettings, state: SealState, move: Move, leaves: list[bytes]) -> OpenWindow | None:
    """The open window with this message in it. A tick opens none, except in mode strong."""
    window = state.window
    if window is None:
        if move.is_silent and not (settings.is_strong and move.tick is not None):
            return None
        window = OpenWindow(opened_us=move.header.ts_us)
    return OpenWindow(
        opened_us=window.opened_us,
        tree=window.tree.extend(leaves) if leaves else window.tree,
        messages=window.messages + 1,
        events=window.events + len(move.event_entries),
    )


def _ticked(ticks: TickState, tick: Tick) -> TickState:
    return TickState(tick.counter, tick.number, ticks.closed_number)


def _switched(state: SealState, switch: SourceSwitch | FormatSwitch) -> SealState:
    """State at the end of a source log: the other one has offsets and tick counters of its own, time goes on.

    At the end of a format only the format changes.
    """
    if isinstance(switch, FormatSwitch):
        return replace(state, format=switch.format)
    return replace(
        state,
        source_id=switch.new_source_id,
        next_offset=switch.next_offset,
        last_value=None,
        ticks=replace(state.ticks, counter=0),
    )


def _closes(settings: PartitionSettings, before: TickState, window: OpenWindow, move: Move) -> bool:
    """FORMAT section 5: a valid tick, a switch, or the cap, after a whole message."""
    tick = move.tick
    if move.switch is not None:
        return True
    if settings.is_strong:
        return tick is not None
    if tick is not None and (tick.tick.number > before.closed_number or tick.tick.flush):
        return True
    return window.tree.size >= settings.stream.max_entries or window.messages >= settings.stream.max_messages


def _close_record(settings: PartitionSettings, state: SealState, window: OpenWindow, tick: ValidTick | None) -> Close:
    closed_by_tick = tick is not None
    ticks = replace(state.ticks, closed_number=state.ticks.number) if closed_by_tick else state.ticks
    return Close(
        format=state.format,
        ledger_id=settings.ledger_id,
        stream=settings.stream.stream,
        partition=settings.partition,
        window=state.window_id,
        first_index=state.first_index,
        end_index=state.tree.size,
        tick=None if tick is None else tick.value,
        opened_us=window.opened_us,
        source_id=state.source_id,
        first_offset=state.first_offset,
        next_offset=state.next_offset,
        counts=state.counts,
        events=window.events,
        open_gaps=state.lanes.open_gaps(),
        window_root=window.tree.root(),
        m=state.m,
        link=state.link,
        lanes_digest=table_digest(state.lanes.rows()),
        lanes=len(state.lanes),
        previous_close=state.previous_close,
        ticks=ticks,
        added_schemas=(*state.added_schemas, *state.pending_schemas),
    )


def _closed(state: SealState, close: Close, close_entry: bytes) -> SealState:
    """State after a close: the next window starts empty behind it."""
    everything = close.window % ALL_ROWS_EVERY == 0
    rows = state.lanes.rows() if everything else state.lanes.changed_rows()
    return replace(
        state,
        tree=state.tree.extend([leaf_hash(close_entry)]),
        window_id=close.window + 1,
        first_index=close.size,
        first_offset=state.next_offset,
        counts=NO_COUNTS,
        window=None,
        previous_close=close.end_index,
        ticks=close.ticks,
        lanes=state.lanes.settle(),
        added_schemas=close.added_schemas,
        pending_schemas=(),
        pending_rows=(*state.pending_rows, *((close.window, row.encode()) for row in rows)),
    )


def _spread(state: SealState) -> tuple[SealState, tuple[tuple[int, bytes], ...]]:
    """Take the lane rows that this record carries: oldest first, at most MAX_ROW_BYTES."""
    if not state.pending_rows:
        return state, ()
    total = taken = 0
    for _, row in state.pending_rows:
        if taken and total + len(row) > MAX_ROW_BYTES:
            break
        total += len(row)
        taken += 1
    return replace(state, pending_rows=state.pending_rows[taken:]), state.pending_rows[:taken]
