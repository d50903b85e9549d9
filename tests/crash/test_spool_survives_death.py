"""Die at every effect of a recording process and of the runtime behind it: no event is lost that was acknowledged, none
is sealed twice, and the bytes are those of a fresh sealing."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from crash.fake_disk import CountingDisk, Crash, CrashingDisk, VolatileDisk
from crash.resealing import KeepingDisk, differences
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.settings import load_settings
from spooling import drain, heartbeats, outcomes, sealed_events, spooled_events, withdrawals, writer
from verifying import findings_of

WAYS = [
    pytest.param(False, False, id="before the effect"),
    pytest.param(True, False, id="after the effect"),
    pytest.param(False, True, id="half-way in a write"),
]
PER_TURN, TURNS = 5, 4


def record(directory: Path, disk: Disk, acknowledged: list[str]) -> None:
    """A short training: notes what was durable before it went on."""
    facts = ledger_facts(directory, load_settings(directory, environ={}))
    spool, queue = writer(directory, disk, facts=facts)
    try:
        spool.open()
        for turn in range(TURNS):
            queue.put(withdrawals(turn * PER_TURN, PER_TURN))
            queue.put(heartbeats(1))
            spool.turn()
            acknowledged += [f"w{n}" for n in range(turn * PER_TURN, (turn + 1) * PER_TURN)]
        spool.close("finished")
    except Crash:
        spool.abandon()  # the operating system gives a dead process's lock back
        raise


def deaths(names: list[str], *, torn: bool) -> list[int]:
    """Numbers of the effects at which to die; only a write can be torn."""
    return [at for at, name in enumerate(names, 1) if not torn or name == "write"]


def effects_of_recording(directory: Path) -> list[str]:
    counting = CountingDisk(RealDisk())
    record(directory, counting, [])
    return counting.names


@pytest.mark.parametrize(("after", "torn"), WAYS)
@pytest.mark.parametrize("cut", [False, True], ids=["power stays", "power cut"])
def test_a_rank_that_dies_at_any_effect_leaves_what_it_acknowledged(
    after: bool, torn: bool, cut: bool, tmp_path: Path
) -> None:
    for at in deaths(effects_of_recording(tmp_path / "whole"), torn=torn):
        trail = tmp_path / str(at)
        trail.mkdir()
        ledger_facts(trail, load_settings(trail, environ={}))
        volatile = VolatileDisk(trail)
        acknowledged: list[str] = []
        with pytest.raises(Crash):
            record(trail, CrashingDisk(volatile, at=at, after=after, torn=torn), acknowledged)
        if cut:
            volatile.power_cut()
        drain(trail)
        ids = [event["annotation_id"] for event in sealed_events(trail, "withdrawal")]
        assert ids[: len(acknowledged)] == acknowledged
        assert ids == [f"w{n}" for n in range(len(ids))]
        assert outcomes(trail) <= {"accepted"}
        began, ended = (
            any(event["producer"] == "run/0" for event in sealed_events(trail, kind))
            for kind in ("producer_start", "producer_end")
        )
        lost = [event["producer"] for event in sealed_events(trail, "producer_lost")]
        assert lost in ([], ["run/0"])
        if began:
            assert bool(lost) != ended
        assert findings_of(trail) == []


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks that recorded: one ended, one was killed."""
    trail = tmp_path_factory.mktemp("recorded")
    facts = ledger_facts(trail, load_settings(trail, environ={}))
    for rank in range(2):
        spool, queue = writer(trail, facts=facts, producer=f"run/{rank}")
        spool.open()
        for turn in range(3):
            queue.put(withdrawals(100 * rank + turn * PER_TURN, PER_TURN))
            spool.turn()
        if rank:
            spool.abandon()
        else:
            spool.close("finished")
    return trail


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def check_drained(trail: Path, copy: Path) -> None:
    ids = Counter(event["annotation_id"] for event in sealed_events(trail, "withdrawal"))
    assert ids == Counter(f"w{100 * rank + n}" for rank in range(2) for n in range(3 * PER_TURN))
    assert outcomes(trail) == {"accepted"}
    assert [event["producer"] for event in sealed_events(trail, "producer_lost")] == ["run/1"]
    assert differences(trail, copy) == []
    assert findings_of(trail) == []
    assert not list((trail / "spool" / "producers").glob("*/*/*.log")), "a stored spool was kept"


@pytest.mark.parametrize(("after", "torn"), WAYS)
def test_a_runtime_that_dies_at_any_effect_takes_every_batch_once(
    after: bool, torn: bool, recorded: Path, tmp_path: Path
) -> None:
    counting = CountingDisk(RealDisk())
    drain(copied(recorded, tmp_path / "whole"), counting)
    for at in deaths(counting.names, torn=torn):
        trail, copy = copied(recorded, tmp_path / f"{at}" / "trail"), tmp_path / f"{at}" / "copy"
        try:
            drain(trail, KeepingDisk(CrashingDisk(RealDisk(), at=at, after=after, torn=torn), copy))
        except Crash:
            drain(trail, KeepingDisk(RealDisk(), copy))
        check_drained(trail, copy)


@pytest.mark.parametrize("torn", [False, True], ids=["nothing unsynced survives", "some of it survives"])
def test_a_power_cut_at_any_effect_of_the_runtime_loses_nothing(torn: bool, recorded: Path, tmp_path: Path) -> None:
    chance = random.Random(20261125)  # noqa: S311 - a schedule that can be repeated
    counting = CountingDisk(RealDisk())
    drain(copied(recorded, tmp_path / "whole"), counting)
    for at in range(1, len(counting.calls) + 1):
        trail, copy = copied(recorded, tmp_path / f"{at}" / "trail"), tmp_path / f"copy of {at}"
        volatile = VolatileDisk(trail.parent)
        try:
            drain(trail, KeepingDisk(CrashingDisk(volatile, at=at, after=chance.random() < 0.5), copy))
        except Crash:
            volatile.power_cut(chance if torn else None)
            drain(trail, KeepingDisk(RealDisk(), copy))
        check_drained(trail, copy)


def test_dying_again_and_again_takes_every_batch_once(recorded: Path, tmp_path: Path) -> None:
    trail, copy = copied(recorded, tmp_path / "trail"), tmp_path / "copy"
    chance = random.Random(7)  # noqa: S311 - a schedule that can be repeated
    died = 0
    for _ in range(12):
        try:
            drain(trail, KeepingDisk(CrashingDisk(RealDisk(), at=chance.randrange(5, 120), after=True), copy))
        except Crash:
            died += 1
    assert died > 4
    drain(trail, KeepingDisk(RealDisk(), copy))
    check_drained(trail, copy)


def test_spooled_events_are_there_before_anybody_drains_them(recorded: Path) -> None:
    assert len(spooled_events(recorded, "withdrawal")) == 2 * 3 * PER_TURN
