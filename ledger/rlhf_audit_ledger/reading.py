"""Reading a source value: bytes to facts, or a reason why not (``docs/format.md`` section 2).

In this order, and the first that fails is the reason:

1. size, then the envelope and body decode strictly;
2. the message is for this log: ledger, stream, partition;
3. producer, epoch and numbers are within their bounds;
4. kind and schema are listed and belong to the stream; some event or final; not too many;
5. the opening and the signature hold.

Lane rules come after (``lanes.judge``). Reading never raises on hostile
bytes: every value has a reading. ``verify`` runs the same function over vault
payloads, so a good message that was quarantined shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf_audit_ledger.batch import (
    BATCH_TYPE,
    CONTROL_TYPE,
    MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS,
    MAX_VALUE_BYTES,
    BatchBody,
    batch_digest,
    enrolment_message,
    open_envelope,
    signed_message,
)
from rlhf_audit_ledger.control import (
    MAX_CONTROL_BYTES,
    ROLE_OF,
    Control,
    ControlType,
    FormatSwitch,
    SchemaAdd,
    SourceSwitch,
    Tick,
)
from rlhf_audit_ledger.ed25519 import SignatureError, check_public_key, verify
from rlhf_audit_ledger.genesis import FORMAT
from rlhf_audit_ledger.header import BatchFacts, SignatureState
from rlhf_audit_ledger.ids import MAX_EPOCH, MAX_PRODUCER_BYTES
from rlhf_audit_ledger.lanes import MAX_SEQ, LaneRow, LaneTable
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import stream_of_kind


@dataclass(frozen=True, slots=True)
class BatchReading:
    """A batch in good form, with its events."""

    facts: BatchFacts
    events: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class TickReading:
    """A well-signed tick of this partition; whether it is valid depends on the last one."""

    tick: Tick
    value: bytes


@dataclass(frozen=True, slots=True)
class SchemaReading:
    """A well-signed SchemaAdd."""

    added: SchemaAdd
    control: Control


@dataclass(frozen=True, slots=True)
class SwitchReading:
    """A well-signed SourceSwitch away from this source log, or FormatSwitch to a later format."""

    switch: SourceSwitch | FormatSwitch
    control: Control


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that cannot be accepted; ``reason`` is one of the words in ``docs/format.md``."""

    reason: str


ControlReading = TickReading | SchemaReading | SwitchReading | Refused
Reading = BatchReading | ControlReading


def read_value(
    settings: PartitionSettings, schemas: frozenset[tuple[int, int]], lanes: LaneTable, source_id: bytes, value: bytes
) -> Reading:
    """The reading of a source value. ``schemas`` are the pairs in force in the open window."""
    if len(value) > MAX_VALUE_BYTES:
        return Refused("too_large")
    if value[:1] == BATCH_TYPE:
        return _read_batch(settings, schemas, lanes, value)
    if value[:1] == CONTROL_TYPE:
        return read_control(settings, source_id, value)
    return Refused("undecodable")


def _read_batch(
    settings: PartitionSettings, schemas: frozenset[tuple[int, int]], lanes: LaneTable, value: bytes
) -> BatchReading | Refused:
    try:
        encoded, signature = open_envelope(value)
        body = BatchBody.decode(encoded)
    except FormatError:
        return Refused("undecodable")
    facts = facts_of(body, encoded, "unsigned" if signature is None else "unchecked")
    reason = _misaddressed(settings, body.ledger_id, body.stream, body.partition)
    reason = reason or malformed(body.stream, schemas, facts)
    if reason is None and sum(map(len, body.events)) > MAX_BATCH_BYTES:
        reason = "too_large"
    if reason is not None:
        return Refused(reason)
    state = _signature_state(settings, body.enrolment, facts, lanes.get(body.producer), signature)
    if isinstance(state, Refused):
        return state
    return BatchReading(replace(facts, signature=state), body.events)


def facts_of(body: BatchBody, encoded: bytes, signature: SignatureState) -> BatchFacts:
    """What a header tells of a batch; ``encoded`` are the bytes of ``body``."""
    return BatchFacts(
        producer=body.producer,
        epoch=body.epoch,
        first_seq=body.first_seq,
        count=len(body.events),
        kind=body.kind,
        schema=body.schema,
        prev_batch=body.prev_batch,
        final=body.final,
        signature=signature,
        open_key=body.open_key,
        digest=batch_digest(encoded),
    )


def _misaddressed(settings: PartitionSettings, ledger_id: bytes, stream: str, partition: int) -> str | None:
    if ledger_id != settings.ledger_id:
        return "wrong_ledger"
    if stream != settings.stream.stream:
        return "wrong_stream"
    return "wrong_partition" if partition != settings.partition else None


def malformed(stream: str, schemas: frozenset[tuple[int, int]], facts: BatchFacts) -> str | None:
    """Reason why a batch with these facts cannot be accepted anywhere in ``stream``; None if there is none."""
    if not 0 < len(facts.producer.encode("utf-8")) <= MAX_PRODUCER_BYTES:
        return "producer_name"
    if not 0 <= facts.epoch <= MAX_EPOCH or facts.first_seq < 0 or facts.end_seq > MAX_SEQ:
        return "number_overflow"
    if stream_of_kind(facts.kind) != stream:
        return "kind_of_other_stream"
    if (facts.kind, facts.schema) not in schemas:
        return "unlisted_schema"
    if facts.count == 0 and not facts.final:
        return "empty"
    if facts.count > MAX_BATCH_EVENTS:
        return "too_many_events"
    return "open_not_first" if facts.open_key is not None and facts.first_seq != 0 else None


def _signature_state(
    settings: PartitionSettings,
    enrolment: bytes | None,
    facts: BatchFacts,
    row: LaneRow | None,
    signature: bytes | None,
) -> SignatureState | Refused:
    """Whether the batch is signed by the key that opened its lane."""
    try:
        if facts.open_key is not None:
            check_public_key(facts.open_key)
        _check_enrolment(settings, enrolment, facts)
    except SignatureError:
        return Refused("enrolment")
    is_known, key = lane_key(row, facts)
    if not is_known:
        return "unsigned" if signature is None else "unchecked"
    if key is None:
        return "unsigned" if signature is None else Refused("no_key")
    if signature is None:
        return Refused("unsigned")
    try:
        verify(key, signed_message(facts.digest), signature)
    except SignatureError:
        return Refused("signature")
    return "valid"


def lane_key(row: LaneRow | None, facts: BatchFacts) -> tuple[bool, bytes | None]:
    """Whether the opening of the batch's lane is known, and its key (None: it opened unsigned)."""
    if row is None or facts.epoch > row.epoch:
        return facts.first_seq == 0, facts.open_key
    if facts.epoch < row.epoch or row.state == "ended":
        return False, None
    if row.state == "unopened" or (row.gaps and row.gaps[0][0] == 0):  # a lane may be final before it opened
        return facts.first_seq == 0, facts.open_key
    return True, row.key


def _check_enrolment(settings: PartitionSettings, enrolment: bytes | None, facts: BatchFacts) -> None:
    """A ledger with enrolment signers takes new lanes only from producers that one of them signed."""
    signers = settings.keys_of("enrolment")
    if not signers or facts.first_seq != 0:
        return
    if facts.open_key is None or enrolment is None:
        raise SignatureError("lane opens without an enrolment signature")
    message = enrolment_message(settings.ledger_id, facts.producer, facts.epoch, facts.open_key)
    for key in signers:
        try:
            verify(key, message, enrolment)
        except SignatureError:
            continue
        return
    raise SignatureError("no enrolment signer of the genesis signed this producer")


def read_control(settings: PartitionSettings, source_id: bytes, value: bytes) -> ControlReading:
    """The reading of a control message on the source log ``source_id``."""
    try:
        control = Control.decode(value)
    except FormatError:
        return Refused("undecodable")
    if len(control.body) > MAX_CONTROL_BYTES:
        return Refused("too_large")
    if control.control not in ROLE_OF:
        return Refused("control_unknown")
    kind = ControlType(control.control)
    key = settings.signers.get((control_role(settings, kind), control.key_id))
    if key is None:
        return Refused("control_signer")
    try:
        control.check(key)
    except SignatureError:
        return Refused("control_signature")
    try:
        if kind is ControlType.TICK:
            return read_tick(settings, source_id, Tick.decode(control.body), value)
        if kind is ControlType.SOURCE_SWITCH:
            return _read_switch(settings, source_id, SourceSwitch.decode(control.body), control)
        if kind is ControlType.FORMAT_SWITCH:
            return _read_switch(settings, source_id, FormatSwitch.decode(control.body), control)
        added = SchemaAdd.decode(control.body)
    except FormatError:
        return Refused("control_undecodable")
    if added.ledger_id != settings.ledger_id:
        return Refused("wrong_ledger")
    if stream_of_kind(added.kind) != settings.stream.stream or not 0 <= added.schema < 1 << 16:
        return Refused("kind_of_other_stream")
    return SchemaReading(added, control)


def control_role(settings: PartitionSettings, kind: ControlType) -> str:
    """The role that signs a control message in this ledger: without an operator, a ticker switches."""
    is_switch = kind in (ControlType.SOURCE_SWITCH, ControlType.FORMAT_SWITCH)
    return "ticker" if is_switch and not settings.keys_of(ROLE_OF[kind]) else ROLE_OF[kind]


def _read_switch(
    settings: PartitionSettings, source_id: bytes, switch: SourceSwitch | FormatSwitch, control: Control
) -> SwitchReading | Refused:
    reason = _misaddressed(settings, switch.ledger_id, switch.stream, switch.partition)
    if reason is not None:
        return Refused(reason)
    if switch.source_id != source_id:
        return Refused("wrong_source")
    if isinstance(switch, FormatSwitch):
        return SwitchReading(switch, control) if FORMAT < switch.format < 1 << 16 else Refused("switch_target")
    if switch.new_source_id == source_id or switch.next_offset < 0:
        return Refused("switch_target")
    return SwitchReading(switch, control)


def read_tick(settings: PartitionSettings, source_id: bytes, tick: Tick, value: bytes) -> TickReading | Refused:
    reason = _misaddressed(settings, tick.ledger_id, tick.stream, tick.partition)
    if reason is not None:
        return Refused(reason)
    if tick.source_id != source_id:
        return Refused("wrong_source")
    if tick.number != tick.ts_us // settings.stream.window_us or tick.global_size < 0:
        return Refused("tick_number")
    return TickReading(tick, value)
