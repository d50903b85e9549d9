"""The sequencer of a cluster: publishes what is stored, finishes what was cut short, and is the only one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from builders import LOG
from evidence_world import World
from rlhf_audit_ledger.globallog import is_checkpoint
from rlhf_audit_processors import sequencer_worker
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_processors.sequencer_worker import NotTheSequencerError, SequencerWorker
from rlhf_audit_schemas.errors import TransportError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.objects import MemoryStore, ObjectStore, Version
from rlhf_audit_stores.stored_state import RefusedToGoOnError


class Shaky(MemoryStore):
    """Loses the answer of calls: ``before`` or ``after`` their effect."""

    def __init__(self, inner: MemoryStore, when: Callable[[str, str], str | None]) -> None:
        super().__init__()
        self._objects, self._when = inner._objects, when

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        for name, data in items:
            self._act("put", name, lambda name=name, data=data: self.put(name, data))  # type: ignore[misc]

    def swap(self, name: str, data: bytes, expected: Version | None) -> Version:
        version: Version = self._act("swap", name, lambda: MemoryStore.swap(self, name, data, expected))
        return version

    def _act(self, call: str, name: str, act: Callable[[], Any]) -> Any:
        lost = self._when(call, name)
        if lost == "before":
            raise TransportError("no answer")
        done = act()
        if lost == "after":
            raise TransportError("no answer")
        return done


def worker(
    world: World, stage: Path, objects: ObjectStore | None = None, *, take_over: bool = False
) -> SequencerWorker:
    store = world.objects if objects is None else objects
    return SequencerWorker(
        Sequencer(store, stage / "stage", RealDisk()),
        store,
        [part.settings for part in world.partitions.values()],
        signer=LOG,
        origin=world.origin,
        health=WorkerHealth("sequence"),
        is_taking_over=take_over,
    )


def stored_windows(world: World, count: int, number: int = 0) -> list[bytes]:
    """Store windows of a partition without publishing them; returns their checkpoints."""
    part = world.partition(number=number)
    found = []
    for _ in range(count):
        part.take(b"rubbish")
        part.tick()
        found.append(part.store())
    return found


def published(world: World) -> list[bytes]:
    sequencer = Sequencer(world.objects, Path("no stage"), RealDisk())
    sequencer.open(LOG.public_key, world.origin)
    return [entry for entry in list(sequencer.entries_backwards())[::-1] if is_checkpoint(entry)]


def test_what_is_stored_is_published_once_in_the_order_of_each_partition(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = stored_windows(world, 3)
    sequencing = worker(world, tmp_path)
    sequencing.open()
    assert published(world) == first
    assert sequencing.turn() == 0
    more = stored_windows(world, 2)
    assert sequencing.turn() == 2
    assert published(world) == first + more
    again = worker(world, tmp_path)
    again.open()
    assert published(world) == first + more


def test_partitions_that_begin_later_are_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = stored_windows(world, 1)
    world.partition(number=1)
    sequencing = worker(world, tmp_path)
    sequencing.open()
    late = stored_windows(world, 2, number=1)
    assert sequencing.turn() == 2
    assert published(world) == first + late
    assert world.verify().status == "verified"


@pytest.mark.parametrize("call", ["put", "swap"])
@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_publication_that_got_no_answer_is_finished_with_the_same_entries(
    tmp_path: Path, call: str, lost: str
) -> None:
    world = World(tmp_path)
    world.partition(number=0)
    failures = [lost]
    objects = Shaky(world.objects, lambda asked, name: failures.pop() if asked == call and failures else None)
    sequencing = worker(world, tmp_path, objects)
    sequencing.open()
    first = stored_windows(world, 2)
    with pytest.raises(TransportError):
        sequencing.turn()
    more = stored_windows(world, 1)
    sequencing._is_open = False  # as ``run`` does after an error
    sequencing.turn()
    assert not failures
    assert published(world) == first + more


def test_somebody_without_the_stage_is_refused_unless_it_takes_over(tmp_path: Path) -> None:
    world = World(tmp_path / "first")
    stored = stored_windows(world, 1)
    with pytest.raises(NotTheSequencerError, match="take-over"):
        worker(world, tmp_path / "second").open()
    assert published(world) == []
    worker(world, tmp_path / "second", take_over=True).open()
    assert published(world) == stored


def test_a_second_one_with_a_copied_stage_is_refused_before_it_writes_anything(tmp_path: Path) -> None:
    world = World(tmp_path / "first")
    world.partition(number=0)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    one, other = worker(world, tmp_path / "first"), worker(world, tmp_path / "copy")
    one.open()
    other.open()
    stored = stored_windows(world, 1)
    assert one.turn() == 1
    names = {info.name for info in world.objects.list("")}
    with pytest.raises(NotTheSequencerError, match="one sequencer"):
        other.turn()
    with pytest.raises(RefusedToGoOnError):
        worker(world, tmp_path / "copy").open()
    assert {info.name for info in world.objects.list("")} == names
    assert published(world) == stored


def test_a_partition_that_went_back_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = stored_windows(world, 2)
    sequencing = worker(world, tmp_path)
    sequencing.open()
    world.objects._objects["logs/annotations/0/checkpoint"] = before[0]
    with pytest.raises(RefusedToGoOnError, match="went back"):
        sequencing.turn()


def test_told_to_stop_it_says_when_something_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer_worker, "PUBLISH_EVERY_S", 0.01)
    monkeypatch.setattr(sequencer_worker, "_LONGEST_PAUSE_S", 0.01)
    world = World(tmp_path)
    world.partition(number=0)
    failing = [True]
    objects = Shaky(world.objects, lambda asked, name: "before" if asked == "swap" and failing else None)
    sequencing = worker(world, tmp_path, objects)
    sequencing.open()
    first = stored_windows(world, 1)
    with pytest.raises(TransportError):
        sequencing.run(lambda: True)
    failing.clear()
    sequencing.run(lambda: True)
    assert published(world) == first
