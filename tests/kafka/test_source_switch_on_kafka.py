"""A local ledger goes on in real topics: switched, sealed from the brokers on, stored, and verified as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import Lane
from continuing import Continued, ListSealed
from crash.ingesting import ingest, write_rows
from examples import example
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_processors.recovery import Source
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import TopicFacts, admin_client, read_topic_facts, source_topic
from rlhf_audit_stores.kafka.wire import strip_header, with_header
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.source_switch import switch_to_kafka
from verifying import report_of

pytestmark = pytest.mark.service
ROUNDS, EVENTS = 3, 5


class TopicSource:
    """A partition of a topic as a source log: headers dropped, nothing else."""

    def __init__(self, settings: KafkaSettings, facts: TopicFacts, partition: int) -> None:
        self.source_id = facts.source_id
        self._tail = PartitionTail(settings, facts.topic, partition)

    def close(self) -> None:
        self._tail.close()

    @property
    def first_offset(self) -> int:
        return self._tail.watermarks()[0]

    @property
    def next_offset(self) -> int:
        return self._tail.watermarks()[1]

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        for message in self._tail.read(offset, self.next_offset):
            value = None if message.value is None else strip_header(message.value)
            yield SourceMessage(message.offset, message.ts_us, value)


def make_topics(settings: KafkaSettings, partitions: dict[str, int]) -> dict[str, TopicFacts]:
    from confluent_kafka.cimpl import NewTopic

    names = {stream: source_topic(settings.topic_prefix, stream) for stream in partitions}
    client, _ = admin_client(settings)
    wanted = [NewTopic(names[stream], count, 1) for stream, count in partitions.items()]
    for made in client.create_topics(wanted, request_timeout=30).values():
        made.result(timeout=31)
    facts = read_topic_facts(settings, names.values())
    return {stream: facts[name] for stream, name in names.items()}


def produce(settings: KafkaSettings, topic: str, partition: int, values: list[bytes]) -> None:
    from confluent_kafka import Producer

    producer = Producer(settings.producer_config())
    for value in values:
        producer.produce(topic, value=with_header(value), partition=partition)
    assert producer.flush(30) == 0


def test_local_ledger_and_topics_verify_as_one(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    ingest(trail, write_rows(tmp_path / "rows.jsonl", 40, annotators=9), batch_events=8)
    with LocalTrail(trail, is_leaving=True) as leaving:
        topics = make_topics(kafka_settings, dict(leaving.partitions))
        switched = switch_to_kafka(leaving, topics)
    local = report_of(trail)
    assert (local.exit_code, local.findings) == (0, [])
    used = [name for name in switched.now if name.startswith("annotations/")]
    assert used
    for name in used:
        seal_rounds(kafka_settings, trail, topics["annotations"], int(name.partition("/")[2]))
    report = report_of(trail)
    assert (report.exit_code, report.findings) == (0, [])
    assert report.windows == local.windows + ROUNDS * len(used)
    assert report.events == local.events + ROUNDS * EVENTS * len(used)
    assert len([note for note in report.notes if "goes on in source log" in note]) == len(switched.now)
    assert report.payloads.unreadable == 0


def seal_rounds(settings: KafkaSettings, trail: Path, facts: TopicFacts, partition: int) -> None:
    """Record 0 as `topics apply` writes it, then batches and ticks of a producer; a restart after each round."""
    source = TopicSource(settings, facts, partition)
    produced: Source = source
    sealed: ListSealed | None = None
    lane: Lane | None = None
    event = KINDS["annotation"].codec.encode(example("annotation"))
    for number in range(ROUNDS):
        sealed = ListSealed(next_m(trail, partition)) if sealed is None else sealed
        if number == 0:
            produce(settings, facts.topic, partition, [b"\x02 the tick that topics apply writes"])
        part = Continued(trail, "annotations", partition, produced, sealed)
        assert part.loop.state.source_id == facts.source_id
        if lane is None:
            lane = Lane(part.settings, f"rank/{partition}", 0, signer=SeedSigner(bytes(range(32))))
        batch = lane.cut(EVENTS, events=(event,) * EVENTS, final=number == ROUNDS - 1)
        produce(settings, facts.topic, partition, [batch.value, part.tick(1_790_000_000_000_000)])
        assert [one.header.outcome for one in part.run()] == ["accepted", "control"]
    source.close()


def next_m(trail: Path, partition: int) -> int:
    """m of the first record of the sealed topic: the one behind what the objects hold."""
    with LocalTrail(trail, is_leaving=True) as leaving:
        return leaving.part("annotations", partition).state.m + 1
