"""One of three brokers is cut off by the network for 20 s while a whole pipeline runs, and comes back.

A silent peer sends no reset, so this costs what the clients' time-outs say and not what a dead process costs. Which
broker is cut decides what else is lost with it: the controller, the coordinator of the sealers' group, both, or
leaders of partitions alone. One cut in CI, of the broker that is both; ``NETWORK_CUTS=4`` cuts each in turn.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka.arrivals import Arrivals, load
from kafka.conftest import throwaway_cluster
from kafka.fleet import Fleet
from kafka.namespaces import Namespaces, namespaces
from kafka.roles import controller_of, coordinator_of, leaders_of, need_groups
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.places import need_ledger
from rlhf_audit_trail.recording import AuditTrail
from sealing_rig import poll
from spooling import sealed_events
from verifying import report_of

pytestmark = pytest.mark.service
STREAM = "annotations"
CUT_S, AFTER_S, TARGET_S = 20.0, 10.0, 15.0
CUTS = int(os.environ.get("NETWORK_CUTS", "1"))
NAMES = {"both": "controller and coordinator", "leader": "neither controller nor coordinator"} | {
    name: name for name in ("controller", "coordinator")
}
SLACK = 4.0  # never a timed test: what was measured is printed, and this only tells a pause from a standstill
PER_CALL, CALL_EVERY_S = 120, 0.2
OVERRIDES = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Namespaces]:
    with namespaces(3) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(nodes: Namespaces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    folder = tmp_path_factory.mktemp("cut")
    with throwaway_cluster(folder, brokers=3, hosts=nodes.hosts, overrides=OVERRIDES) as made:
        yield made


class Recorder(threading.Thread):
    """A rank that records numbered judgements of twelve raters until stopped."""

    def __init__(self, trail: Path) -> None:
        super().__init__(daemon=True)
        self._trail, self._over = trail, threading.Event()
        self.recorded, self.is_durable = 0, False

    def run(self) -> None:
        with AuditTrail(self._trail, "cut", rank=0, world_size=2, runtime=False) as trail:
            while not self._over.wait(CALL_EVERY_S):
                numbers = range(self.recorded, self.recorded + PER_CALL)
                trail.log_annotations(
                    items=[str(n) for n in numbers],
                    rewards=[n % 5 for n in numbers],
                    annotators=[f"rater{n % 12}" for n in numbers],
                )
                self.recorded = numbers.stop
            self.is_durable = trail.flush()

    def stop(self) -> None:
        self._over.set()
        self.join(60)
        assert self.is_durable


def prefix_for(role: str, cluster: KafkaCluster) -> str:
    """A topic prefix whose sealers' group is kept by the controller, or by another broker, as the role asks."""
    need_groups(cluster)
    for _ in range(100):
        prefix = f"t{secrets.token_hex(4)}."
        if (coordinator_of(cluster.settings(prefix)) == controller_of(cluster)) == (role == "both"):
            return prefix
    raise AssertionError("the controller keeps all groups, or none")


def choose(role: str, controller: int, coordinator: int) -> int:
    """The broker to cut."""
    if role == "leader":
        return next(node for node in (1, 2, 3) if node not in (controller, coordinator))
    return coordinator if role == "coordinator" else controller


def sealed_twice(kafka: KafkaSettings, partitions: int) -> int:
    """How many records of the sealed topic stand there again; a different one under the same offset is an error."""
    twice = 0
    for number in range(partitions):
        seen: dict[tuple[bytes, int], bytes] = {}
        with PartitionTail(kafka, sealed_topic(kafka.topic_prefix, STREAM), number) as tail:
            for message in tail.read(*tail.watermarks()):
                data = strip_header(message.value or b"")
                header = SealHeader.decode(SealedRecord.decode(data).header)
                digest = hashlib.sha256(data).digest()
                known = seen.setdefault((header.source_id, header.offset), digest)
                assert known == digest, f"a fork in partition {number} at source offset {header.offset}"
                twice += 1
        twice -= len(seen)
    return twice


@pytest.mark.parametrize("role", ["both", "coordinator", "controller", "leader"][:CUTS])
def test_a_broker_that_is_cut_off_costs_seconds_and_no_event(
    cluster: KafkaCluster,
    nodes: Namespaces,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    role: str,
) -> None:
    topic_prefix = prefix_for(role, cluster)
    kafka, trail = cluster.settings(topic_prefix), tmp_path / "trail"
    trail.mkdir()
    (trail / "config.toml").write_text(
        f'brokers = "{kafka.brokers}"\ntopic_prefix = "{topic_prefix}"\nwindow_seconds = 2\n', encoding="utf-8"
    )
    assert main(["topics", "apply", str(trail)]) == 0
    partitions = need_ledger(trail, FolderStore(trail / "objects")).genesis.partition_counts[STREAM]
    source, sealed = source_topic(topic_prefix, STREAM), sealed_topic(topic_prefix, STREAM)
    recorder = Recorder(trail)
    with (
        Fleet(tmp_path / "logs") as fleet,
        Arrivals(kafka, {source: partitions}) as shipped,
        Arrivals(kafka, {sealed: partitions}) as arrivals,
    ):
        fleet.audit("ship", "ship", trail)
        for name in ("seal-a", "seal-b"):
            fleet.audit(name, "seal", trail, "--instance", name)
        fleet.audit("sink", "sink", "objects", trail)
        fleet.audit("sequence", "sequence", trail)
        recorder.start()
        poll(lambda: len(arrivals.steady(sealed)) >= 3, 60, "sealing in every partition")
        time.sleep(3.0)
        places = arrivals.steady(sealed)
        node = choose(role, controller_of(cluster), coordinator_of(kafka))
        what = f"cut of broker {node} ({NAMES[role]}) for {CUT_S:.0f} s, {load()}"
        led = {name: [n for n, at in leaders_of(kafka, name).items() if at == node] for name in (source, sealed)}
        since = time.monotonic()
        nodes.cut(node)
        try:
            time.sleep(CUT_S)
        finally:
            nodes.heal(node)
        healed = time.monotonic()
        time.sleep(AFTER_S)
        poll(lambda: len(arrivals.steady(sealed)) >= len(places), 60, "sealing after the cut")
        until = time.monotonic()
        recorder.stop()
        cluster.wait_ready()
        assert fleet.stop("ship") == 0, fleet.words("ship")
        lines = []
        for place in places:
            led_here = [name for name, one in (("source", source), ("sealed", sealed)) if place[1] in led[one]]
            shown = [
                f"{name} {seen.gap(at, since - 1, healed):.1f} s, after the heal {seen.gap(at, healed, until):.1f} s"
                for name, seen, at in (("sealed", arrivals, place), ("shipped", shipped, (source, place[1])))
            ]
            lines.append(
                f"  partition {place[1]}: {'; '.join(shown)}; the cut broker led {'+'.join(led_here) or 'none'}"
            )
        deadline = time.monotonic() + 60
        while (found := len(sealed_events(trail, "annotation"))) < recorder.recorded:
            assert time.monotonic() < deadline, (found, recorder.recorded, fleet.words("seal-a"), fleet.words("sink"))
            time.sleep(1.0)
        for name in ("seal-a", "seal-b", "sink", "sequence"):
            assert fleet.stop(name) == 0, fleet.words(name)
        deaths = fleet.deaths
    items = Counter(event["item"] for event in sealed_events(trail, "annotation"))
    assert items == {str(n): 1 for n in range(recorder.recorded)}
    report = report_of(trail)
    assert (report.exit_code, report.findings, report.unreadable) == (0, [], [])
    twice = sealed_twice(kafka, partitions)
    worst = max(arrivals.gaps(places, since - 1, until).values())
    with capsys.disabled():
        print(  # noqa: T201 - measured
            f"\n{what}: longest pause of output {worst:.1f} s (target {TARGET_S:.0f} s)",
            *lines,
            f"  {recorder.recorded:,} events, each sealed once; verify 0; {twice} records twice, byte-identical; "
            f"workers that ended by themselves: {deaths or 'none'}",
            sep="\n",
            flush=True,
        )
    assert worst <= TARGET_S * SLACK
