"""How long output pauses when something of the pipeline dies: measured, printed as a table, held to a bound.

Three brokers, two sealers, the object sink, steady load on four partitions. A pause is the longest time in which a
plain reader of the sealed topic sees nothing in a partition. The figures are printed beside the targets; since two busy
cores are not what the targets are meant for, only a standstill fails a test.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kafka.arrivals import Arrivals, load
from kafka.fleet import Fleet
from kafka.roles import controller_of, coordinator_of, leaders_of
from kafka.sealer_load import Load
from rlhf_audit_stores.kafka.topics import sealed_topic
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_stores.stored_state import stored_state
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from sealing_rig import STREAM, Rig, poll

pytestmark = pytest.mark.service
SLACK = 6.0  # never a timed test: what was measured is printed, and this only tells a pause from a standstill
LOAD_EVERY_S = 0.1
STOP_S = 12.0  # twice the session
MILLION, PER_BATCH = 1_000_000, 2_000
RESUME_TARGET_S = 2.0
COULD_NOT_GO_ON = 3  # what a worker says that is started while brokers do not answer; it is started again


@dataclass
class World:
    """What runs during all faults of this file, and what was measured."""

    cluster: KafkaCluster
    rig: Rig
    fleet: Fleet
    arrivals: Arrivals
    load: Load
    rows: list[str] = field(default_factory=list)

    @property
    def topic(self) -> str:
        return sealed_topic(self.rig.kafka.topic_prefix, STREAM)

    def wait_until_steady(self) -> None:
        poll(lambda: len(self.arrivals.steady(self.topic)) == 4, 60, "output in every partition")

    def seal(self, name: str) -> None:
        self.fleet.audit(name, *self.rig.command("--instance", name))

    def measure(self, what: str, target_s: float, fault: Callable[[], str]) -> None:
        """Do it, and note the longest pause of each partition until all is as before."""
        self.wait_until_steady()
        time.sleep(2.0)
        busy, since = load(), time.monotonic()
        remark = fault()
        self.wait_until_steady()
        time.sleep(2.0)
        self.wait_until_steady()
        pauses = self.arrivals.gaps([(self.topic, number) for number in range(4)], since - 0.5, time.monotonic())
        worst = max(pauses.values())
        each = " ".join(f"{seconds:5.1f}" for seconds in pauses.values())
        self.rows.append(f"{what:<48} {target_s:4.0f} s {worst:6.1f} s   {each}   {busy}{remark}")
        assert worst <= target_s * SLACK, self.rows[-1]


@pytest.fixture(scope="module")
def world(
    three_brokers: KafkaCluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    place = tmp_path_factory.mktemp("pauses")
    rig = Rig(place / "trail", three_brokers.settings("pauses."), replicas=3)
    with Fleet(place / "logs") as fleet, Arrivals(rig.kafka, {sealed_topic("pauses.", STREAM): 4}) as arrivals:
        made = World(three_brokers, rig, fleet, arrivals, Load(rig, every_s=LOAD_EVERY_S))
        made.seal("a")
        made.seal("b")
        fleet.audit("sink", *sink_words(rig))
        made.load.start()
        made.wait_until_steady()
        poll(lambda: has_share(fleet, "a") and has_share(fleet, "b"), 60, "sharing the partitions")
        yield made
    show(request, "pauses: longest time without output", made.rows)


def show(request: pytest.FixtureRequest, title: str, rows: list[str]) -> None:
    """Print past pytest's capture, which swallows what fixtures say."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    assert manager is not None
    with manager.global_and_fixture_disabled():
        print(f"\n{title}", *rows, sep="\n", flush=True)  # noqa: T201 - measured


def sink_words(rig: Rig) -> list[str]:
    brokers = ["--brokers", rig.kafka.brokers, "--topic-prefix", rig.kafka.topic_prefix]
    return ["sink", "objects", str(rig.directory), *brokers]


def has_share(fleet: Fleet, name: str) -> bool:
    return any(f"{count} partitions taken over" in fleet.words(name, 400) for count in (6, 7))


def test_a_sealer_is_killed_and_started_again(world: World) -> None:
    """Static membership: its partitions wait for it, nobody else's do."""

    def fault() -> str:
        world.fleet.send("a", signal.SIGKILL)
        time.sleep(3.0)
        return ""

    world.measure("sealer kill -9, started again after 1 s", 5, fault)


def test_a_sealer_is_killed_and_stays_dead(world: World) -> None:
    def fault() -> str:
        os.kill(world.fleet.pid("a"), signal.SIGKILL)
        assert world.fleet.wait("a", 10) == -signal.SIGKILL
        time.sleep(6.0)
        return ""

    world.measure("sealer kill -9, the other one takes over", 8, fault)
    world.seal("a")
    poll(lambda: world.fleet.words("b", 3) and has_share(world.fleet, "a"), 60)


def test_a_sealer_is_stopped_past_its_session(world: World) -> None:
    def fault() -> str:
        world.fleet.send("b", signal.SIGSTOP)
        time.sleep(STOP_S)
        world.fleet.send("b", signal.SIGCONT)
        time.sleep(2.0)
        return ""

    world.measure(f"sealer SIGSTOP for {STOP_S:.0f} s (session 6 s)", 10, fault)


def test_a_broker_is_killed(world: World) -> None:
    world.measure("broker kill -9, started again when all went on", 12, lambda: kill_a_broker(world))


def test_a_broker_and_a_sealer_are_killed_together(world: World) -> None:
    def fault() -> str:
        world.fleet.send("a", signal.SIGKILL)
        return kill_a_broker(world)

    world.measure("broker and sealer kill -9 together", 20, fault)


def test_after_all_that_the_ledger_is_what_the_local_loop_makes_of_the_source(world: World) -> None:
    world.load.stop()
    world.rig.wait_until_sealed(timeout_s=60)
    world.rows.append(f"records that stand twice in the sealed topic, byte for byte the same: {world.rig.judge()}")
    deaths = world.fleet.deaths
    world.rows.append(f"workers that ended by themselves: {deaths or 'none'}")
    assert {status for statuses in deaths.values() for status in statuses} <= {COULD_NOT_GO_ON}


def kill_a_broker(world: World) -> str:
    """The one that leads most sealed partitions; returns when it is back. What it was besides comes as a remark."""
    leaders = list(leaders_of(world.rig.kafka, world.topic).values())
    node = max(set(leaders), key=leaders.count)
    roles = [f"leads {leaders.count(node)} of 4"]
    roles += ["controller"] if node == controller_of(world.cluster) else []
    roles += ["coordinator"] if node == coordinator_of(world.rig.kafka) else []
    world.cluster.kill(node)
    time.sleep(4.0)
    world.wait_until_steady()
    world.cluster.start(node)
    world.cluster.wait_ready()
    return f", {', '.join(roles)}"


def test_resuming_does_not_depend_on_the_size_of_the_ledger(
    three_brokers: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rows, taken = [], {}
    with Fleet(tmp_path / "logs") as fleet:
        for name, events in (("small", 1_000), ("large", MILLION)):
            rig = Rig(tmp_path / name, three_brokers.settings(f"{name}."), replicas=3)
            prepare(rig, fleet, name, events)
            times = [resume(rig, fleet, name) for _ in range(2)]
            fleet.stop(name)
            taken[name] = min(seconds for _, seconds in times)
            each = "; ".join(f"{state:.2f} s, first record {first:.1f} s after exec" for first, state in times)
            rows.append(f"{events:>9,} events in the partition: taken over in {each}; {load()}")
    show(request, f"resuming of a sealer (target {RESUME_TARGET_S:.0f} s)", rows)
    assert taken["large"] <= RESUME_TARGET_S * SLACK
    assert taken["large"] <= taken["small"] * 4 + 2.0


def prepare(rig: Rig, fleet: Fleet, name: str, events: int) -> None:
    """Fill one partition with small events, sealed and stored as a pipeline at work does."""
    for first in range(0, events, PER_BATCH):
        rig.send(rig.batch("big/0", 0, min(PER_BATCH, events - first), size=0), 0)
    rig.flush()
    fleet.audit(name, *rig.command("--instance", name))
    fleet.audit(f"sink-{name}", *sink_words(rig))
    rig.wait_until_sealed((0,), 150)
    store, settings = FolderStore(rig.directory / "objects"), rig.sealer(0).settings

    def is_stored() -> bool:
        found = stored_state(settings, store)
        return found is not None and found.state.m >= -(-events // PER_BATCH)

    poll(is_stored, 150, "everything stored")
    fleet.stop(f"sink-{name}")


def resume(rig: Rig, fleet: Fleet, name: str) -> tuple[float, float]:
    """Kill the sealer and start it anew: seconds to its first record, and those in which it read its state back."""
    count, end = fleet.words(name, 10_000).count("partitions taken over in"), rig.sealed_end(0)
    os.kill(fleet.pid(name), signal.SIGKILL)
    fleet.wait(name, 10)
    rig.send_batches(1, partitions=(0,))
    rig.flush()
    fleet.audit(name, *rig.command("--instance", name))
    began = time.monotonic()
    poll(lambda: rig.sealed_end(0) > end, 60, "a new record")
    first = time.monotonic() - began
    said = [line for line in fleet.words(name, 10_000).splitlines() if "partitions taken over in" in line]
    assert len(said) > count
    return first, float(said[-1].rsplit(" ", 2)[1])
