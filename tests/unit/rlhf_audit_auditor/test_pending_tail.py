"""What a crash leaves beyond the checkpoints is a tail when complete and consistent, and a finding otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from builders import START_US
from evidence_world import VAULT_KEY, Partition, World
from rlhf_audit_auditor.evidence import StoreEvidence
from rlhf_audit_auditor.report import Report
from rlhf_audit_auditor.requirements import Requirements
from rlhf_audit_auditor.verify import Options, verify
from rlhf_audit_ledger.vault import open_vault, seal_vault

PREFIX = "logs/annotations/0/"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One published window of 300 events."""
    made = World(tmp_path / "world")
    part = made.partition()
    part.take(part.lane("ingest/aa").cut(300, final=True).value)
    part.close()
    return made


def names(world: World) -> set[str]:
    return {info.name for info in world.objects.list("")}


def crash_before_checkpoint(world: World, part: Partition, count: int = 400) -> set[str]:
    """A further window is stored, then its checkpoint is put back; returns the names of the tail."""
    name = f"{PREFIX}checkpoint"
    before = {info.name: world.objects.get(info.name) for info in world.objects.list("")}
    part.take(part.lane("ingest/bb").cut(count, final=True).value)
    part.tick()
    part.store()
    world.objects.delete(name)
    for old, data in before.items():  # the writer deletes partial objects after the checkpoint only
        world.objects.put(old, data)
    return names(world) - set(before)


def assert_tail(report: Report, text: str) -> None:
    assert report.findings == []
    assert report.exit_code == 0
    assert any(text in line for line in report.pending)


def flip(world: World, name: str, at: int = -1) -> None:
    data = bytearray(world.objects.get(name))
    data[at] ^= 1
    world.objects.delete(name)
    world.objects.put(name, bytes(data))


def test_a_window_whose_checkpoint_is_not_published_yet(world: World) -> None:
    part = world.partition()
    part.take(part.lane("ingest/bb").cut(3, final=True).value)
    part.tick()
    part.store()
    assert_tail(world.verify(), "not in the global log yet")
    assert_tail(world.verify(with_payloads=False), "not in the global log yet")


def test_a_window_stored_before_its_checkpoint(world: World) -> None:
    assert crash_before_checkpoint(world, world.partition())
    assert_tail(world.verify(), "does not name it yet")
    assert_tail(world.verify(with_payloads=False), "does not name it yet")


def test_any_beginning_of_the_write_order_is_a_tail(world: World) -> None:
    tail = crash_before_checkpoint(world, world.partition())
    tiles = sorted(name for name in tail if name.startswith(PREFIX))
    assert len(tiles) >= 4
    for name in tiles:
        world.objects.delete(name)
        assert_tail(world.verify(), "window 1")
    world.objects.delete("segments/annotations/0/000000000001.avro")
    assert_tail(world.verify(), "payload only")
    world.vault.delete("annotations/0/000000000001.0")
    assert world.verify().pending == []


def test_every_object_of_a_tail_is_checked(world: World) -> None:
    for name in sorted(crash_before_checkpoint(world, world.partition())):
        honest = world.objects.get(name)
        flip(world, name)
        report = world.verify()
        assert report.exit_code == 1, name
        assert any(name == finding.object for finding in report.findings), name
        world.objects.delete(name)
        world.objects.put(name, honest)
    assert world.verify().exit_code == 0


def test_the_first_window_of_a_partition_may_be_a_tail_too(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    crash_before_checkpoint(world, world.partition(), count=5)
    assert_tail(world.verify(), "window 0")


def test_two_windows_beyond_the_checkpoint_are_one_too_many(world: World) -> None:
    part = world.partition()
    older = world.objects.get(f"{PREFIX}checkpoint")
    lane = part.lane("ingest/bb")
    for _ in range(2):
        part.take(lane.cut(3).value)
        part.tick()
        part.store()
    world.objects.delete(f"{PREFIX}checkpoint")
    world.objects.put(f"{PREFIX}checkpoint", older)
    report = world.verify()
    assert report.exit_code == 1
    assert any(finding.object == "segments/annotations/0/000000000002.avro" for finding in report.findings)


def test_tiles_beyond_the_checkpoint_without_their_window_are_unexplained(world: World) -> None:
    tail = crash_before_checkpoint(world, world.partition())
    world.objects.delete("segments/annotations/0/000000000001.avro")
    report = world.verify()
    found = {finding.object for finding in report.findings}
    assert found == {name for name in tail if name.startswith(PREFIX)}


def publication_cut_short(world: World) -> Iterable[str]:
    """The global log's tiles are stored, its checkpoint is not."""
    before = names(world)
    older = world.checkpoint
    part = world.partition()
    part.take(part.lane("ingest/bb").cut(3, final=True).value)
    part.close()
    world.objects.delete("global/checkpoint")
    world.objects.put("global/checkpoint", older)
    return sorted(name for name in names(world) - before if name.startswith("global/"))


def test_a_publication_that_was_cut_short(world: World) -> None:
    added = publication_cut_short(world)
    assert added
    assert_tail(world.verify(), "not in the global log yet")
    for name in added:
        flip(world, name)
        assert world.verify().exit_code == 1, name
        flip(world, name)
    assert world.verify().exit_code == 0


def test_a_global_tail_that_names_what_no_partition_has(world: World) -> None:
    publication_cut_short(world)
    for name in (f"{PREFIX}checkpoint", "segments/annotations/0/000000000001.avro"):
        assert name in names(world)
        world.objects.delete(name)
    assert world.verify().exit_code == 1


def test_a_tail_that_waits_too_long_is_not_fresh(world: World) -> None:
    part = world.partition()
    part.take(part.lane("ingest/bb").cut(3, final=True).value)
    part.tick()
    part.store()
    hour = Requirements(fresh_us=3_600_000_000)
    assert world.verify(Options(require=hour, now_us=START_US)).exit_code == 0
    report = world.verify(Options(require=hour, now_us=START_US + 2 * 3_600_000_000))
    assert any("pending" in line for line in report.unmet)


def test_a_partial_tile_of_an_earlier_size_must_begin_the_present_one(world: World) -> None:
    part = world.partition()
    part.take(part.lane("ingest/bb").cut(3, final=True).value)
    part.close()
    stale = f"{PREFIX}tile/entries/001.p/46"
    assert stale in names(world)
    assert world.verify().exit_code == 0
    flip(world, stale)
    report = world.verify()
    assert [finding.object for finding in report.findings] == [stale]
    flip(world, stale)
    world.objects.delete(stale)
    assert world.verify().exit_code == 0


class BusyStore(StoreEvidence):
    """A store that somebody writes to while it is listed for the last time."""

    def __init__(self, world: World) -> None:
        super().__init__(world.objects)
        self.world = world
        self.is_armed = False

    def get(self, name: str) -> bytes | None:
        if self.is_armed and name.startswith("segments/"):
            self.is_armed = False
            part = self.world.partition()
            lane = part.lane("ingest/busy")
            for _ in range(2):
                part.take(lane.cut(3).value)
                part.close()
        return super().get(name)


def test_a_trail_that_is_written_to_meanwhile_is_neither_fine_nor_tampered(world: World) -> None:
    busy = BusyStore(world)
    trail = replace(world.trail(), objects=busy)
    busy.is_armed = True
    report = verify(trail, Options())
    assert (report.exit_code, report.findings) == (3, [])
    assert any("written to while it was checked" in line for line in report.unreadable)
    assert verify(trail, Options()).exit_code == 0


def test_a_payload_without_its_window_must_go_on_where_the_last_one_ended(world: World) -> None:
    honest = "annotations/0/000000000000.0"
    records = open_vault(f"vault/{honest}", world.vault.get(honest), VAULT_KEY)
    name = "annotations/0/000000000001.0"
    world.vault.put(name, seal_vault(f"vault/{name}", records, VAULT_KEY))
    report = world.verify()
    assert [finding.object for finding in report.findings] == [f"vault/{name}"]
    flipped = bytearray(world.vault.get(name))
    flipped[-1] ^= 1
    world.vault.delete(name)
    world.vault.put(name, bytes(flipped))
    assert [finding.code for finding in world.verify().findings] == ["vault"]
