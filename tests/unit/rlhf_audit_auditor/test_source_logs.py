"""What a verifier says of a partition whose source was switched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders import OTHER_SOURCE_ID, SOURCE_ID, TICKER, format_value, switch_value
from evidence_world import Partition, World


def switch(part: Partition, new_source_id: bytes, next_offset: int = 1) -> None:
    value = switch_value(
        part.settings, TICKER, source_id=part.state.source_id, new_source_id=new_source_id, next_offset=next_offset
    )
    part.take(value)
    part.world.publish([part.store()])


@pytest.fixture
def part(tmp_path: Path) -> Partition:
    """A window from one log, the switch, a window from another."""
    part = World(tmp_path / "stage").partition()
    lane = part.lane()
    part.take(lane.cut(3).value)
    part.close()
    switch(part, OTHER_SOURCE_ID)
    part.take(lane.cut(2, final=True).value)
    part.close()
    return part


@pytest.mark.parametrize("with_payloads", [True, False])
def test_both_parts_verify_as_one_and_the_switch_is_told(part: Partition, with_payloads: bool) -> None:
    report = part.world.verify(with_payloads=with_payloads)
    assert (report.exit_code, report.windows, report.events) == (0, 3, 5)
    told = f"annotations/0 goes on in source log {OTHER_SOURCE_ID.hex()} at offset 1, behind window 1"
    assert told in report.notes
    assert report.completeness is not None
    assert report.completeness.verdict == ("yes" if with_payloads else "unknown")


def test_going_back_to_a_log_that_was_left_is_a_finding(part: Partition) -> None:
    """Its offsets would be sealed twice, under the same salts."""
    switch(part, SOURCE_ID, 9)
    report = part.world.verify()
    assert [(finding.code, finding.window) for finding in report.findings] == [("source", 3)]


def test_the_window_behind_a_broken_one_is_run_again_from_its_own_log(part: Partition) -> None:
    """The close of the switch says which log comes next, so one fault does not hide those after it."""
    name = "segments/annotations/0/000000000001.avro"
    data = part.world.objects.get(name)
    part.world.objects.delete_many([name])
    part.world.objects.put(name, data[:-1] + bytes([data[-1] ^ 1]))
    report = part.world.verify()
    assert report.exit_code == 1
    assert {finding.window for finding in report.findings} == {1}
    assert report.windows == 3


def test_a_format_that_this_version_does_not_know_can_be_checked_neither_way(part: Partition) -> None:
    """All up to the switch is checked; what stands behind it is not called fine, nor tampered."""
    part.take(format_value(part.settings, TICKER, source_id=part.state.source_id))
    part.world.publish([part.store()])
    report = part.world.verify()
    assert (report.exit_code, report.windows) == (0, 4)
    assert "annotations/0 goes on in format 2, behind window 3" in report.notes
    lane = part.lane("ingest/later")
    part.state = replace(part.state, format=1)  # as a later version would go on, had it changed nothing
    part.take(lane.cut(2, final=True).value)
    part.close()
    report = part.world.verify()
    assert (report.exit_code, report.findings, report.windows) == (3, [], 4)
    assert report.unreadable == ["annotations/0: from window 4 on in format 2, this version knows 1"]
    assert report.proved() == []
