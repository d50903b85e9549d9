"""The seal step: one source message in, one sealed record out, whatever the message is.

``seal(state, message)`` is a pure function: no clock, no randomness, no
environment. Sealing the same messages again gives the same bytes, so a crash
costs nothing but time, duplicates are recognisable and forks are provable.

1. A jump in offsets is one hole record; the message itself comes after it.
2. A null value is a hole of its own.
3. Read the value (``reading``), judge it by the lane rules (``lanes``).
4. Make header and entries, then ``advance``: link, window, close.
5. At a close, sign the partition's checkpoint.

Ed25519 is deterministic, so the signature is part of the pure result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rlhf_audit_ledger.batch import value_digest
from rlhf_audit_ledger.checkpoint import Checkpoint, sign_checkpoint
from rlhf_audit_ledger.close import Close, TickState
from rlhf_audit_ledger.control import Control, Tick
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.entries import (
    CONTROL_ENTRY,
    QUARANTINE,
    SOURCE_HOLE,
    EntryClass,
    entry,
    event_entries,
    offset_salt,
    quarantine_digest,
)
from rlhf_audit_ledger.genesis import SchemaEntry
from rlhf_audit_ledger.header import BatchFacts, Outcome, SealHeader
from rlhf_audit_ledger.lanes import judge
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.reading import BatchReading, Refused, SchemaReading, SwitchReading, TickReading, read_value
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState, schemas_in_force
from rlhf_audit_ledger.step import Advance, Move, ValidTick, advance

NOTHING = bytes(32)  # value_digest of a hole


@dataclass(frozen=True, slots=True)
class Sealer:
    """What the seal step of a partition needs besides its state: settings and two secrets."""

    settings: PartitionSettings
    quarantine_key: bytes
    signer: Signer

    def __repr__(self) -> str:
        return f"Sealer({self.settings.name})"


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed record with what it was made of, so that nobody downstream hashes again.

    ``event_entries`` and ``leaves`` are those of this message; the close entry is not among them. ``salt`` is that of
    the source offset, 16 bytes.
    """

    record: SealedRecord
    header: SealHeader
    event_entries: Sequence[bytes]
    leaves: list[bytes]
    close: Close | None
    salt: bytes


def seal_all(sealer: Sealer, state: SealState, message: SourceMessage) -> tuple[SealState, list[Sealed]]:
    """Seal a message and, before it, the hole that a jump in offsets leaves; an offset already sealed gives nothing."""
    if message.offset < state.next_offset:
        return state, []
    sealed = []
    if message.offset > state.next_offset:
        state, hole = seal_hole(sealer, state, message.ts_us, message.offset)
        sealed.append(hole)
    state, one = seal(sealer, state, message)
    return state, [*sealed, one]


def seal(sealer: Sealer, state: SealState, message: SourceMessage) -> tuple[SealState, Sealed]:
    """Seal the message at exactly ``state.next_offset``."""
    if message.offset != state.next_offset:
        raise ValueError(f"{sealer.settings.name}: offset {message.offset}, expected {state.next_offset}")
    if message.value is None:
        return seal_hole(sealer, state, message.ts_us, message.offset + 1)
    salt = offset_salt(sealer.quarantine_key, state.source_id, message.offset)
    return _finish(sealer, state, move_of(sealer.settings, state, message, salt), message.value, salt)


def seal_hole(sealer: Sealer, state: SealState, ts_us: int, end_offset: int) -> tuple[SealState, Sealed]:
    """Seal the offsets from the next one to ``end_offset`` (exclusive) as holding nothing readable."""
    salt = offset_salt(sealer.quarantine_key, state.source_id, state.next_offset)
    return _finish(sealer, state, hole_move(state, ts_us, end_offset), None, salt)


def _finish(sealer: Sealer, state: SealState, move: Move, value: bytes | None, salt: bytes) -> tuple[SealState, Sealed]:
    result = advance(sealer.settings, state, move)
    checkpoint = None
    if result.close is not None:
        checkpoint = sign_checkpoint(checkpoint_of(sealer.settings, result), sealer.signer)
    record = SealedRecord(
        header=move.header_bytes,
        link=result.state.link,
        entries=move.entries,
        close=result.close_entry,
        checkpoint=checkpoint,
        lane_rows=result.lane_rows,
        value=value,
    )
    return result.state, Sealed(record, move.header, move.event_entries, result.leaves, result.close, salt)


def checkpoint_of(settings: PartitionSettings, result: Advance) -> Checkpoint:
    """The checkpoint that a close calls for."""
    return Checkpoint(settings.origin, result.state.tree.size, result.state.tree.root())


def hole_move(state: SealState, ts_us: int, end_offset: int) -> Move:
    """Offsets from the next one to ``end_offset`` (exclusive) hold nothing readable."""
    header = SealHeader(state.source_id, state.next_offset, ts_us, "hole", end_offset, NOTHING, None)
    body = {"source_id": state.source_id, "first_offset": state.next_offset, "end_offset": end_offset}
    return Move(header, header.encode(), (entry(EntryClass.SOURCE_HOLE, SOURCE_HOLE.encode(body)),))


def move_of(settings: PartitionSettings, state: SealState, message: SourceMessage, salt: bytes) -> Move:
    """What a message with a value does. ``verify`` compares this with what was sealed, with the salt of the vault."""
    if message.value is None:
        raise ValueError("a null value is a hole")
    reading = read_value(settings, schemas_in_force(settings, state), state.lanes, state.source_id, message.value)
    if isinstance(reading, BatchReading):
        return _batch_move(settings, state, message, reading, salt)
    if isinstance(reading, TickReading):
        return _tick_move(state, message, reading)
    if isinstance(reading, SchemaReading):
        return _schema_move(settings, state, message, reading)
    if isinstance(reading, SwitchReading):
        header = _header(state, message, "control")
        return Move(header, header.encode(), (_control_entry(reading.control),), switch=reading.switch)
    return _quarantine_move(state, message, reading, salt)


def _header(
    state: SealState,
    message: SourceMessage,
    outcome: Outcome,
    *,
    batch: BatchFacts | None = None,
    digest: bytes | None = None,
) -> SealHeader:
    if digest is None:
        digest = value_digest(message.value or b"")
    return SealHeader(state.source_id, message.offset, message.ts_us, outcome, None, digest, batch)


def _batch_move(
    settings: PartitionSettings, state: SealState, message: SourceMessage, reading: BatchReading, salt: bytes
) -> Move:
    facts = reading.facts
    stream = settings.stream.stream
    verdict = judge(state.lanes.get(facts.producer), facts, stream, settings.partition)
    if verdict.reason is not None:
        return _quarantine_move(state, message, Refused(verdict.reason), salt)
    header = _header(state, message, verdict.outcome, batch=facts)
    events: Sequence[bytes] = ()
    if verdict.row is not None:
        events = event_entries(stream, facts.kind, facts.schema, reading.events)
    return Move(header, header.encode(), verdict.entries, events, verdict.row)


def tick_is_valid(ticks: TickState, tick: Tick) -> bool:
    """``counter`` goes on by one and ``number`` never falls."""
    return tick.counter == ticks.counter + 1 and tick.number >= ticks.number


def _tick_move(state: SealState, message: SourceMessage, reading: TickReading) -> Move:
    if tick_is_valid(state.ticks, reading.tick):
        header = _header(state, message, "control")
        return Move(header, header.encode(), tick=ValidTick(reading.tick, reading.value), is_silent=True)
    header = _header(state, message, "ignored")
    return Move(header, header.encode(), is_silent=True)


def _schema_move(settings: PartitionSettings, state: SealState, message: SourceMessage, reading: SchemaReading) -> Move:
    added = SchemaEntry(reading.added.kind, reading.added.schema, reading.added.sha256)
    listed = schemas_in_force(settings, state) | {(item.kind, item.schema) for item in state.pending_schemas}
    if (added.kind, added.schema) in listed:
        header = _header(state, message, "ignored")
        return Move(header, header.encode(), is_silent=True)
    header = _header(state, message, "control")
    return Move(header, header.encode(), (_control_entry(reading.control),), added=added)


def _control_entry(control: Control) -> bytes:
    return entry(EntryClass.CONTROL, CONTROL_ENTRY.encode(asdict(control)))


def _quarantine_move(state: SealState, message: SourceMessage, refused: Refused, salt: bytes) -> Move:
    value = message.value or b""
    digest = quarantine_digest(salt, value)
    header = _header(state, message, "quarantined", digest=digest)
    body = QUARANTINE.encode({"reason": refused.reason, "length": len(value), "digest": digest})
    return Move(header, header.encode(), (entry(EntryClass.QUARANTINE, body),))
