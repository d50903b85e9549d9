"""Windows from sealed records: exactly what the one-process runtime hands to its sinks, and nothing that was forged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import (
    LOG,
    QUARANTINE_KEY,
    START_US,
    STRANGER,
    WINDOW_US,
    Lane,
    make_genesis,
    make_sealer,
    schema_value,
    seal_values,
    tick_value,
)
from query_copies import annotation, batch
from rlhf_audit_ledger.checkpoint import Checkpoint, sign_checkpoint
from rlhf_audit_ledger.fold import FoldError
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_schemas.errors import FormatError, TamperError
from rlhf_audit_sinks.sealed_windows import ForkError, SealedGapError, Taken, Window, WindowAssembler, check_stored
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_stores.sealedlog import SealedLog
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.partition import SealedWindow


def every_outcome(sealer: Sealer) -> list[bytes | None]:
    """Source values with every outcome in them, and two closes."""
    lane, other = Lane(sealer.settings), Lane(sealer.settings, "ingest/bb", signer=None)
    first = lane.cut(3)
    values: list[bytes | None] = [first.value, b"garbage", None, other.cut(2).value, first.value]
    second, third = lane.cut(2), lane.cut(1)
    values += [third.value, second.value, lane.other(1, first_seq=5).value]
    values += [schema_value(sealer.settings, 2), tick_value(sealer.settings, 1), tick_value(sealer.settings, 1)]
    values += [lane.cut(4).value, lane.cut(0, final=True).value, tick_value(sealer.settings, 2, START_US + WINDOW_US)]
    return values


def windows_of(records: Sequence[Sealed]) -> list[list[Sealed]]:
    """As a runtime's sinks get them: cut after each close."""
    found: list[list[Sealed]] = [[]]
    for one in records:
        found[-1].append(one)
        if one.close is not None:
            found.append([])
    return found[:-1]


def assemble(assembler: WindowAssembler, data: Sequence[bytes]) -> list[Window]:
    taken = [assembler.take(each) for each in data]
    return [each.window for each in taken if each.window is not None]


@pytest.mark.parametrize("genesis", [make_genesis(), make_genesis(max_messages=3), make_genesis(mode="strong")])
def test_windows_are_exactly_those_that_the_sealer_gives(genesis: object) -> None:
    sealer = make_sealer(genesis)  # type: ignore[arg-type]
    state, records = seal_values(sealer, every_outcome(sealer))
    outcomes = {one.header.outcome for one in records}
    assert outcomes >= {"accepted", "duplicate", "gap_filled", "quarantined", "control", "ignored", "hole"}
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    found = assemble(assembler, [one.record.encode() for one in records])
    assert [list(window.sealed) for window in found] == windows_of(records)
    assert [window.close for window in found] == [one.close for one in records if one.close is not None]
    assert [window.checkpoint for window in found] == [one.record.checkpoint for one in records if one.close]
    assert assembler.state is not None
    assert (assembler.state.link, assembler.state.m) == (state.link, state.m)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 3))
def test_a_sink_that_starts_at_any_border_goes_on_as_if_it_had_never_stopped(cut: int) -> None:
    sealer = make_sealer(make_genesis(max_messages=3))
    _, records = seal_values(sealer, every_outcome(sealer))
    windows = windows_of(records)
    whole = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    assemble(whole, [one.record.encode() for window in windows[:cut] for one in window])
    rest = WindowAssembler(sealer.settings, QUARANTINE_KEY, whole.state)
    found = assemble(rest, [one.record.encode() for window in windows[cut:] for one in window])
    assert [list(window.sealed) for window in found] == windows[cut:]


def test_windows_of_a_whole_local_trail_come_out_equal(tmp_path: Path) -> None:
    kept: list[SealedWindow] = []
    with LocalTrail(tmp_path / "trail") as trail:
        part = trail.part("annotations", 0)
        for number in range(3):
            events = [annotation(n) for n in range(number * 10, number * 10 + 7)]
            trail.append("annotations", 0, [batch(trail, events, producer=f"p{number}"), b"garbage"])
            trail.work()
            part.tick(START_US, closes_now=True, global_size=2, global_root=bytes(32))
            kept += part.work()
        log = SealedLog.open(tmp_path / "trail" / "spool" / "annotations" / "0" / "sealed", RealDisk())
        data = [record for _, record in log.read_from(1)]
        log.close()
        key = load_secret(tmp_path / "trail" / "keys" / "quarantine.key")
        found = assemble(WindowAssembler(part.settings, key, None), data)
    assert len(found) == 3
    assert [list(window.sealed) for window in found] == [list(window.sealed) for window in kept]


@cache
def sealed_bytes() -> tuple[Sealer, list[bytes]]:
    sealer = make_sealer()
    _, records = seal_values(sealer, every_outcome(sealer))
    return sealer, [one.record.encode() for one in records]


@given(back=st.lists(st.integers(0, 13), max_size=30))
@settings(max_examples=50, deadline=None)
def test_identical_records_that_come_again_change_nothing(back: list[int]) -> None:
    sealer, data = sealed_bytes()
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    expected = assemble(WindowAssembler(sealer.settings, QUARANTINE_KEY, None), data)
    found, duplicates = [], 0
    for at, each in enumerate(data):
        taken = [assembler.take(each), *(assembler.take(data[n]) for n in back if n <= at)]
        found += [one.window for one in taken if one.window is not None]
        duplicates += sum(one.outcome == "duplicate" for one in taken)
    assert found == expected
    assert duplicates == sum(n <= at for at in range(len(data)) for n in back)


@given(at=st.integers(0, 13), byte=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_no_bit_of_a_record_can_be_flipped(at: int, byte: int, bit: int) -> None:
    sealer, data = sealed_bytes()
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    assemble(assembler, data[:at])
    forged = bytearray(data[at])
    forged[byte % len(forged)] ^= 1 << bit
    before = assembler.state
    with pytest.raises((TamperError, FormatError, SealedGapError)):
        assembler.take(bytes(forged))
    assert assembler.state is before
    assert assembler.take(data[at]).outcome == "sealed"  # the right record still fits


def test_another_record_under_a_place_already_taken_is_a_fork() -> None:
    sealer, data = sealed_bytes()
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    assemble(assembler, data[:4])
    _, other = seal_values(sealer, [Lane(sealer.settings, "ingest/cc").cut(1).value])
    with pytest.raises(ForkError):
        assembler.take(other[0].record.encode())


def test_a_missing_record_is_a_gap_and_no_tampering() -> None:
    sealer, data = sealed_bytes()
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    assemble(assembler, data[:3])
    with pytest.raises(SealedGapError) as caught:
        assembler.take(data[4])
    assert not isinstance(caught.value, TamperError)
    assert (caught.value.expected, caught.value.found) == (3, 4)


def test_a_close_signed_by_a_stranger_or_over_another_root_is_refused() -> None:
    sealer = make_sealer(make_genesis(max_messages=2))
    _, records = seal_values(sealer, every_outcome(sealer)[:2])
    first, last = (one.record for one in records)
    assert last.close is not None
    size = int((last.checkpoint or b"").split(b"\n", 2)[1])
    origin = sealer.settings.origin
    for signer, root in ((STRANGER, None), (LOG, bytes(32))):
        assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
        assembler.take(first.encode())
        assert assembler.state is not None
        checkpoint = Checkpoint(origin, size, root or bytes(range(32)))
        forged = replace(last, checkpoint=sign_checkpoint(checkpoint, signer))
        with pytest.raises(TamperError):
            assembler.take(forged.encode())


def test_records_older_than_the_start_are_compared_with_what_is_stored() -> None:
    sealer = make_sealer(make_genesis(max_messages=3))
    _, records = seal_values(sealer, every_outcome(sealer))
    before = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    assemble(before, [one.record.encode() for one in windows_of(records)[0]])
    later = WindowAssembler(sealer.settings, QUARANTINE_KEY, before.state)
    for one in windows_of(records)[0]:
        taken = later.take(one.record.encode())
        assert taken.outcome == "older"
        check_stored(sealer.settings, QUARANTINE_KEY, taken, one.record.without_value())
        with pytest.raises(ForkError):
            check_stored(sealer.settings, QUARANTINE_KEY, taken, None)
        changed = Taken(
            "older", replace(one.record, value=b"other" if one.record.value else one.record.value), taken.header
        )
        if one.record.value is not None:
            with pytest.raises(FoldError):
                check_stored(sealer.settings, QUARANTINE_KEY, changed, one.record.without_value())


def test_the_salts_are_those_of_the_vault() -> None:
    sealer, data = sealed_bytes()
    _, records = seal_values(sealer, every_outcome(sealer))
    windows = assemble(WindowAssembler(sealer.settings, QUARANTINE_KEY, None), data)
    salts = [one.salt for window in windows for one in window.sealed]
    assert salts == [one.salt for one in records][: len(salts)]
    assert SealHeader.decode(records[1].record.header).outcome == "quarantined"
