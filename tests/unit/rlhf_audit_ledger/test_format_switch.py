"""A switch of the format happens at one record, and whoever does not know the new one stops right behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import (
    OPERATOR,
    SOURCE_ID,
    TICKER,
    Lane,
    format_value,
    make_genesis,
    make_sealer,
    messages,
    seal_values,
    sealed_from,
    taker,
    tick_value,
)
from rlhf_audit_ledger.fold import FoldError, fold, replay
from rlhf_audit_ledger.state import UnknownFormatError, first_state

SEALER = make_sealer()
SETTINGS = SEALER.settings


def test_the_switch_is_the_last_record_of_this_format_and_closes_its_window() -> None:
    lane = Lane(SETTINGS)
    state, records = seal_values(SEALER, [lane.cut(2).value, format_value(SETTINGS)])
    assert [one.header.outcome for one in records] == ["accepted", "control"]
    close = records[-1].close
    assert close is not None
    assert (close.format, close.tick, close.source_id, close.next_offset) == (2, None, SOURCE_ID, 2)
    assert (state.format, state.window, state.window_id) == (2, None, 1)


@pytest.mark.parametrize("value", [None, b"rubbish", tick_value(SETTINGS, 1), Lane(SETTINGS).cut().value])
def test_nothing_behind_it_is_sealed_in_a_format_that_is_not_known(value: bytes | None) -> None:
    state, _ = seal_values(SEALER, [format_value(SETTINGS)])
    with pytest.raises(UnknownFormatError, match="from window 1 on in format 2, this version knows 1"):
        sealed_from(SEALER, messages([value], 1), state)
    _, (one,) = seal_values(SEALER, [b"any record"])
    with pytest.raises(UnknownFormatError):
        fold(SETTINGS, state, one.record, taker([]))
    with pytest.raises(UnknownFormatError):
        replay(SETTINGS, state, one.record, b"any record", one.salt)


def test_it_folds_and_ticks_go_on_counting() -> None:
    _, records = seal_values(SEALER, [tick_value(SETTINGS, 1), tick_value(SETTINGS, 2), format_value(SETTINGS)])
    state = first_state(SETTINGS, SOURCE_ID)
    for one in records:
        state = fold(SETTINGS, state, one.record, taker([]))[1].state
    assert (state.format, state.ticks.counter) == (2, 2)
    last = records[-1]
    assert last.close is not None
    before = first_state(SETTINGS, SOURCE_ID)
    for one in records[:-1]:
        before = fold(SETTINGS, before, one.record, taker([]))[1].state
    with pytest.raises(FoldError, match="close record"):
        fold(SETTINGS, before, replace(last.record, close=replace(last.close, format=1).encode()), taker([]))


def test_an_operator_signs_it_or_the_ticker_where_there_is_none() -> None:
    alone = make_sealer(make_genesis(operated=False))
    for sealer, signer, outcome in (
        (SEALER, OPERATOR, "control"),
        (SEALER, TICKER, "quarantined"),
        (alone, TICKER, "control"),
    ):
        _, (one,) = seal_values(sealer, [format_value(sealer.settings, signer)])
        assert one.header.outcome == outcome
