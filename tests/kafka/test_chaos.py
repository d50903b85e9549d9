"""Kill, stop and cut everything by a seeded schedule under steady load; then count: nothing lost, nothing twice.

In CI 24 faults and half a million events; ``make chaos`` runs ten times as much (CHAOS_SCALE=10). CHAOS_SEED draws
another schedule; the seed is printed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from clickhouse_http import ClickHouseServer, running_clickhouse
from kafka.chaos_ledger import read_clickhouse, read_objects, read_topics
from kafka.conftest import throwaway_cluster
from kafka.faults import Fault, Planned, schedule, summary
from kafka.fleet import Fleet
from rlhf_audit_auditor.report import Report
from rlhf_audit_producers.spool_lock import spools_have_work
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.ledger_facts import known_facts
from verifying import report_of

pytestmark = pytest.mark.service
SEED = int(os.environ.get("CHAOS_SEED", "20261125"))
SCALE = int(os.environ.get("CHAOS_SCALE", "1"))
FAULTS, EVENTS, PER_SECOND = 24 * SCALE, 500_000 * SCALE, 3_000
RANKS, VICTIM = 2, 7
WINDOW_SECONDS, STOPPED_S, SINK_STOPPED_S, BROKER_DOWN_S, STORE_DOWN_S = 3, 9.0, 13.0, 4.0, 4.0
SETTLE_S = 240.0
HERE = Path(__file__).parent


class World:
    """Three brokers, two of each worker, one shipper, one sequencer, one ClickHouse."""

    def __init__(self, cluster: KafkaCluster, clickhouse: ClickHouseServer, fleet: Fleet, trail: Path) -> None:
        self.cluster, self.clickhouse, self.fleet, self.trail = cluster, clickhouse, fleet, trail

    def start(self) -> None:
        run, trail = self.fleet.audit, self.trail
        run("ship", "ship", trail)
        for n in range(2):
            run(f"seal-{n}", "seal", trail, "--workers", "1", "--instance", f"seal-{n}")
            run(f"objects-{n}", "sink", "objects", trail, "--instance", f"objects-{n}")
            run(f"clickhouse-{n}", "sink", "clickhouse", trail, "--instance", f"clickhouse-{n}", *self.clickhouse.flags)
        run("sequence", "sequence", trail)

    def suffer(self, planned: Planned) -> None:
        """One fault, and what an operator or orchestrator does after it."""
        node = self.cluster.nodes[planned.target % len(self.cluster.nodes)]
        which = planned.target % 2
        actions: dict[Fault, Callable[[], None]] = {
            "sealer kill": lambda: self.fleet.send(f"seal-{which}", signal.SIGKILL),
            "sealer term": lambda: self.fleet.send(f"seal-{which}", signal.SIGTERM),
            "sealer stop": lambda: self._stop(f"seal-{which}", STOPPED_S),
            "broker kill": lambda: self._without_broker(node, self.cluster.kill),
            "broker term": lambda: self._without_broker(node, self.cluster.stop),
            "broker and sealer kill": lambda: self._without_both(node, f"seal-{which}"),
            "shipper kill": lambda: self.fleet.send("ship", signal.SIGKILL),
            "shipper term": lambda: self.fleet.send("ship", signal.SIGTERM),
            "objects sink kill": lambda: self.fleet.send(f"objects-{which}", signal.SIGKILL),
            "objects sink stop": lambda: self._stop(f"objects-{which}", SINK_STOPPED_S),
            "clickhouse sink kill": lambda: self.fleet.send(f"clickhouse-{which}", signal.SIGKILL),
            "clickhouse outage": self._without_clickhouse,
            "sequencer kill": lambda: self.fleet.send("sequence", signal.SIGKILL),
        }
        actions[planned.fault]()
        time.sleep(planned.pause_s)

    def _stop(self, name: str, seconds: float) -> None:
        self.fleet.send(name, signal.SIGSTOP)
        time.sleep(seconds)
        self.fleet.send(name, signal.SIGCONT)

    def _without_broker(self, node: int, end: Callable[[int], None]) -> None:
        end(node)
        time.sleep(BROKER_DOWN_S)
        self.cluster.start(node)
        self.cluster.wait_ready()

    def _without_both(self, node: int, sealer: str) -> None:
        self.fleet.send(sealer, signal.SIGKILL)
        self._without_broker(node, self.cluster.kill)

    def _without_clickhouse(self) -> None:
        self.clickhouse.kill()
        time.sleep(STORE_DOWN_S)
        self.clickhouse.start()


@contextmanager
def world(folder: Path) -> Iterator[tuple[World, KafkaSettings]]:
    with (
        throwaway_cluster(folder / "kafka", brokers=3) as cluster,
        running_clickhouse(folder / "clickhouse") as clickhouse,
        Fleet(folder / "logs") as fleet,
    ):
        trail = folder / "trail"
        trail.mkdir()
        (trail / "config.toml").write_text(
            f'brokers = "{cluster.bootstrap}"\nwindow_seconds = {WINDOW_SECONDS}\n'
            'partitions = "annotations=8,gradients=1,released=1"\n',
            encoding="utf-8",
        )
        assert main(["topics", "apply", str(trail)]) == 0
        yield World(cluster, clickhouse, fleet, trail), cluster.settings()


def rank(trail: Path, number: int, at_least: int, stop: Path) -> subprocess.Popen[str]:
    words = [trail, number, at_least, PER_SECOND // RANKS, stop]
    return subprocess.Popen(
        [sys.executable, str(HERE / "chaos_rank.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def test_nothing_is_lost_and_nothing_stands_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = schedule(SEED, FAULTS)
    stop = tmp_path / "stop"
    with world(tmp_path) as (it, settings), capsys.disabled():
        tell(f"\nchaos: seed {SEED}, {FAULTS} faults: {summary(planned)}")
        it.start()
        began = time.monotonic()
        ranks = [rank(it.trail, n, EVENTS // RANKS, stop) for n in range(RANKS)]
        victim = rank(it.trail, VICTIM, EVENTS, stop)
        time.sleep(5.0)
        for at, one in enumerate(planned):
            started = time.monotonic()
            it.suffer(one)
            tell(f"  {started - began:6.1f} s  {one.fault} {one.target}: {time.monotonic() - started:.1f} s")
            if at == FAULTS // 2:
                victim.kill()
                victim.communicate()
        stop.touch()
        recorded = {str(n): int(process.communicate(timeout=1800)[0]) for n, process in enumerate(ranks)}
        tell(f"  {time.monotonic() - began:6.1f} s  load ends, {sum(recorded.values()):,} judgements of two ranks")
        partitions = known_facts(it.trail).partitions
        report = settle(it, settings, partitions)
        tell(f"  {time.monotonic() - began:6.1f} s  everything is stored")
        check(it, settings, partitions, recorded)
        assert report.exit_code == 0
        tell(f"  workers that ended by themselves: {it.fleet.deaths or 'none'}")
        assert not [name for name, ends in it.fleet.deaths.items() if 1 in ends and not name.startswith("seal")]
        assert not list(it.trail.glob("alarms/*"))


def settle(it: World, settings: KafkaSettings, partitions: Mapping[str, int]) -> Report:
    """Wait until all that the brokers acknowledged is verified from the objects."""

    deadline = time.monotonic() + SETTLE_S * SCALE
    while spools_have_work(RealDisk(), it.trail / "spool"):
        assert time.monotonic() < deadline, it.fleet.words("ship")
        time.sleep(0.5)
    time.sleep(2 * WINDOW_SECONDS)
    while True:
        expected = sum(read_topics(settings, partitions).events.values())
        report = report_of(it.trail)
        if report.events == expected and report.exit_code == 0:
            return report
        assert not report.findings, [f"{one.place}: {one.message}" for one in report.findings][:10]
        assert time.monotonic() < deadline, (
            report.events,
            expected,
            it.fleet.words("seal-0"),
            it.fleet.words("objects-0"),
        )
        time.sleep(3.0)


def check(it: World, settings: KafkaSettings, partitions: Mapping[str, int], recorded: dict[str, int]) -> None:
    topics = read_topics(settings, partitions)
    objects = read_objects(it.trail, 20 * EVENTS)
    tell(
        f"  topics: {sum(topics.events.values()):,} events acknowledged, {topics.resent_batches} batches sent again, "
        f"{topics.identical} sealed records twice and byte for byte the same, {topics.forks} forks"
    )
    tell(f"  outcomes: {dict(objects.outcomes)}")
    assert topics.forks == 0
    assert objects.twice == 0
    assert objects.events == topics.events
    assert {name: objects.count(name) for name in recorded} == recorded
    assert sum(recorded.values()) >= EVENTS
    assert 0 < objects.count(str(VICTIM)) < EVENTS
    assert objects.lost_producers == [f"chaos/{VICTIM}"]
    deadline = time.monotonic() + SETTLE_S
    while (found := read_clickhouse(it.clickhouse.client()))[0] != topics.events:
        assert time.monotonic() < deadline, (found[0], topics.events, it.fleet.words("clickhouse-0"))
        time.sleep(2.0)
    assert found[1] == [], "rows stand twice"
    tell(f"  ClickHouse: {sum(found[0].values()):,} rows by plain count()")
