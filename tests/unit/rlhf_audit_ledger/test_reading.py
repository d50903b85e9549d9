"""Reading source values: every reason for quarantine by a message that has it, and no bytes that raise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import (
    ANNOTATION,
    ENROLMENT,
    OPERATOR,
    PRODUCER,
    PRODUCER_START,
    SOURCE_ID,
    START_US,
    STRANGER,
    TICKER,
    Lane,
    format_value,
    make_genesis,
    make_sealer,
    schema_value,
    seal_values,
    switch_of,
    switch_value,
    tick_of,
    tick_value,
)
from oracle.ledger_by_the_book import read
from rlhf_audit_ledger.batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS,
    MAX_VALUE_BYTES,
    batch_digest,
    encode_batch,
    enrolment_message,
    event_digest,
    open_envelope,
    value_digest,
)
from rlhf_audit_ledger.control import (
    MAX_CONTROL_BYTES,
    Control,
    ControlType,
    SchemaAdd,
    SourceSwitch,
    Tick,
    signed_control,
)
from rlhf_audit_ledger.ed25519 import SignatureError, Signer
from rlhf_audit_ledger.ids import key_id
from rlhf_audit_ledger.lanes import MAX_GAP, MAX_OPEN_GAPS, MAX_SEQ
from rlhf_audit_ledger.reading import BatchReading, Refused, TickReading, read_value
from rlhf_audit_ledger.state import first_state, schemas_in_force
from rlhf_audit_schemas.errors import FormatError

SEALER = make_sealer()
SETTINGS = SEALER.settings
ENROLLED = make_sealer(make_genesis(enrolled=True))
SMALL_ORDER = b"\x01" + bytes(31)


def other(**changes: Any) -> list[bytes | None]:
    """One first batch of a lane, with these fields changed."""
    return [Lane(SETTINGS).other(**changes).value]


def after(count: int, **changes: Any) -> list[bytes | None]:
    """An honest first batch, then one that ``changes`` make dishonest."""
    lane = Lane(SETTINGS)
    return [lane.cut(count).value, lane.other(**changes).value]


def control(kind: int = 1, body: bytes | None = None, **changes: Any) -> list[bytes | None]:
    """A control message, signed by the ticker before its fields are changed."""
    body = tick_of(SETTINGS, 1, START_US).encode() if body is None else body
    signed = Control.decode(signed_control(ControlType(1), body, TICKER))
    return [replace(signed, **({"control": kind} | changes)).encode()]


def tick(**changes: Any) -> list[bytes | None]:
    return [tick_value(SETTINGS, 1, START_US, **changes)]


def gaps() -> list[bytes | None]:
    lane = Lane(SETTINGS)
    lane.next_body = replace(lane.next_body, first_seq=1)
    values: list[bytes | None] = []
    for _ in range(MAX_OPEN_GAPS + 1):
        values.append(lane.cut().value)
        lane.next_body = replace(lane.next_body, first_seq=lane.next_body.first_seq + 1)
    return values


def after_final() -> list[bytes | None]:
    lane = Lane(SETTINGS)
    lost, last = lane.cut(), lane.cut(final=True)
    del lost
    return [last.value, lane.cut().value]


BIG = b"x" * 200_000


def switch(signer: Signer = OPERATOR, **changes: Any) -> list[bytes | None]:
    return [switch_value(SETTINGS, signer, **changes)]


def formatted(signer: Signer = OPERATOR, **changes: Any) -> list[bytes | None]:
    return [format_value(SETTINGS, signer, **changes)]


REASONS: dict[str, list[list[bytes | None]]] = {
    "too_large": [
        [b"\x01" + bytes(MAX_VALUE_BYTES)],
        other(events=[BIG] * 4),
        control(body=bytes(MAX_CONTROL_BYTES + 1)),
    ],
    "undecodable": [[b""], [b"\x03"], [b"\x01"], [b"\x02"], [b"rubbish"], [(other()[0] or b"") + b"\0"],
                    [tick_value(SETTINGS, 1) + b"\0"]],
    "wrong_ledger": [
        other(ledger_id=bytes(16)),
        tick(ledger_id=bytes(16)),
        switch(ledger_id=bytes(16)),
        formatted(ledger_id=bytes(16)),
        [signed_control(ControlType.SCHEMA_ADD, SchemaAdd(bytes(16), ANNOTATION, 2, bytes(32)).encode(), OPERATOR)],
    ],
    "wrong_stream": [other(stream="lifecycle"), tick(stream="lifecycle"), switch(stream="lifecycle"),
                     formatted(stream="lifecycle")],
    "wrong_partition": [other(partition=1), tick(partition=1), switch(partition=1), formatted(partition=1)],
    "producer_name": [other(producer=""), other(producer="é" * 101)],
    "number_overflow": [
        other(epoch=-1),
        other(epoch=1 << 32),
        other(first_seq=-1),
        other(first_seq=MAX_SEQ, open_key=None),
    ],
    "kind_of_other_stream": [
        other(kind=PRODUCER_START),
        other(kind=-1),
        [schema_value(SETTINGS, 2, PRODUCER_START)],
        [schema_value(SETTINGS, 1 << 16)],
    ],
    "unlisted_schema": [other(schema=2), other(kind=0x01FF)],
    "empty": [other(events=())],
    "too_many_events": [other(events=[b""] * (MAX_BATCH_EVENTS + 1))],
    "open_not_first": [after(1, open_key=PRODUCER.public_key)],
    "enrolment": [other(open_key=SMALL_ORDER)],
    "no_key": [other(open_key=None), [Lane(SETTINGS, signer=None).cut().value, *after(1)[1:]]],
    "unsigned": [[Lane(SETTINGS).cut().value, encode_batch(Lane(SETTINGS).body(), None).value]],
    "signature": [[Lane(SETTINGS).other(signer=STRANGER).value], [Lane(SETTINGS).cut().value, *other(signer=STRANGER)]],
    "control_unknown": [control(3), control(0), control(-1), control(300)],
    "control_signer": [control(key_id=bytes(8)), [schema_value(SETTINGS, 2, signer=TICKER)],
                       switch(TICKER), formatted(TICKER)],
    "control_signature": [control(signature=bytes(64)), control(body=b"", key_id=key_id(TICKER.public_key),
                                                                signature=bytes(64))],
    "control_undecodable": [control(body=b"")],
    "wrong_source": [tick(source_id=bytes(16)), switch(source_id=bytes(16)), formatted(source_id=bytes(16))],
    "switch_target": [switch(new_source_id=SOURCE_ID), switch(next_offset=-1), formatted(format=1), formatted(format=0),
                      formatted(format=1 << 16)],
    "tick_number": [tick(number=0), tick(global_size=-1)],
    "broken_lane": [after(1, prev_batch=bytes(32))],
    "too_far": [after(1, first_seq=2 + MAX_GAP)],
    "too_many_gaps": [gaps()],
    "after_final": [after_final()],
    "overlap": [after(2, first_seq=1, events=(b"a", b"b"))],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "values"), [(reason, values) for reason, lists in REASONS.items() for values in lists]
)
def test_a_bad_message_is_quarantined_with_its_reason(reason: str, values: list[bytes | None]) -> None:
    state, records = seal_values(SEALER, values)
    last = records[-1]
    assert last.header.outcome == "quarantined"
    assert read("quarantine", last.record.entries[0][2:])["reason"] == reason
    assert last.event_entries == ()
    assert last.header.batch is None
    assert all(one.header.outcome == "accepted" for one in records[:-1])
    assert state.m == len(values)


def test_the_neighbour_of_every_bad_message_is_accepted() -> None:
    for good in (
        other(),
        other(producer="é" * 100),
        other(epoch=(1 << 32) - 1),
        other(events=[b""] * MAX_BATCH_EVENTS),
        other(events=[bytes(MAX_BATCH_BYTES)]),
        other(events=(), final=True),
        after(1),
        [Lane(SETTINGS, signer=None).cut().value],
    ):
        assert seal_values(SEALER, good)[1][-1].header.outcome == "accepted", good
    for good in (tick(), [schema_value(SETTINGS, 2)], [schema_value(SETTINGS, (1 << 16) - 1)]):
        assert seal_values(SEALER, good)[1][-1].header.outcome == "control"


def test_a_quarantined_message_leaves_a_salted_digest_and_its_length() -> None:
    _, (one,) = seal_values(SEALER, [b"a name that must not leak"])
    body = read("quarantine", one.record.entries[0][2:])
    assert body["length"] == 25
    assert body["digest"] == one.header.value_digest != value_digest(b"a name that must not leak")
    assert b"leak" not in one.record.header + one.record.entries[0]


def lanes_of(enrolment: bytes | None, epoch: int = 1) -> list[bytes | None]:
    return [Lane(ENROLLED.settings, epoch=epoch, enrolment=enrolment).cut().value]


def test_with_enrolment_signers_only_an_enrolled_producer_opens_a_lane() -> None:
    ledger = ENROLLED.settings.ledger_id
    good = ENROLMENT.sign(enrolment_message(ledger, "ingest/aa", 1, PRODUCER.public_key))
    assert seal_values(ENROLLED, lanes_of(good))[1][-1].header.outcome == "accepted"
    by_stranger = STRANGER.sign(enrolment_message(ledger, "ingest/aa", 1, PRODUCER.public_key))
    unsigned = [Lane(ENROLLED.settings, signer=None).cut().value]
    for values in (lanes_of(None), lanes_of(by_stranger), lanes_of(good, epoch=2), unsigned):
        (one,) = seal_values(ENROLLED, values)[1]
        assert read("quarantine", one.record.entries[0][2:])["reason"] == "enrolment"


def test_a_signed_batch_before_its_opening_is_unchecked_and_the_next_one_is_checked() -> None:
    lane = Lane(SETTINGS)
    first, second, third = lane.cut(), lane.cut(), lane.cut()
    _, records = seal_values(SEALER, [second.value, first.value, third.value])
    facts = [one.header.batch for one in records]
    assert [batch.signature for batch in facts if batch is not None] == ["unchecked", "valid", "valid"]


def test_a_lane_that_is_final_before_it_opened_still_opens() -> None:
    lane = Lane(SETTINGS)
    batches = [lane.cut(), lane.cut(), lane.cut(final=True)]
    state, records = seal_values(SEALER, [batches[at].value for at in (2, 1, 0)])
    assert [one.header.outcome for one in records] == ["accepted", "gap_filled", "gap_filled"]
    assert [one.header.batch.signature for one in records if one.header.batch] == ["unchecked", "unchecked", "valid"]
    row = state.lanes.get("ingest/aa")
    assert row is not None
    assert row.state == "ended"


def test_a_stranger_who_opens_a_lane_again_is_refused() -> None:
    lane = Lane(SETTINGS)
    values = [lane.cut(2).value, Lane(SETTINGS, signer=STRANGER).cut(2).value]
    assert seal_values(SEALER, values)[1][-1].header.outcome == "quarantined"


@given(data=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(b"\x01".__add__)))
def test_any_bytes_have_a_reading(data: bytes) -> None:
    state = first_state(SETTINGS, SOURCE_ID)
    reading = read_value(SETTINGS, schemas_in_force(SETTINGS, state), state.lanes, SOURCE_ID, data)
    assert isinstance(reading, Refused)


@given(which=st.integers(0, 2), bit=st.integers(0, 100_000))
def test_a_flipped_bit_of_a_good_message_is_never_accepted(which: int, bit: int) -> None:
    value = bytearray((other()[0] or b"", tick()[0] or b"", schema_value(SETTINGS, 2))[which])
    bit %= 8 * len(value)
    value[bit // 8] ^= 1 << bit % 8
    state = first_state(SETTINGS, SOURCE_ID)
    reading = read_value(SETTINGS, schemas_in_force(SETTINGS, state), state.lanes, SOURCE_ID, bytes(value))
    assert isinstance(reading, Refused)


def test_a_batch_is_read_back_as_it_was_cut() -> None:
    body = Lane(SETTINGS).body(3, final=True)
    batch = encode_batch(body, PRODUCER)
    encoded, signature = open_envelope(batch.value)
    assert type(body).decode(encoded) == replace(body, events=list(body.events))
    assert batch.digest == batch_digest(encoded)
    assert signature is not None
    assert encode_batch(body, PRODUCER) == batch, "the same batch is the same bytes"
    state = first_state(SETTINGS, SOURCE_ID)
    reading = read_value(SETTINGS, SETTINGS.schemas, state.lanes, SOURCE_ID, batch.value)
    assert isinstance(reading, BatchReading)
    assert list(reading.events) == list(body.events)


def test_an_event_digest_binds_how_the_bytes_are_read() -> None:
    digests = {event_digest(kind, schema, b"event") for kind in (0x0101, 0x0102) for schema in (1, 2)}
    assert len(digests) == 4


def test_control_messages_are_read_back_as_they_were_signed() -> None:
    tick_1 = tick_of(SETTINGS, 1, START_US, flush=True)
    opened = Control.decode(signed_control(ControlType.TICK, tick_1.encode(), TICKER))
    opened.check(TICKER.public_key)
    assert Tick.decode(opened.body) == tick_1
    with pytest.raises(SignatureError):
        opened.check(OPERATOR.public_key)
    with pytest.raises(SignatureError):
        replace(opened, control=2).check(TICKER.public_key)
    added = SchemaAdd(bytes(16), 1, 2, bytes(32))
    assert SchemaAdd.decode(added.encode()) == added
    switched = switch_of(SETTINGS)
    assert SourceSwitch.decode(switched.encode()) == switched
    for decode in (Control.decode, Tick.decode, SchemaAdd.decode, SourceSwitch.decode):
        with pytest.raises(FormatError):
            decode(b"")


def test_a_tick_reading_keeps_the_value_verbatim() -> None:
    value = tick()[0]
    assert value is not None
    reading = read_value(SETTINGS, SETTINGS.schemas, first_state(SETTINGS, SOURCE_ID).lanes, SOURCE_ID, value)
    assert isinstance(reading, TickReading)
    assert reading.value == value
