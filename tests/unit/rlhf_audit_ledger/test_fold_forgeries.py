"""Records whose link fits but that no rule gives: what somebody with all the keys could write, and ``fold`` refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from builders import SOURCE_ID, START_US, Lane, make_genesis, make_sealer, schema_value, seal_values, taker, tick_value
from rlhf_audit_ledger.chain import next_link
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.fold import FoldError, fold, replay
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.merkle import leaf_hashes
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import SealState, first_state

SEALER = make_sealer()
SETTINGS = SEALER.settings
STATE = first_state(SETTINGS, SOURCE_ID)


def sealed_one(value: bytes | None) -> Sealed:
    return seal_values(SEALER, [value])[1][0]


def relinked(record: SealedRecord, header: SealHeader, entries: Sequence[bytes] = ()) -> SealedRecord:
    """A first record with this header and these own entries, and the link that fits them."""
    data = header.encode()
    return replace(
        record, header=data, entries=tuple(entries), link=next_link(STATE.link, 1, data, leaf_hashes(entries))
    )


BATCH, HOLE, BAD = sealed_one(Lane(SETTINGS).cut().value), sealed_one(None), sealed_one(b"rubbish")
TICK, ADDED = sealed_one(tick_value(SETTINGS, 1)), sealed_one(schema_value(SETTINGS, 2))
FORGED = {
    "a hole without an end": relinked(HOLE.record, replace(HOLE.header, end_offset=None), HOLE.record.entries),
    "a hole that ends where it begins": relinked(HOLE.record, replace(HOLE.header, end_offset=0), HOLE.record.entries),
    "a hole with another one's entry": relinked(HOLE.record, replace(HOLE.header, end_offset=9), HOLE.record.entries),
    "a tick with an end offset": relinked(TICK.record, replace(TICK.header, end_offset=9)),
    "accepted without facts": relinked(BATCH.record, replace(BATCH.header, batch=None)),
    "ignored with an entry": relinked(TICK.record, replace(TICK.header, outcome="ignored"), BAD.record.entries),
    "quarantined without its entry": relinked(BAD.record, BAD.header),
    "quarantined with another entry": relinked(BAD.record, BAD.header, HOLE.record.entries),
    "quarantined with another message's entry": relinked(
        BAD.record, replace(BAD.header, value_digest=bytes(32)), BAD.record.entries
    ),
    "a control message with another entry": relinked(ADDED.record, ADDED.header, BAD.record.entries),
    "a control message signed by nobody": relinked(
        ADDED.record, ADDED.header, [ADDED.record.entries[0][:-1] + bytes([ADDED.record.entries[0][-1] ^ 1])]
    ),
    "a checkpoint without a close": replace(TICK.record, checkpoint=b"x"),
}


@pytest.mark.parametrize("record", FORGED.values(), ids=FORGED)
def test_a_record_that_no_rule_gives_is_refused_though_its_link_fits(record: SealedRecord) -> None:
    with pytest.raises(FoldError):
        fold(SETTINGS, STATE, record, taker(BATCH.event_entries))


@pytest.mark.parametrize("one", [BATCH, HOLE, BAD, TICK, ADDED])
def test_the_honest_record_beside_each_forgery_folds(one: Sealed) -> None:
    fold(SETTINGS, STATE, one.record, taker(one.event_entries))


@pytest.mark.parametrize(("counter", "number"), [(0, 99), (9, 0)])
@pytest.mark.parametrize("by_tick", [True, False])
def test_a_close_cannot_take_tick_counter_or_number_back(counter: int, number: int, by_tick: bool) -> None:
    """Ticks add no entry, so a close's word on them is taken only forwards."""
    sealer = SEALER if by_tick else make_sealer(make_genesis(max_messages=1))
    values = [Lane(sealer.settings).cut().value, *([tick_value(sealer.settings, 1)] if by_tick else [])]
    _, records = seal_values(sealer, values)
    state: SealState = first_state(sealer.settings, SOURCE_ID)
    for one in records[:-1]:
        state = fold(sealer.settings, state, one.record, taker(one.event_entries))[1].state
    later = START_US // sealer.settings.stream.window_us + 1
    known = replace(state.ticks, counter=1 if counter == 0 else 0, number=later if number == 0 else -1)
    last = records[-1]
    with pytest.raises(FoldError, match="fell"):
        fold(sealer.settings, replace(state, ticks=known), last.record, taker(last.event_entries))


def test_a_close_by_a_tick_that_is_none_is_refused() -> None:
    _, records = seal_values(SEALER, [Lane(SETTINGS).cut().value, tick_value(SETTINGS, 1)])
    state = fold(SETTINGS, STATE, records[0].record, taker(records[0].event_entries))[1].state
    close = records[1].close
    assert close is not None
    forged: Close = replace(close, tick=b"no tick")
    with pytest.raises(FoldError, match="not closed by a valid tick"):
        fold(SETTINGS, state, replace(records[1].record, close=forged.encode()), taker([]))


def test_a_replay_compares_place_own_entries_and_events() -> None:
    value = BATCH.record.value
    assert value is not None
    replay(SETTINGS, STATE, BATCH.record, value, BATCH.salt)
    with pytest.raises(FoldError, match="not the next message"):
        replay(SETTINGS, replace(STATE, next_offset=1), BATCH.record, value, BATCH.salt)
    with pytest.raises(FoldError, match="own entries"):
        replay(SETTINGS, STATE, replace(BATCH.record, entries=HOLE.record.entries), value, BATCH.salt)
    with pytest.raises(FoldError, match="do not hash"):
        replay(SETTINGS, STATE, BATCH.record, value, BATCH.salt, taker([bytes(34)]))
