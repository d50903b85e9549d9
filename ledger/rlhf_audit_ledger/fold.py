"""Fold: re-run chain, lanes and windows from the public record alone, without payloads.

What ``seal`` made from source values, ``fold`` makes again from segment
records and log entries, and compares everything that was stored. A restarted
worker and ``verify`` share it; ``verify`` also re-runs ``seal.move_of`` where
it can read the payload.

1. The header follows: source, next offset, an outcome that fits.
2. Outcome and own entries are those that the rules give for its facts.
3. A close's tick is signed, valid and of this partition.
4. Link, lane rows and close record are exactly those that ``advance`` makes.

What it cannot see without payloads: whether a batch's bytes hash to its
events, whether a quarantined message was really bad, and ticks between two
closes (they add no entry; only their last number stands in the close).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rlhf_audit_ledger.close import Close, TickState
from rlhf_audit_ledger.control import Control, SourceSwitch
from rlhf_audit_ledger.entries import CONTROL_ENTRY, QUARANTINE, EntryClass
from rlhf_audit_ledger.genesis import SchemaEntry
from rlhf_audit_ledger.header import BatchFacts, SealHeader
from rlhf_audit_ledger.lanes import judge
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.reading import (
    SchemaReading,
    SwitchReading,
    TickReading,
    lane_key,
    malformed,
    read_control,
)
from rlhf_audit_ledger.seal import hole_move, move_of
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState, require_known_format, schemas_in_force
from rlhf_audit_ledger.step import Advance, Move, ValidTick, advance
from rlhf_audit_schemas.errors import FormatError, TamperError

TakeEntries = Callable[[int], Sequence[bytes]]


class FoldError(TamperError):
    """The stored record is not the one that the rules give."""


def fold(
    settings: PartitionSettings, state: SealState, record: SealedRecord, take_entries: TakeEntries
) -> tuple[Move, Advance]:
    """Apply a stored record to the state.

    ``take_entries(n)`` gives the next n event entries of the log. Raises FoldError at the first contradiction,
    FormatError on bytes that do not decode.
    """
    require_known_format(settings, state)
    header = SealHeader.decode(record.header)
    if header.source_id != state.source_id:
        raise FoldError(f"offset {header.offset}: from another source log")
    if header.offset != state.next_offset:
        raise FoldError(f"offset {header.offset}: expected {state.next_offset}")
    move = _move(settings, state, record, header, take_entries)
    if record.close is not None:
        state, move = _with_tick(settings, state, record.close, move)
    result = advance(settings, state, move)
    _compare(header.offset, record, result)
    return move, result


def _move(
    settings: PartitionSettings,
    state: SealState,
    record: SealedRecord,
    header: SealHeader,
    take_entries: TakeEntries,
) -> Move:
    if header.batch is not None:
        return _batch_move(settings, state, record, header, header.batch, take_entries)
    if header.outcome == "hole":
        if header.end_offset is None or header.end_offset <= header.offset:
            raise FoldError(f"offset {header.offset}: a hole that ends before it begins")
        expected = hole_move(state, header.ts_us, header.end_offset)
        if expected.header_bytes != record.header or expected.entries != record.entries:
            raise FoldError(f"offset {header.offset}: not the record of a hole")
        return expected
    if header.end_offset is not None:
        raise FoldError(f"offset {header.offset}: an end offset without a hole")
    if header.outcome == "quarantined":
        _check_quarantine(record, header)
        return Move(header, record.header, record.entries)
    if header.outcome == "control" and record.entries:
        return _control_move(settings, state, record, header)
    if header.outcome in ("control", "ignored") and not record.entries:
        return Move(header, record.header, is_silent=True)
    raise FoldError(f"offset {header.offset}: outcome {header.outcome} does not fit its entries")


def _batch_move(
    settings: PartitionSettings,
    state: SealState,
    record: SealedRecord,
    header: SealHeader,
    facts: BatchFacts,
    take_entries: TakeEntries,
) -> Move:
    where = f"offset {header.offset}"
    reason = malformed(settings.stream.stream, schemas_in_force(settings, state), facts)
    if reason is not None or header.end_offset is not None:
        raise FoldError(f"{where}: a batch that had to be quarantined: {reason or 'end offset'}")
    row = state.lanes.get(facts.producer)
    is_known, key = lane_key(row, facts)
    allowed = ("unsigned", "unchecked") if not is_known else ("unsigned",) if key is None else ("valid",)
    if facts.signature not in allowed:
        raise FoldError(f"{where}: signature state {facts.signature} does not fit the lane")
    verdict = judge(row, facts, settings.stream.stream, settings.partition)
    if verdict.reason is not None or verdict.outcome != header.outcome or verdict.entries != record.entries:
        raise FoldError(f"{where}: outcome {header.outcome}, the lane rules give {verdict.outcome}")
    events = take_entries(facts.count) if verdict.row is not None else ()
    return Move(header, record.header, verdict.entries, events, verdict.row)


def _check_quarantine(record: SealedRecord, header: SealHeader) -> None:
    head = bytes((1, EntryClass.QUARANTINE))
    if len(record.entries) != 1 or record.entries[0][:2] != head:
        raise FoldError(f"offset {header.offset}: quarantined without its entry")
    if QUARANTINE.decode(record.entries[0][2:])["digest"] != header.value_digest:
        raise FoldError(f"offset {header.offset}: quarantine entry of another message")


def _control_move(settings: PartitionSettings, state: SealState, record: SealedRecord, header: SealHeader) -> Move:
    head = bytes((1, EntryClass.CONTROL))
    if len(record.entries) != 1 or record.entries[0][:2] != head:
        raise FoldError(f"offset {header.offset}: control without its entry")
    control = Control(**CONTROL_ENTRY.decode(record.entries[0][2:]))
    reading = read_control(settings, state.source_id, control.encode())
    if isinstance(reading, SwitchReading):
        return Move(header, record.header, record.entries, switch=reading.switch)
    if not isinstance(reading, SchemaReading):
        raise FoldError(f"offset {header.offset}: a control message that could not take effect")
    added = SchemaEntry(reading.added.kind, reading.added.schema, reading.added.sha256)
    return Move(header, record.header, record.entries, added=added)


def _with_tick(settings: PartitionSettings, state: SealState, close_entry: bytes, move: Move) -> tuple[SealState, Move]:
    """Take from a close what no entry shows: the ticks since the last close, and the one that closed."""
    close = Close.decode(close_entry)
    ticks = close.ticks
    if close.tick is None and isinstance(move.switch, SourceSwitch):
        if ticks.number < state.ticks.number:
            raise FoldError(f"window {close.window}: tick counter or number fell")
        return replace(state, ticks=replace(state.ticks, number=ticks.number)), move  # its counter ends with its log
    if close.tick is None:
        if ticks.counter < state.ticks.counter or ticks.number < state.ticks.number:
            raise FoldError(f"window {close.window}: tick counter or number fell")
        before = TickState(ticks.counter, ticks.number, state.ticks.closed_number)
        return replace(state, ticks=before), move
    reading = read_control(settings, state.source_id, close.tick)
    if not isinstance(reading, TickReading) or move.header.outcome != "control" or move.entries:
        raise FoldError(f"window {close.window}: not closed by a valid tick")
    tick = reading.tick
    if tick.counter <= state.ticks.counter or tick.number < state.ticks.number:
        raise FoldError(f"window {close.window}: tick counter or number fell")
    before = replace(state.ticks, counter=tick.counter - 1)
    return replace(state, ticks=before), replace(move, tick=ValidTick(tick, close.tick))


def _compare(offset: int, record: SealedRecord, result: Advance) -> None:
    if result.state.link != record.link:
        raise FoldError(f"offset {offset}: chain link differs")
    if result.close_entry != record.close:
        raise FoldError(f"offset {offset}: close record is not the one that the rules give")
    if result.lane_rows != record.lane_rows:
        raise FoldError(f"offset {offset}: lane rows are not those of the table")
    if (record.checkpoint is None) != (record.close is None):
        raise FoldError(f"offset {offset}: checkpoint and close do not come together")


def decode_close(entry: bytes, where: str) -> Close:
    """A close record, or FoldError that names the place."""
    try:
        return Close.decode(entry)
    except FormatError as error:
        raise FoldError(f"{where}: no close record where one must stand") from error


def replay(
    settings: PartitionSettings,
    state: SealState,
    record: SealedRecord,
    value: bytes,
    salt: bytes,
    take_entries: TakeEntries | None = None,
) -> tuple[Move, Advance]:
    """As ``fold``, from the source value itself: re-hashes every event and re-runs every verdict.

    ``salt`` is that of the source offset as the vault keeps it. Without ``take_entries`` the caller compares
    ``Move.event_entries`` with the log, for example as whole bundles. Raises FoldError at the first contradiction.
    """
    require_known_format(settings, state)
    header = SealHeader.decode(record.header)
    if header.source_id != state.source_id or header.offset != state.next_offset:
        raise FoldError(f"offset {header.offset}: not the next message of this source log")
    move = move_of(settings, state, SourceMessage(header.offset, header.ts_us, value), salt)
    if move.header_bytes != record.header:
        found, expected = header.outcome, move.header.outcome
        raise FoldError(f"offset {header.offset}: sealed as {found}, the payload gives {expected} or other facts")
    if move.entries != record.entries:
        raise FoldError(f"offset {header.offset}: own entries are not those that the payload gives")
    if take_entries is not None and list(take_entries(len(move.event_entries))) != list(move.event_entries):
        raise FoldError(f"offset {header.offset}: events of the payload do not hash to their log entries")
    result = advance(settings, state, move)
    _compare(header.offset, record, result)
    return move, result
