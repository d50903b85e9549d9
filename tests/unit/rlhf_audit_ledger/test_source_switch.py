"""A switch of the source: the last message of one log, a window of its own end, and the state to go on with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    OPERATOR,
    OTHER_SOURCE_ID,
    SOURCE_ID,
    START_US,
    TICKER,
    WINDOW_US,
    Lane,
    make_genesis,
    make_sealer,
    messages,
    schema_value,
    seal_values,
    sealed_from,
    switch_value,
    taker,
    tick_value,
)
from oracle.ledger_by_the_book import read
from rlhf_audit_ledger.close import Close, TickState
from rlhf_audit_ledger.fold import FoldError, fold
from rlhf_audit_ledger.genesis import SchemaEntry
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_ledger.state import SealState, first_state

SEALER = make_sealer()
SETTINGS = SEALER.settings
LATER_US = START_US + 5 * WINDOW_US


def reason_of(one: Sealed) -> str | None:
    if one.header.outcome != "quarantined":
        return None
    reason: str = read("quarantine", one.record.entries[0][2:])["reason"]
    return reason


def switched(sealer: Sealer = SEALER, **changes: Any) -> tuple[SealState, list[Sealed]]:
    """A batch, a tick that closes its window, another batch, and the switch."""
    lane = Lane(sealer.settings)
    values = [lane.cut().value, tick_value(sealer.settings, 1, LATER_US), lane.cut().value]
    return seal_values(sealer, [*values, switch_value(sealer.settings, **changes)])


def test_a_switch_closes_its_window_and_the_close_says_where_to_go_on() -> None:
    state, records = switched(next_offset=7)
    close = records[-1].close
    assert close is not None
    assert (close.source_id, close.next_offset, close.first_offset) == (OTHER_SOURCE_ID, 7, 2)
    assert (close.tick, close.window, close.counts[5]) == (None, 1, 1)
    assert close.ticks == TickState(0, LATER_US // WINDOW_US, LATER_US // WINDOW_US)
    assert (state.source_id, state.next_offset, state.first_offset) == (OTHER_SOURCE_ID, 7, 7)
    assert (state.last_value, state.window, state.ticks) == (None, None, close.ticks)
    assert (records[-1].header.source_id, records[-1].header.offset) == (SOURCE_ID, 3)


@pytest.mark.parametrize("mode", ["off", "strong"])
def test_a_switch_of_a_drained_partition_is_a_window_of_its_own(mode: str) -> None:
    sealer = make_sealer(make_genesis(mode=mode))
    lane = Lane(sealer.settings)
    values = [lane.cut().value, tick_value(sealer.settings, 1, flush=True), switch_value(sealer.settings)]
    state, records = seal_values(sealer, values)
    assert [one.close is not None for one in records] == [False, True, True]
    last = records[-1].close
    assert last is not None
    assert (last.window, last.end_index - last.first_index, state.window_id) == (1, 1, 2)


def test_the_new_log_goes_on_with_the_same_lanes_numbers_and_chain() -> None:
    sealer = make_sealer()
    lane = Lane(sealer.settings)
    state, before = seal_values(sealer, [lane.cut(3).value, switch_value(sealer.settings)])
    tick = tick_value(sealer.settings, 1, source_id=OTHER_SOURCE_ID)
    state, after = sealed_from(sealer, messages([lane.cut(2).value, tick], 1), state)
    assert [one.header.outcome for one in after] == ["accepted", "control"]
    assert {one.header.source_id for one in after} == {OTHER_SOURCE_ID}
    close = after[-1].close
    assert close is not None
    assert (close.window, close.m, close.first_offset, close.next_offset) == (1, len(before) + 2, 1, 3)


def test_ticks_count_anew_and_time_never_falls() -> None:
    state, _ = switched()
    old = tick_value(SETTINGS, 2, LATER_US)
    early = tick_value(SETTINGS, 1, START_US, source_id=OTHER_SOURCE_ID)
    good = tick_value(SETTINGS, 1, LATER_US, source_id=OTHER_SOURCE_ID)
    _, records = sealed_from(SEALER, messages([old, early, good], 1), state)
    assert reason_of(records[0]) == "wrong_source"
    assert [one.header.outcome for one in records[1:]] == ["ignored", "control"]


def test_a_switch_that_comes_again_is_of_another_log() -> None:
    state, _ = switched()
    _, (again,) = sealed_from(SEALER, messages([switch_value(SETTINGS)], 1), state)
    assert reason_of(again) == "wrong_source"


def test_schemas_that_wait_are_in_force_behind_it() -> None:
    state, records = seal_values(SEALER, [schema_value(SETTINGS, 2), switch_value(SETTINGS)])
    assert state.added_schemas == (SchemaEntry(0x0101, 2, bytes(32)),)
    assert records[-1].close is not None


def test_the_genesis_decides_who_may_switch() -> None:
    """An operator if it names one; else the ticker, who owns the partition's source anyway."""
    alone = make_sealer(make_genesis(operated=False))
    for sealer, signer, reason in (
        (SEALER, OPERATOR, None),
        (SEALER, TICKER, "control_signer"),
        (alone, TICKER, None),
        (alone, OPERATOR, "control_signer"),
    ):
        _, (one,) = seal_values(sealer, [switch_value(sealer.settings, signer)])
        assert reason_of(one) == reason


def forged_close(close: Close, how: str) -> Close:
    if how == "another source":
        return replace(close, source_id=SOURCE_ID)
    if how == "another offset":
        return replace(close, next_offset=close.next_offset + 1)
    if how == "ticks go on":
        return replace(close, ticks=replace(close.ticks, counter=1))
    if how == "time falls":
        return replace(close, ticks=replace(close.ticks, number=0))
    return replace(close, tick=tick_value(SETTINGS, 2, LATER_US))


@pytest.mark.parametrize("how", ["another source", "another offset", "ticks go on", "time falls", "a tick closes"])
def test_a_close_that_says_something_else_is_refused(how: str) -> None:
    _, records = switched()
    state = first_state(SETTINGS, SOURCE_ID)
    for one in records[:-1]:
        state = fold(SETTINGS, state, one.record, taker(one.event_entries))[1].state
    last = records[-1]
    fold(SETTINGS, state, last.record, taker([]))
    assert last.close is not None
    with pytest.raises(FoldError):
        fold(SETTINGS, state, replace(last.record, close=forged_close(last.close, how).encode()), taker([]))


def test_a_switch_without_its_close_is_refused() -> None:
    _, (one,) = seal_values(SEALER, [switch_value(SETTINGS)])
    with pytest.raises(FoldError, match="close record"):
        fold(SETTINGS, first_state(SETTINGS, SOURCE_ID), replace(one.record, close=None, checkpoint=None), taker([]))
