"""The seal step over random source logs: against the book, repeatable, and re-run from the public record alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from builders import SOURCE_ID, START_US, Lane, log_of, make_genesis, make_sealer, sealed_from, taker
from oracle import ledger_by_the_book as book
from rlhf_audit_ledger.chain import next_link
from rlhf_audit_ledger.checkpoint import open_checkpoint
from rlhf_audit_ledger.fold import FoldError, decode_close, fold, replay
from rlhf_audit_ledger.header import OUTCOMES, SealHeader
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import SealState, first_state, genesis_entry
from rlhf_audit_schemas.errors import AuditTrailError, FormatError, TamperError
from strategies import message_lists

SEALERS = {
    "off": make_sealer(),
    "capped": make_sealer(make_genesis(max_entries=7, max_messages=5)),
    "strong": make_sealer(make_genesis(mode="strong")),
}
SMALL = settings(max_examples=40, deadline=None)  # a machine that does other things too is no fault
sealers = pytest.mark.parametrize("sealer", SEALERS.values(), ids=SEALERS)


def told(records: Sequence[Sealed]) -> list[book.Message]:
    """Records as the book takes them."""
    return [
        book.Message(one.record.header, one.header.outcome, one.record.value, list(one.record.entries))
        for one in records
    ]


@sealers
@SMALL
@given(data=st.data())
def test_links_windows_and_roots_are_those_of_the_book(sealer: Sealer, data: st.DataObject) -> None:
    stream = sealer.settings.stream
    _, records = sealed_from(sealer, data.draw(message_lists(sealer.settings)))
    heard = told(records)
    links = book.links_by_the_book(sealer.settings.ledger_id, stream.stream, sealer.settings.partition, heard)
    assert [one.record.link for one in records] == links[1:]
    closes = [one.record.close for one in records if one.record.close is not None]
    windows, log = book.windows_by_the_book(
        genesis_entry(sealer.settings),
        links,
        heard,
        closes,
        strong=sealer.settings.is_strong,
        max_entries=stream.max_entries,
        max_messages=stream.max_messages,
    )
    assert log == log_of(sealer.settings, records)
    made = [one.close for one in records if one.close is not None]
    assert len(windows) == len(made)
    for number, (window, close) in enumerate(zip(windows, made, strict=True)):
        assert (close.window, close.first_index, close.m) == (number, window.first_index, window.m)
        assert (close.window_root, close.link) == (window.root, window.link)
        assert close.end_index == window.first_index + len(window.entries)
        assert close.events == sum(entry[1] < 0x80 for entry in window.entries)
        assert (close.tick == window.closing.value) if window.closing.tick else (close.tick is None)
        if window.closing.is_switch:
            switch = book.read("source_switch", book.read("control", window.closing.value or b"")["body"])
            assert (close.source_id, close.next_offset) == (switch["new_source_id"], switch["next_offset"])
        else:
            header = records[close.m - 1].header
            assert close.source_id == header.source_id
            assert close.next_offset == (header.end_offset or header.offset + 1)
        signed = records[close.m - 1].record.checkpoint
        assert signed is not None
        assert signed.startswith(book.checkpoint_text(sealer.settings.origin, log[: close.size]))


@sealers
@SMALL
@given(data=st.data())
def test_one_record_per_message_and_the_same_again_from_any_prefix(sealer: Sealer, data: st.DataObject) -> None:
    source = data.draw(message_lists(sealer.settings))
    state, records = sealed_from(sealer, source)
    jumps = sum(one.header.outcome == "hole" and one.record.value is None for one in records)
    assert len(records) == len([one for one in source if one.value is not None]) + jumps
    for _, part in groupby(records, key=lambda one: one.header.source_id):
        offsets = [one.header.offset for one in part]
        assert offsets == sorted(set(offsets))
    assert state.m == len(records)
    cut = data.draw(st.integers(0, len(source)), label="cut")
    half, before = sealed_from(sealer, source[:cut])
    again, after = sealed_from(sealer, source[cut:], half)
    assert [one.record.encode() for one in before + after] == [one.record.encode() for one in records]
    assert again == state


def refolded(sealer: Sealer, records: Sequence[SealedRecord], event_entries: Sequence[bytes]) -> SealState:
    """What a stranger makes of segment records and log entries; raises at the first contradiction."""
    state = first_state(sealer.settings, SOURCE_ID)
    take = taker(event_entries)
    for record in records:
        _, result = fold(sealer.settings, state, record, take)
        state = result.state
        if record.checkpoint is not None:
            _check_signed(sealer, record.checkpoint, state)
    return state


def replayed(
    sealer: Sealer, records: Sequence[SealedRecord], salts: Sequence[bytes], log: Sequence[bytes]
) -> SealState:
    """The same from the payloads."""
    state = first_state(sealer.settings, SOURCE_ID)
    take = taker(log)
    for record, salt in zip(records, salts, strict=True):
        if record.value is None:
            _, result = fold(sealer.settings, state, record, take)
        else:
            _, result = replay(sealer.settings, state, record, record.value, salt, take)
        state = result.state
        if record.checkpoint is not None:
            _check_signed(sealer, record.checkpoint, state)
    return state


def _check_signed(sealer: Sealer, data: bytes, state: SealState) -> None:
    """A close commits to things no record shows (ticks before a cap): the signed root is what holds them."""
    signed = open_checkpoint(data, sealer.settings.log_key, sealer.settings.origin).checkpoint
    if (signed.size, signed.root) != (state.tree.size, state.tree.root()):
        raise FoldError("another root was signed")


def event_entries_of(records: Sequence[Sealed]) -> list[bytes]:
    return [entry for one in records for entry in one.event_entries]


@sealers
@SMALL
@given(data=st.data())
def test_what_was_sealed_folds_and_replays_to_the_same_state(sealer: Sealer, data: st.DataObject) -> None:
    state, sealed = sealed_from(sealer, data.draw(message_lists(sealer.settings)))
    log = event_entries_of(sealed)
    records = [SealedRecord.decode(one.record.encode()) for one in sealed]
    assert records == [one.record for one in sealed]
    assert replayed(sealer, records, [one.salt for one in sealed], log) == state
    folded = refolded(sealer, [record.without_value() for record in records], log)
    assert replace(folded, ticks=state.ticks) == state, "only ticks since the last close cannot be seen"


def flipped(data: bytes, bit: int) -> bytes:
    forged = bytearray(data)
    bit %= 8 * len(data)
    forged[bit // 8] ^= 1 << bit % 8
    return bytes(forged)


def forged_record(record: SealedRecord, part: str, bit: int) -> SealedRecord | None:
    """The record with one bit of one of its parts flipped; None if it has no such part."""
    if part in ("header", "link", "close", "checkpoint", "value"):
        before = getattr(record, part)
        changed: dict[str, Any] = {part: flipped(before, bit)} if before else {}
        return replace(record, **changed) if changed else None
    if part == "entry" and record.entries:
        return replace(record, entries=(flipped(record.entries[0], bit), *record.entries[1:]))
    if part == "lane_rows" and record.lane_rows:
        window, row = record.lane_rows[0]
        return replace(record, lane_rows=((window, flipped(row, bit)), *record.lane_rows[1:]))
    if part == "row window" and record.lane_rows:
        window, row = record.lane_rows[0]
        return replace(record, lane_rows=((window + 1, row), *record.lane_rows[1:]))
    return None


@sealers
@pytest.mark.parametrize("part", ["header", "link", "entry", "close", "checkpoint", "lane_rows", "row window", "event"])
@settings(max_examples=15)
@given(data=st.data(), bit=st.integers(0, 1 << 20))
def test_any_flipped_bit_of_the_public_record_is_found(
    sealer: Sealer, part: str, data: st.DataObject, bit: int
) -> None:
    source = data.draw(message_lists(sealer.settings, 12))
    state, sealed = sealed_from(sealer, [*source, *_ending(sealer, source)])
    records = [one.record.without_value() for one in sealed]
    log = event_entries_of(sealed)
    if part == "event":
        assume(log)
        at = data.draw(st.integers(0, len(log) - 1), label="event")
        log[at] = flipped(log[at], bit)
    else:
        options = [(n, forged_record(one, part, bit)) for n, one in enumerate(records)]
        forged = [(n, one) for n, one in options if one is not None]
        assume(forged)
        at, one = data.draw(st.sampled_from(forged), label="forged")
        records[at] = one
    with pytest.raises(AuditTrailError):
        refolded(sealer, records, log)
    assert state.m == len(records)


def _ending(sealer: Sealer, source: Sequence[SourceMessage]) -> list[SourceMessage]:
    """A batch of a producer of its own, so that every run has an event, and entries of its own."""
    offset = sealed_from(sealer, source)[0].next_offset
    lane = Lane(sealer.settings, "the end")
    lane.cut()
    values = (lane.cut(2).value, b"rubbish")
    return [SourceMessage(offset + n, START_US, value) for n, value in enumerate(values)]


@sealers
@settings(max_examples=40)
@given(data=st.data(), bit=st.integers(0, 1 << 20))
def test_any_flipped_bit_of_a_payload_is_found(sealer: Sealer, data: st.DataObject, bit: int) -> None:
    source = data.draw(message_lists(sealer.settings, 12))
    _, sealed = sealed_from(sealer, [*source, *_ending(sealer, source)])
    records = [one.record for one in sealed]
    options = [(n, forged_record(one, "value", bit)) for n, one in enumerate(records)]
    at, forged = data.draw(st.sampled_from([(n, one) for n, one in options if one is not None]), label="forged")
    records[at] = forged
    with pytest.raises(TamperError):
        replayed(sealer, records, [one.salt for one in sealed], event_entries_of(sealed))


@given(bit=st.integers(0, 127))
def test_a_flipped_bit_of_the_salt_of_a_quarantined_message_is_found(bit: int) -> None:
    sealer = SEALERS["off"]
    _, (one,) = sealed_from(sealer, [SourceMessage(0, START_US, b"rubbish")])
    with pytest.raises(TamperError):
        replayed(sealer, [one.record], [flipped(one.salt, bit)], [])


def test_a_good_message_that_was_quarantined_is_found_by_its_payload() -> None:
    sealer = SEALERS["off"]
    value = Lane(sealer.settings).cut().value
    _, (bad,) = sealed_from(sealer, [SourceMessage(0, START_US, value[:-1])])
    with pytest.raises(TamperError, match="sealed as quarantined, the payload gives accepted"):
        replayed(sealer, [replace(bad.record, value=value)], [bad.salt], [])


def test_a_record_cannot_claim_facts_that_must_be_quarantined() -> None:
    """No batch may stand in the record as quarantined without the entry that says so, even with a fitting link."""
    sealer = SEALERS["off"]
    _, (good,) = sealed_from(sealer, [SourceMessage(0, START_US, Lane(sealer.settings).cut().value)])
    assert good.header.batch is not None
    broken = replace(good.header.batch, prev_batch=b"x" * 32)
    header = replace(good.header, outcome="quarantined", batch=broken).encode()
    state = first_state(sealer.settings, SOURCE_ID)
    record = replace(good.record, header=header, entries=(), link=next_link(state.link, 1, header, []))
    with pytest.raises(FoldError):
        fold(sealer.settings, state, record, taker([]))


def test_records_that_do_not_follow_are_refused() -> None:
    sealer = SEALERS["off"]
    _, sealed = sealed_from(sealer, [SourceMessage(n, START_US, b"rubbish %d" % n) for n in range(3)])
    records = [one.record for one in sealed]
    for order in ([1], [0, 2], [0, 0], [1, 0]):
        with pytest.raises(FoldError):
            refolded(sealer, [records[at] for at in order], [])
    elsewhere = replace(sealed[0].header, source_id=bytes(16))
    with pytest.raises(FoldError, match="another source log"):
        refolded(sealer, [replace(records[0], header=elsewhere.encode())], [])


def test_headers_are_read_back_and_every_outcome_has_its_place() -> None:
    lane = Lane(SEALERS["off"].settings)
    _, (one,) = sealed_from(SEALERS["off"], [SourceMessage(0, START_US, lane.cut().value)])
    for number, outcome in enumerate(OUTCOMES):
        header = replace(one.header, outcome=outcome)
        assert SealHeader.decode(header.encode()) == header
        assert book.read("seal_header", header.encode())["outcome"] == outcome
        assert number == OUTCOMES.index(outcome)
    with pytest.raises(FormatError):
        SealHeader.decode(one.record.header + b"\0")


def test_an_entry_that_is_no_close_is_a_finding_where_a_close_must_stand() -> None:
    with pytest.raises(FoldError, match="annotations/2 index 7"):
        decode_close(b"\x01\x11" + bytes(32), "annotations/2 index 7")
