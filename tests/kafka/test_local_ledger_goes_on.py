"""The commands: a ledger begun on one machine goes on in Kafka, with its registry, and verifies as one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from builders import Lane
from crash.ingesting import ingest, write_rows
from examples import example
from kafka.fleet import Fleet
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import with_header
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.places import need_ledger
from verifying import report_of

pytestmark = pytest.mark.service
PARTITIONS, BATCHES, EVENTS, WAIT_S = 4, 5, 3, 120.0


def send(settings: KafkaSettings, trail: Path) -> int:
    """Batches of one producer in every annotation partition, each lane ended; how many events."""
    from confluent_kafka import Producer

    ledger = need_ledger(trail, FolderStore(trail / "objects", RealDisk()))
    event = KINDS["annotation"].codec.encode(example("annotation"))
    producer = Producer(settings.producer_config())
    topic = source_topic(settings.topic_prefix, "annotations")
    for number in range(PARTITIONS):
        place = partition_settings(ledger.genesis_bytes, "annotations", number)
        lane = Lane(place, f"rank/{number}", 0, signer=SeedSigner(bytes(range(32))))
        for index in range(BATCHES):
            batch = lane.cut(EVENTS, events=(event,) * EVENTS, final=index == BATCHES - 1)
            producer.produce(topic, value=with_header(batch.value), partition=number)
    assert producer.flush(30) == 0
    return PARTITIONS * BATCHES * EVENTS


def test_a_ledger_begun_on_one_machine_goes_on_in_kafka(
    kafka_settings: KafkaSettings,
    registry_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trail = tmp_path / "trail"
    ingest(trail, write_rows(tmp_path / "rows.jsonl", 60, annotators=2), batch_events=8)
    before = report_of(trail)
    (trail / "config.toml").write_text(
        f'brokers = "{kafka_settings.brokers}"\ntopic_prefix = "{kafka_settings.topic_prefix}"\n'
        f'schema_registry_url = "{registry_url}"\n',
        encoding="utf-8",
    )
    assert main(["topics", "apply", str(trail), "--continue", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "lifecycle/0" in said["switched"]["now"]
    assert any(name.startswith("annotations/") for name in said["switched"]["unused"]), "one begins in Kafka"
    assert main(["topics", "check", str(trail)]) == 0
    with Fleet(tmp_path / "logs") as fleet:
        fleet.audit("seal", "seal", trail)
        fleet.audit("sink", "sink", "objects", trail)
        fleet.audit("sequence", "sequence", trail)
        expected = before.events + send(kafka_settings, trail)
        deadline = time.monotonic() + WAIT_S
        while (report := report_of(trail)).events < expected or report.exit_code:
            assert time.monotonic() < deadline, (report.events, report.findings, fleet.words("seal"))
            time.sleep(1.0)
        for name in ("seal", "sink", "sequence"):
            assert fleet.stop(name) == 0, fleet.words(name)
        assert fleet.deaths == {}
    assert main(["topics", "apply", str(trail), "--continue"]) == 0, "long done, and nothing to do"
    report = report_of(trail)
    assert (report.exit_code, report.findings, report.events) == (0, [], expected)
    assert len([note for note in report.notes if "goes on in source log" in note]) == len(said["switched"]["now"])
    with PartitionTail(kafka_settings, sealed_topic(kafka_settings.topic_prefix, "annotations"), 0) as tail:
        first = next(iter(tail.read(*tail.watermarks()))).value or b""
    assert first[:1] == b"\0", "sealed records carry the id of their schema"
