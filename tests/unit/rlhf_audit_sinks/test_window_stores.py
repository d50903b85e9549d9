"""A sink's store: where it is, what it holds of an offset, and what happens when somebody else was there first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders import QUARANTINE_KEY
from evidence_world import VAULT_KEY, Partition, World
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.errors import TamperError
from rlhf_audit_sinks.alarms import Alarm, write_alarm
from rlhf_audit_sinks.sealed_windows import ForkError, Window, WindowAssembler
from rlhf_audit_sinks.window_stores import ObjectsWindows, PositionMovedError, StoredRecords
from rlhf_audit_stores.objects import MemoryStore


def windows(folder: Path, count: int = 6, events: int = 60) -> tuple[Partition, list[Window], list[Sealed]]:
    """Windows of a partition that nobody stored yet, as a sink assembles them."""
    part = World(folder).partition()
    lane = part.lane()
    for _ in range(count):
        part.take(lane.cut(events).value, b"rubbish")
        part.tick()
    assembler = WindowAssembler(part.settings, QUARANTINE_KEY, None)
    taken = [assembler.take(one.record.encode()).window for one in part.open]
    return part, [each for each in taken if each is not None], part.open


def store(part: Partition) -> ObjectsWindows:
    return ObjectsWindows(part.world.objects, part.world.vault, VAULT_KEY)


def always() -> bool:
    return True


def contents(store: MemoryStore) -> dict[str, bytes]:
    return {info.name: store.get(info.name) for info in store.list("")}


def test_a_new_sink_begins_at_the_beginning_and_goes_on_where_the_store_is(tmp_path: Path) -> None:
    part, found, _ = windows(tmp_path)
    first = store(part)
    assert first.place(part.settings, always) is None
    for window in found[:3]:
        assert first.store(window)
    second = store(part)
    state = second.place(part.settings, always)
    assert state is not None
    assert (state.window_id, state.m, state.link) == (3, found[2].close.m, found[2].close.link)
    for window in found[3:]:
        second.store(window)
    other, _, sealed = windows(tmp_path / "other")
    other.open = []
    for window in found:
        other.sink.store(window.sealed)
    assert contents(part.world.objects) == contents(other.world.objects)
    assert len(sealed) == len(part.open)


def test_who_comes_second_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    part, found, _ = windows(tmp_path)
    first, late = store(part), store(part)
    first.place(part.settings, always)
    for window in found[:2]:
        first.store(window)
    late.place(part.settings, always)
    for window in found[2:]:
        first.store(window)
    before = contents(part.world.objects)
    with pytest.raises(PositionMovedError) as caught:
        late.store(found[2])
    assert caught.value.retriable
    state = late.place(part.settings, always)
    assert state is not None
    assert state.window_id == len(found)
    assert contents(part.world.objects) == before


def test_partial_tiles_that_a_dead_sink_left_go_at_the_next_placing(tmp_path: Path) -> None:
    part, found, _ = windows(tmp_path)
    sink = store(part)
    sink.place(part.settings, always)
    left: dict[str, bytes] = {}
    for window in found:
        before = contents(part.world.objects)
        sink.store(window)
        left |= {name: data for name, data in before.items() if name not in contents(part.world.objects)}
        if left:
            break
    assert left  # 62 entries a window: the fifth completes a tile
    right = contents(part.world.objects)
    for name, data in left.items():
        part.world.objects.put(name, data)
    store(part).place(part.settings, always)
    assert contents(part.world.objects) == right


def test_every_stored_record_is_found_by_its_offset_and_no_other(tmp_path: Path) -> None:
    part, found, sealed = windows(tmp_path)
    sink = store(part)
    sink.place(part.settings, always)
    for window in found:
        sink.store(window)
    lookup = StoredRecords(part.world.objects, part.settings)
    for one in [*sealed, *sealed[::-1], *sealed[::3]]:
        assert lookup.find(one.header) == one.record.without_value()


def test_nothing_is_found_where_nothing_is_stored(tmp_path: Path) -> None:
    part, _, sealed = windows(tmp_path, count=1)
    assert store(part).stored_record(part.settings, sealed[0].header) is None


def test_an_alarm_names_places_and_digests_and_is_never_overwritten(tmp_path: Path) -> None:
    error = ForkError(partition="annotations/1", offset=7, expected=bytes(32), found=bytes(range(32)))
    path = write_alarm(tmp_path, Alarm.of(error, "objects", "audit.sealed.annotations", 1, 9, b"secret", 5))
    kept = path.read_bytes()
    assert b"secret" not in kept
    raw = json.loads(kept)
    assert (raw["kind"], raw["topic_offset"], raw["expected_sha256"]) == ("ForkError", 9, bytes(32).hex())
    assert path.stat().st_mode & 0o777 == 0o600
    again = Alarm.of(error, "objects", "audit.sealed.annotations", 1, 9, b"secret", 6)
    assert write_alarm(tmp_path, again) == path
    assert path.read_bytes() == kept
    restarted = ForkError(partition="annotations/1", offset=7, expected=None, found=bytes(range(32)))
    again = Alarm.of(restarted, "objects", "audit.sealed.annotations", 1, 9, b"secret", 7)
    assert write_alarm(tmp_path, again) == path, "what a sink remembers is no other finding"
    another = Alarm.of(TamperError("another"), "objects", "audit.sealed.annotations", 1, 9, None, 6)
    assert write_alarm(tmp_path, another) != path
    assert path.read_bytes() == kept
