"""Die at every effect of the shipper on its disk: every batch reaches the brokers, nothing is said in two ways."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from crash.fake_disk import CountingDisk, Crash, CrashingDisk, VolatileDisk
from rlhf_audit_ledger.batch import BatchBody, batch_digest
from rlhf_audit_stores.disk import Disk, RealDisk
from shipping import Answer, Brokers, ship_all
from spooling import spooled, withdrawals, writer

WAYS = [
    pytest.param(False, False, id="before the effect"),
    pytest.param(True, False, id="after the effect"),
    pytest.param(False, True, id="half-way in a write"),
]
LARGE = 5000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three ranks: one ended, one was killed, one recorded a batch that no broker takes."""
    trail = tmp_path_factory.mktemp("recorded")
    for rank in range(3):
        spool, queue = writer(trail, producer=f"run/{rank}")
        spool.open()
        for turn in range(3):
            padding = LARGE if (rank, turn) == (2, 1) else 0
            queue.put(withdrawals(100 * rank + 5 * turn, 5 if not padding else 1, padding=padding))
            spool.turn()
        if rank == 1:
            spool.abandon()
        else:
            spool.close("finished")
    return trail


def answer(topic: str, partition: int, value: bytes) -> Answer:
    return "too large" if len(value) > LARGE else "ok"


def brokers() -> Brokers:
    return Brokers(answer)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def check(trail: Path, found: Brokers, wanted: list[BatchBody]) -> None:
    """Every batch of the ranks, in the order of its lane; one content under the same numbers; each notice once."""
    lanes: dict[tuple[object, ...], list[BatchBody]] = {}
    for body in found.bodies():
        lane = lanes.setdefault((body.producer, body.epoch, body.stream, body.partition), [])
        known = next((one for one in lane if (one.first_seq, one.final) == (body.first_seq, body.final)), None)
        assert known is None or known == body, "two contents under the same numbers"
        if known is None:
            assert not lane or lane[-1].first_seq <= body.first_seq, "a lane out of order"
            lane.append(body)
    taken = [body for body in wanted if len(b"".join(body.events)) < LARGE]
    for lane_id in {(body.producer, body.epoch, body.stream, body.partition) for body in taken}:
        assert lanes[lane_id] == [
            body for body in taken if (body.producer, body.epoch, body.stream, body.partition) == lane_id
        ]
    assert [(one["producer"], one["epoch"]) for one in found.events("producer_lost")] == [("run/1", 0)]
    assert [one["producer"] for one in found.events("fault")] == ["run/2"]
    heads = {(row["stream"], row["partition"]): row["next_seq"] for row in found.events("producer_lost")[0]["lanes"]}
    dead = [body for body in taken if body.producer == "run/1"]
    assert heads == {(body.stream, body.partition): body.first_seq + len(body.events) for body in dead}
    for lane in lanes.values():
        if lane[0].producer.startswith("shipper/"):
            assert lane[-1].final, "a notice without its end"
            assert [body.prev_batch for body in lane[1:]] == [batch_digest(body.encode()) for body in lane[:-1]]
    assert not list((trail / "spool" / "producers").glob("*/*/*.log")), "a shipped spool was kept"
    assert len(list((trail / "spool" / "refused").iterdir())) == 1


def effects(recorded: Path, tmp_path: Path) -> list[str]:
    trail, counting, found = copied(recorded, tmp_path / "whole"), CountingDisk(RealDisk()), brokers()
    ship_all(trail, found, disk=counting)
    check(trail, found, [body for _, body in spooled(recorded)])
    return counting.names


def ship_until_death(trail: Path, found: Brokers, disk: Disk) -> bool:
    try:
        ship_all(trail, found, disk=disk)
    except Crash:
        return True
    return False


@pytest.mark.parametrize(("after", "torn"), WAYS)
def test_a_shipper_that_dies_at_any_effect_loses_nothing_and_says_everything_once(
    after: bool, torn: bool, recorded: Path, tmp_path: Path
) -> None:
    wanted = [body for _, body in spooled(recorded)]
    names = effects(recorded, tmp_path)
    for at in [at for at, name in enumerate(names, 1) if not torn or name == "write"]:
        trail, found = copied(recorded, tmp_path / str(at)), brokers()
        ship_until_death(trail, found, CrashingDisk(RealDisk(), at=at, after=after, torn=torn))
        ship_all(trail, found)
        check(trail, found, wanted)


@pytest.mark.parametrize("torn", [False, True], ids=["nothing unsynced survives", "some of it survives"])
def test_a_power_cut_at_any_effect_of_the_shipper_loses_nothing(torn: bool, recorded: Path, tmp_path: Path) -> None:
    wanted = [body for _, body in spooled(recorded)]
    chance = random.Random(20261125)  # noqa: S311 - a schedule that can be repeated
    for at in range(1, len(effects(recorded, tmp_path)) + 1):
        trail, found = copied(recorded, tmp_path / f"{at}" / "trail"), brokers()
        volatile = VolatileDisk(trail.parent)
        if ship_until_death(trail, found, CrashingDisk(volatile, at=at, after=chance.random() < 0.5)):
            volatile.power_cut(chance if torn else None)
        ship_all(trail, found)
        check(trail, found, wanted)


def test_dying_again_and_again_loses_nothing(recorded: Path, tmp_path: Path) -> None:
    wanted = [body for _, body in spooled(recorded)]
    trail, found = copied(recorded, tmp_path / "trail"), brokers()
    chance = random.Random(7)  # noqa: S311 - a schedule that can be repeated
    deaths = sum(
        ship_until_death(trail, found, CrashingDisk(RealDisk(), at=chance.randrange(1, 40), after=True))
        for _ in range(12)
    )
    assert deaths > 4
    ship_all(trail, found)
    check(trail, found, wanted)
