"""Lane rules: every case by hand, and against the set of numbers that were ever seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.ledger_by_the_book import LaneByTheBook, read
from rlhf_audit_ledger.batch import NO_BATCH
from rlhf_audit_ledger.header import BatchFacts
from rlhf_audit_ledger.ids import lane_id
from rlhf_audit_ledger.lanes import (
    MAX_GAP,
    MAX_OPEN_GAPS,
    MAX_SEQ,
    LaneRow,
    LaneTable,
    Verdict,
    judge,
    table_digest,
)
from rlhf_audit_schemas.errors import FormatError

MAX_ROW = 4_096  # what recovery leaves as room for one row


def digest_of(first: int, count: int, fork: int = 0) -> bytes:
    return b"%016d%012d%04d" % (first, count, fork)


def facts(first: int, count: int = 1, **changes: object) -> BatchFacts:
    """A batch of the lane ``p``/1 whose predecessor ended where it begins, in batches of one."""
    prev = NO_BATCH if first == 0 else digest_of(first - 1, 1)
    batch = BatchFacts("p", 1, first, count, 0x0101, 1, prev, False, "unsigned", None, digest_of(first, count))
    return replace(batch, **changes)  # type: ignore[arg-type]  # a test names the field it changes


def seen(*batches: BatchFacts) -> LaneRow:
    """The row after these batches, all of which change it."""
    row: LaneRow | None = None
    for batch in batches:
        row = judge(row, batch, "annotations", 0).row
        assert row is not None, batch
    assert row is not None
    return row


def verdict(row: LaneRow | None, batch: BatchFacts) -> Verdict:
    return judge(row, batch, "annotations", 0)


ONES = [facts(n) for n in range(8)]
OPENED = seen(*ONES[:3])  # 0, 1, 2
GAPPED = seen(ONES[0], facts(5, 2))  # 0, gap 1 to 4, 5, 6
FINAL = seen(ONES[0], facts(5, 2, final=True))
ENDED = seen(ONES[0], facts(1, final=True))
MANY = seen(*(facts(2 * n + 1) for n in range(MAX_OPEN_GAPS)))

CASES: list[tuple[str, LaneRow | None, BatchFacts, str, str | None]] = [
    ("the first batch of a lane", None, facts(0), "accepted", None),
    ("a first batch that names a predecessor", None, facts(0, prev_batch=b"x" * 32), "quarantined", "broken_lane"),
    ("a lane that begins in its middle", None, facts(7), "accepted", None),
    ("a lane that begins too far in", None, facts(MAX_GAP + 1), "quarantined", "too_far"),
    ("the furthest beginning", None, facts(MAX_GAP), "accepted", None),
    ("an empty final batch as the only one", None, facts(0, 0, final=True), "accepted", None),
    ("the next number", OPENED, facts(3), "accepted", None),
    ("the next number after another batch", OPENED, facts(3, prev_batch=b"x" * 32), "quarantined", "broken_lane"),
    ("ahead", OPENED, facts(5, prev_batch=b"x" * 32), "accepted", None),
    ("ahead by the limit", OPENED, facts(3 + MAX_GAP), "accepted", None),
    ("ahead by more than the limit", OPENED, facts(4 + MAX_GAP), "quarantined", "too_far"),
    ("one gap too many", MANY, facts(MANY.next_seq + 1), "quarantined", "too_many_gaps"),
    ("the next number with all gaps used", MANY, facts(MANY.next_seq, prev_batch=MANY.last_batch), "accepted", None),
    ("the last batch again", OPENED, facts(2), "duplicate", None),
    ("an older batch again", OPENED, facts(0), "duplicate", None),
    ("other bytes under the last numbers", OPENED, facts(2, digest=b"x" * 32), "conflict", None),
    ("other bytes under older numbers", OPENED, facts(1, digest=b"x" * 32), "duplicate", None),
    ("several taken batches cut as one", OPENED, facts(0, 3), "duplicate", None),
    ("over the next number", OPENED, facts(2, 2), "quarantined", "overlap"),
    ("an empty final batch behind", OPENED, facts(1, 0, final=True), "quarantined", "overlap"),
    ("all of a gap", GAPPED, facts(1, 4), "gap_filled", None),
    ("the beginning of a gap", GAPPED, facts(1, 2), "gap_filled", None),
    ("the middle of a gap", GAPPED, facts(2, 2), "gap_filled", None),
    ("the end of a gap", GAPPED, facts(4), "gap_filled", None),
    ("over the beginning of a gap", GAPPED, facts(0, 2), "quarantined", "overlap"),
    ("over the end of a gap", GAPPED, facts(4, 2), "quarantined", "overlap"),
    ("around a gap", GAPPED, facts(0, 7), "quarantined", "overlap"),
    ("a final batch inside a gap", GAPPED, facts(1, 4, final=True), "quarantined", "overlap"),
    ("splitting a gap beyond the limit", replace(MANY, gaps=((0, 5), *MANY.gaps[1:])), facts(2), "quarantined",
     "too_many_gaps"),
    ("the last batch again before a gap is filled", GAPPED, facts(5, 2), "duplicate", None),
    ("a final batch", OPENED, facts(3, final=True), "accepted", None),
    ("after a final batch", FINAL, facts(7, prev_batch=FINAL.last_batch), "quarantined", "after_final"),
    ("the final batch again while a gap is open", FINAL, facts(5, 2, final=True), "duplicate", None),
    ("filling a gap after the final batch", FINAL, facts(1, 4), "gap_filled", None),
    ("anything of an ended lane", ENDED, facts(9), "duplicate", None),
    ("other bytes in an ended lane", ENDED, facts(1, digest=b"x" * 32), "duplicate", None),
    ("a new epoch of an ended lane", ENDED, facts(0, epoch=2), "accepted", None),
    ("a new epoch while the old one is open", OPENED, facts(0, epoch=9), "accepted", None),
    ("an older epoch", seen(facts(0, epoch=5)), facts(0, epoch=4), "duplicate", None),
    ("an older epoch with an open gap", seen(facts(3, epoch=5)), facts(1, epoch=4), "duplicate", None),
]  # fmt: skip


@pytest.mark.parametrize(("row", "batch", "outcome", "reason"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_every_case_has_its_outcome(row: LaneRow | None, batch: BatchFacts, outcome: str, reason: str | None) -> None:
    result = verdict(row, batch)
    assert (result.outcome, result.reason) == (outcome, reason)
    assert (result.row is not None) == (outcome in ("accepted", "gap_filled"))
    if outcome in ("quarantined", "duplicate"):
        assert result.entries == ()


def test_a_gap_entry_names_lane_first_number_and_count() -> None:
    (entry,) = verdict(OPENED, facts(9)).entries
    assert entry[:2] == b"\x01\x82"
    assert read("gap", entry[2:]) == {"lane_id": lane_id("p", 1, "annotations", 0), "first_seq": 3, "count": 6}


def test_a_filled_gap_names_what_came_and_leaves_the_rest_open() -> None:
    result = verdict(GAPPED, facts(2, 2))
    assert read("gap_filled", result.entries[0][2:])["first_seq"] == 2
    assert result.row is not None
    assert result.row.gaps == ((1, 1), (4, 1))


def test_a_conflict_names_both_digests_and_changes_nothing() -> None:
    result = verdict(OPENED, facts(2, digest=b"x" * 32))
    body = read("conflict", result.entries[0][2:])
    assert (body["accepted"], body["refused"]) == (OPENED.last_batch, b"x" * 32)
    assert result.row is None


def test_a_final_batch_ends_a_lane_at_once_or_when_its_last_gap_is_filled() -> None:
    assert ENDED.state == "ended"
    assert FINAL.state == "final"
    filled = verdict(FINAL, facts(1, 4)).row
    assert filled is not None
    assert filled.state == "ended"
    half = verdict(FINAL, facts(1, 2)).row
    assert half is not None
    assert half.state == "final"


def test_an_ended_lane_keeps_its_numbers_and_nothing_else() -> None:
    assert replace(ENDED, next_seq=0) == LaneRow(ENDED.lane_id, "p", 1, state="ended")
    assert ENDED.next_seq == 2


def test_a_lane_without_its_first_batch_is_unopened_until_that_comes() -> None:
    late = seen(facts(4))
    assert late.state == "unopened"
    key = bytes(31) + b"\x07"
    opened = verdict(late, facts(0, 4, open_key=key)).row
    assert opened is not None
    assert (opened.state, opened.key) == ("open", key)


def test_the_key_of_a_lane_stays_that_of_its_opening() -> None:
    first = seen(facts(0, open_key=b"k" * 32))
    assert verdict(first, facts(1)).row == replace(
        first, next_seq=2, last_batch=digest_of(1, 1), last_first_seq=1, last_count=1
    )


@given(row=st.integers(0, 3), data=st.data())
def test_a_row_is_read_back_as_it_was_written(row: int, data: st.DataObject) -> None:
    some = [OPENED, GAPPED, FINAL, ENDED][row]
    some = replace(some, producer=data.draw(st.text(max_size=9)), next_seq=data.draw(st.integers(0, MAX_SEQ)))
    assert LaneRow.decode(some.encode()) == some
    with pytest.raises(FormatError):
        LaneRow.decode(some.encode() + b"\x00")


def test_the_largest_row_stays_small() -> None:
    far = 1 << 62
    row = LaneRow(
        bytes(16),
        "é" * 100,
        (1 << 32) - 1,
        next_seq=MAX_SEQ,
        gaps=tuple((far + (n << 22), MAX_GAP) for n in range(MAX_OPEN_GAPS)),
        last_first_seq=MAX_SEQ,
        last_count=4096,
        key=bytes(32),
    )
    assert len(row.encode()) < MAX_ROW


def cuts_of(total: int, data: st.DataObject) -> list[BatchFacts]:
    """An honest lane cut into batches, each naming the one before it; the last is final or not."""
    batches: list[BatchFacts] = []
    first, prev = 0, NO_BATCH
    while first < total:
        count = data.draw(st.integers(1, 4), label="count")
        batch = facts(first, count, prev_batch=prev, epoch=1)
        batches.append(batch)
        first, prev = first + count, batch.digest
    if data.draw(st.booleans(), label="is the last final"):
        batches[-1] = replace(batches[-1], final=True)
    return batches


def disordered(batches: list[BatchFacts], data: st.DataObject) -> list[BatchFacts]:
    """The same batches lost, repeated, forked, overlapping and in another order."""
    moved = sorted(enumerate(batches), key=lambda pair: pair[0] + data.draw(st.integers(0, 4), label="delay"))
    out: list[BatchFacts] = []
    for _, batch in moved:
        fate = data.draw(st.sampled_from(["once", "once", "once", "lost", "twice", "fork", "shifted"]), label="fate")
        if fate == "lost":
            continue
        if fate == "fork":
            out.append(replace(batch, digest=digest_of(batch.first_seq, batch.count, 1)))
        elif fate == "shifted":
            shifted = max(0, batch.first_seq + data.draw(st.integers(-3, 3), label="shift"))
            out.append(replace(batch, first_seq=shifted, digest=digest_of(shifted, batch.count, 2)))
        out += [batch] * (2 if fate == "twice" else 1)
    return out + data.draw(st.lists(st.sampled_from(batches), max_size=4), label="again")


@settings(max_examples=150)
@given(data=st.data())
def test_outcomes_are_those_of_the_set_of_numbers_seen(data: st.DataObject) -> None:
    sent = disordered(cuts_of(data.draw(st.integers(1, 30), label="total"), data), data)
    row: LaneRow | None = None
    book = LaneByTheBook()
    for batch in sent:
        result = judge(row, batch, "annotations", 0)
        offered = book.offer(batch.first_seq, batch.count, batch.digest, prev=batch.prev_batch, final=batch.final)
        assert result.outcome == offered
        if result.row is None:
            continue
        row = result.row
        assert row.next_seq == book.next
        open_numbers = {n for first, count in row.gaps for n in range(first, first + count)}
        assert open_numbers == book.missing
        assert list(row.gaps) == sorted(row.gaps)
        assert row.state == ("ended" if book.end is not None and not book.missing else row.state)
        assert len(row.encode()) < MAX_ROW


@settings(max_examples=60)
@given(data=st.data())
def test_what_one_producer_sends_changes_no_other_row(data: st.DataObject) -> None:
    sent = disordered(cuts_of(20, data), data)
    both = [replace(batch, producer=data.draw(st.sampled_from("ab"))) for batch in sent]

    def rows_of(batches: list[BatchFacts]) -> dict[str, LaneRow]:
        rows: dict[str, LaneRow] = {}
        for batch in batches:
            moved = judge(rows.get(batch.producer), batch, "annotations", 0).row
            if moved is not None:
                rows[batch.producer] = moved
        return rows

    together = rows_of(both)
    for name in "ab":
        assert rows_of([batch for batch in both if batch.producer == name]).get(name) == together.get(name)


def test_a_table_shares_its_rows_and_knows_which_changed() -> None:
    a, b = replace(OPENED, producer="a", lane_id=b"2" * 16), replace(OPENED, producer="b", lane_id=b"1" * 16)
    table = LaneTable().with_row(a).settle().with_row(b)
    assert list(table.changed_rows()) == [b]
    assert list(table.rows()) == [b, a], "rows stand in the order of their lane ids"
    assert table.settle().settle().get("a") is a
    assert list(table.settle().changed_rows()) == []
    assert len(table) == 2
    assert table.get("c") is None
    assert table.with_row(replace(a, gaps=((0, 1), (3, 1)))).open_gaps() == 2
    assert table_digest(table.rows()) == table_digest(table.settle().rows()) != table_digest(LaneTable().rows())
