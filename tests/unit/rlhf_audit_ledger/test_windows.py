"""Windows: when they open and close, what a close says, and how lane rows spread over records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import (
    QUARANTINE_KEY,
    SOURCE_ID,
    START_US,
    WINDOW_US,
    Lane,
    log_of,
    make_genesis,
    make_sealer,
    messages,
    schema_value,
    seal_values,
    sealed_from,
    tick_value,
)
from rlhf_audit_ledger.checkpoint import open_checkpoint
from rlhf_audit_ledger.close import Close, TickState
from rlhf_audit_ledger.lanes import LaneRow
from rlhf_audit_ledger.merkle import EMPTY_ROOT, leaf_hashes, root_of
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer, seal
from rlhf_audit_ledger.state import ALL_ROWS_EVERY, MAX_ROW_BYTES, first_state
from rlhf_audit_schemas.errors import FormatError

SEALER = make_sealer()
SETTINGS = SEALER.settings
STRONG = make_sealer(make_genesis(mode="strong", max_entries=2, max_messages=2))


def ticks_at(sealer: Sealer, *steps: tuple[int, int, bool]) -> list[bytes | None]:
    """Ticks of (counter, windows after the start, flush)."""
    return [
        tick_value(sealer.settings, counter, START_US + after * WINDOW_US, flush=flush)
        for counter, after, flush in steps
    ]


def closes_of(records: list[Sealed]) -> list[int]:
    """Positions of the records that close a window."""
    return [at for at, one in enumerate(records) if one.close is not None]


def outcomes(records: list[Sealed]) -> list[str]:
    return [one.header.outcome for one in records]


def test_a_tick_closes_the_open_window_once_per_number() -> None:
    lane = Lane(SETTINGS)
    first, same, later = ticks_at(SEALER, (1, 0, False), (2, 0, False), (3, 1, False))
    values = [lane.cut().value, first, lane.cut().value, same, lane.cut().value, later]
    _, records = seal_values(SEALER, values)
    assert outcomes(records) == ["accepted", "control"] * 3
    assert closes_of(records) == [1, 5], "the second tick has the number of the first"


def test_a_flush_closes_whatever_its_number() -> None:
    lane = Lane(SETTINGS)
    first, flush = ticks_at(SEALER, (1, 0, False), (2, 0, True))
    assert closes_of(seal_values(SEALER, [lane.cut().value, first, lane.cut().value, flush])[1]) == [1, 3]


def test_ticks_open_no_window_and_close_none_that_is_not_open() -> None:
    state, records = seal_values(SEALER, ticks_at(SEALER, (1, 0, True), (2, 1, False), (3, 2, True)))
    assert closes_of(records) == []
    assert state.window is None
    assert state.ticks == TickState(3, START_US // WINDOW_US + 2, -1)
    assert state.tree.size == 1


def test_a_tick_that_closed_nothing_does_not_use_up_its_number() -> None:
    first, second = ticks_at(SEALER, (1, 5, False), (2, 5, False))
    assert closes_of(seal_values(SEALER, [first, Lane(SETTINGS).cut().value, second])[1]) == [2]


@pytest.mark.parametrize(
    ("counter", "after", "outcome"),
    [(2, 0, "control"), (2, 9, "control"), (1, 0, "ignored"), (3, 0, "ignored"), (0, 0, "ignored"), (2, -1, "ignored")],
)
def test_a_tick_counts_on_by_one_and_its_number_never_falls(counter: int, after: int, outcome: str) -> None:
    lane = Lane(SETTINGS)
    values = [lane.cut().value, *ticks_at(SEALER, (1, 0, False)), lane.cut().value]
    state, records = seal_values(SEALER, [*values, *ticks_at(SEALER, (counter, after, True))])
    assert records[-1].header.outcome == outcome
    assert closes_of(records) == ([1, 3] if outcome == "control" else [1])
    assert state.ticks.counter == (counter if outcome == "control" else 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_cap_of_entries_closes_after_a_whole_message(count: int) -> None:
    sealer = make_sealer(make_genesis(max_entries=4))
    lane = Lane(sealer.settings)
    state, records = seal_values(sealer, [lane.cut(3).value, lane.cut(count).value])
    (close,) = [one.close for one in records if one.close is not None]
    assert close.end_index - close.first_index == 3 + count
    assert close.tick is None
    assert state.window is None
    assert state.window_id == 1


def test_the_cap_of_messages_counts_those_without_entries() -> None:
    sealer = make_sealer(make_genesis(max_messages=3))
    lane = Lane(sealer.settings)
    first = lane.cut().value
    _, records = seal_values(sealer, [first, first, first, lane.cut().value])
    assert closes_of(records) == [2]


def test_messages_before_the_window_opened_do_not_count_for_the_cap() -> None:
    sealer = make_sealer(make_genesis(max_messages=2))
    ticks = ticks_at(sealer, (1, 0, False), (2, 0, False), (3, 0, False))
    assert closes_of(seal_values(sealer, [*ticks, Lane(sealer.settings).cut().value])[1]) == []


def test_a_cap_close_leaves_the_tick_number_for_the_next_window() -> None:
    sealer = make_sealer(make_genesis(max_messages=1))
    lane = Lane(sealer.settings)
    state, records = seal_values(sealer, [lane.cut().value, lane.cut().value])
    assert closes_of(records) == [0, 1]
    assert state.ticks == TickState()


def test_a_window_of_a_duplicate_has_no_entries_and_the_root_of_nothing() -> None:
    lane = Lane(SETTINGS)
    again = lane.cut().value
    one, two = ticks_at(SEALER, (1, 0, True), (2, 0, True))
    _, records = seal_values(SEALER, [again, one, again, two])
    close = records[-1].close
    assert close is not None
    assert close.window_root == EMPTY_ROOT
    assert close.first_index == close.end_index
    assert close.counts == (0, 1, 0, 0, 0, 1, 0, 0)


def test_in_mode_strong_ticks_alone_open_and_close_windows() -> None:
    lane = Lane(STRONG.settings)
    many = [lane.cut(2).value for _ in range(4)]
    ticks = ticks_at(STRONG, (1, 0, False), (2, 0, False), (3, 0, True), (4, 0, False))
    state, records = seal_values(STRONG, [ticks[0], *many, ticks[1], ticks[2], ticks[0], ticks[3]])
    assert closes_of(records) == [0, 5, 6, 8], "every valid tick closes; neither cap nor an ignored tick does"
    sizes = [one.close.end_index - one.close.first_index for one in records if one.close is not None]
    assert sizes == [0, 8, 0, 0]
    assert state.window is None


def test_a_close_says_what_its_window_held() -> None:
    lane = Lane(SETTINGS)
    first = lane.cut(2).value
    (tick,) = ticks_at(SEALER, (1, 0, False))
    source = [SourceMessage(4, START_US, first), SourceMessage(5, START_US + 1000, b"rubbish")]
    source += [SourceMessage(6, START_US + 2000, first), SourceMessage(7, START_US + 3000, tick)]
    _, records = sealed_from(SEALER, source)
    close = records[-1].close
    assert close is not None
    assert (close.first_offset, close.next_offset, close.opened_us) == (0, 8, START_US)
    assert close.counts == (1, 1, 0, 0, 1, 1, 0, 1), "the hole of offsets 0 to 3 included"
    assert (close.events, close.open_gaps, close.lanes) == (2, 0, 1)
    assert (close.first_index, close.end_index, close.size) == (1, 5, 6)
    assert close.tick == tick
    assert close.m == 5
    assert close.link == records[-1].record.link
    assert close.previous_close is None
    entries = log_of(SETTINGS, records)
    assert close.window_root == root_of(leaf_hashes(entries[1:5]))
    assert Close.decode(entries[5]) == close


def test_the_checkpoint_of_a_close_is_the_root_of_the_log_with_it() -> None:
    lane = Lane(SETTINGS)
    one, two = ticks_at(SEALER, (1, 0, True), (2, 0, True))
    _, records = seal_values(SEALER, [lane.cut(3).value, one, lane.cut().value, two])
    for at in closes_of(records):
        entries = log_of(SETTINGS, records[: at + 1])
        data = records[at].record.checkpoint
        assert data is not None
        signed = open_checkpoint(data, SETTINGS.log_key, SETTINGS.origin)
        assert (signed.checkpoint.size, signed.checkpoint.root) == (len(entries), root_of(leaf_hashes(entries)))
        assert signed.others == ()


def test_an_added_schema_is_in_force_from_the_next_window() -> None:
    lane = Lane(SETTINGS)
    early, late = lane.other(schema=2).value, lane.other(schema=2).value
    (tick,) = ticks_at(SEALER, (1, 0, True))
    added = schema_value(SETTINGS, 2)
    state, records = seal_values(SEALER, [added, early, added, tick, late, added])
    assert outcomes(records) == ["control", "quarantined", "ignored", "control", "accepted", "ignored"]
    assert records[0].record.entries[0][:2] == b"\x01\x87"
    close = records[3].close
    assert close is not None
    assert [(entry.kind, entry.schema) for entry in close.added_schemas] == [(0x0101, 2)]
    assert state.added_schemas == close.added_schemas


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 50])
def test_a_close_that_is_cut_is_refused(cut: int) -> None:
    _, records = seal_values(SEALER, [Lane(SETTINGS).cut().value, *ticks_at(SEALER, (1, 0, True))])
    entry = records[-1].record.close
    assert entry is not None
    for data in (entry[:cut], entry + b"\0", b"\x01\x82" + entry[2:]):
        with pytest.raises(FormatError):
            Close.decode(data)


def rows_in(records: list[Sealed]) -> list[tuple[int, bytes]]:
    return [row for one in records for row in one.record.lane_rows]


def test_rows_of_many_lanes_are_spread_over_records_of_bounded_size() -> None:
    lanes = [Lane(SETTINGS, f"run/{n:0190}", signer=None) for n in range(300)]
    values = [lane.cut().value for lane in lanes]
    (tick,) = ticks_at(SEALER, (1, 0, True))
    state, records = seal_values(SEALER, [*values, tick, *(lanes[0].cut().value for _ in range(4))])
    carried = [sum(len(row) for _, row in one.record.lane_rows) for one in records[300:]]
    assert all(size <= MAX_ROW_BYTES for size in carried)
    assert carried[:2] > [30_000, 30_000]
    assert carried[-1] == 0
    rows = [LaneRow.decode(row) for window, row in rows_in(records) if window == 0]
    assert [row.producer for row in rows] == [row.producer for row in sorted(rows, key=lambda row: row.lane_id)]
    assert len(rows) == len(state.lanes) == 300
    assert state.pending_rows == ()
    assert max(len(one.record.encode()) - len(one.record.value or b"") for one in records) < 64 * 1024


def test_every_64th_window_carries_all_rows_and_the_others_what_changed() -> None:
    lanes = [Lane(SETTINGS, f"run/{n}", signer=None) for n in range(5)]
    values: list[bytes | None] = [lane.cut().value for lane in lanes]
    for window in range(2 * ALL_ROWS_EVERY + 1):
        values += [lanes[window % 5].cut().value, *ticks_at(SEALER, (window + 1, 0, True))]
    _, records = seal_values(SEALER, values)
    by_window: dict[int, int] = {}
    for window, _ in rows_in(records):
        by_window[window] = by_window.get(window, 0) + 1
    assert sorted(by_window) == list(range(2 * ALL_ROWS_EVERY + 1))
    assert [window for window, count in by_window.items() if count == 5] == [0, ALL_ROWS_EVERY, 2 * ALL_ROWS_EVERY]
    assert set(by_window.values()) == {1, 5}


def test_only_the_message_at_the_next_offset_is_sealed() -> None:
    state = first_state(SETTINGS, SOURCE_ID)
    for offset in (1, 7):
        with pytest.raises(ValueError, match="expected 0"):
            seal(SEALER, state, SourceMessage(offset, START_US, b"x"))
    state, _ = sealed_from(SEALER, messages([b"x", b"y"]))
    assert sealed_from(SEALER, messages([b"x", b"y"]), state) == (state, []), "what is sealed is not sealed again"


def test_a_jump_in_offsets_is_one_hole_and_a_null_value_another() -> None:
    source = [SourceMessage(3, START_US, None), SourceMessage(9, START_US, Lane(SETTINGS).cut().value)]
    _, records = sealed_from(SEALER, source)
    ends = [(one.header.offset, one.header.end_offset, one.header.outcome) for one in records]
    assert ends == [(0, 3, "hole"), (3, 4, "hole"), (4, 9, "hole"), (9, None, "accepted")]
    assert [one.record.entries[0][:2] for one in records[:3]] == [b"\x01\x86"] * 3


def test_a_sealer_does_not_show_its_secrets() -> None:
    shown = repr(replace(SEALER))
    assert shown == "Sealer(annotations/2)"
    assert QUARANTINE_KEY.hex() not in shown
