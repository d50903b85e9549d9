"""The plain reader: every offset accounted for, nulls and holes included, within a bound."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_stores.kafka.errors import BrokerError
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import OffsetsGoneError, PartitionTail
from rlhf_audit_stores.kafka.topics import admin_client, read_topic_facts

pytestmark = pytest.mark.service
TIME_MS = 1_700_000_000_123


def make_topic(settings: KafkaSettings, partitions: int = 2) -> str:
    from confluent_kafka.cimpl import NewTopic

    topic = f"{settings.topic_prefix}audit.x"
    client, _ = admin_client(settings)
    client.create_topics([NewTopic(topic, partitions, 1)], request_timeout=30)[topic].result(timeout=31)
    deadline = time.monotonic() + 20
    while topic not in read_topic_facts(settings, [topic]):  # created a moment before the brokers tell of it
        assert time.monotonic() < deadline
    return topic


def produce(
    settings: KafkaSettings, topic: str, values: Iterable[bytes | None], transaction: str | None = None
) -> None:
    from confluent_kafka import Producer

    config = settings.producer_config()
    if transaction is not None:
        config["transactional.id"] = transaction
    producer = Producer(config)
    if transaction is not None:
        producer.init_transactions(30)
        producer.begin_transaction()
    for value in values:
        producer.produce(topic, value=value, partition=1, timestamp=TIME_MS)
    if transaction is not None:
        producer.commit_transaction(30)
    assert producer.flush(30) == 0


def test_it_reads_values_times_nulls_and_the_hole_of_a_transaction(kafka_settings: KafkaSettings) -> None:
    topic = make_topic(kafka_settings)
    produce(kafka_settings, topic, [b"a", None, b""])
    produce(kafka_settings, topic, [b"d"], transaction=f"{kafka_settings.topic_prefix}x")
    with PartitionTail(kafka_settings, topic, 1, silence_s=10) as tail:
        assert [m.offset for m in tail.read(3, 5)] == [3]  # the marker is the end of the partition
    produce(kafka_settings, topic, [b"f"])
    with PartitionTail(kafka_settings, topic, 1) as tail:
        assert tail.watermarks() == (0, 6)
        found = list(tail.read(0, 6))
        assert [(m.offset, m.value) for m in found] == [(0, b"a"), (1, None), (2, b""), (3, b"d"), (5, b"f")]
        assert {m.ts_us for m in found} == {TIME_MS * 1000}
        assert list(tail.read(1, 2)) == [SourceMessage(1, TIME_MS * 1000, None)]
        assert list(tail.read(4, 5)) == []  # the marker alone
        assert list(tail.read(3, 3)) == []


def test_it_gives_up_in_time_on_what_is_not_written_and_on_what_is_gone(kafka_settings: KafkaSettings) -> None:
    from confluent_kafka import TopicPartition

    topic = make_topic(kafka_settings)
    produce(kafka_settings, topic, [b"a", b"b", b"c"])
    with PartitionTail(kafka_settings, topic, 1, silence_s=2) as tail:
        with pytest.raises(BrokerError):
            list(tail.read(2, 9))
        client, _ = admin_client(kafka_settings)
        (done,) = client.delete_records([TopicPartition(topic, 1, 2)]).values()
        done.result(timeout=30)
        assert tail.watermarks() == (2, 3)
        with pytest.raises(OffsetsGoneError, match="offset 0 is not there any more"):
            list(tail.read(0, 3))


def test_a_topic_that_is_not_there_is_an_error_at_once(kafka_settings: KafkaSettings) -> None:
    with PartitionTail(kafka_settings, f"{kafka_settings.topic_prefix}none", 0) as tail, pytest.raises(BrokerError):
        tail.watermarks()


def test_brokers_that_do_not_answer_are_named_within_the_bound(kafka_settings: KafkaSettings) -> None:
    nobody = KafkaSettings("127.0.0.1:1")
    with PartitionTail(nobody, "t", 0, silence_s=1) as tail, pytest.raises(BrokerError, match=r"t\[0\]"):
        tail.watermarks()
    with pytest.raises(BrokerError):
        read_topic_facts(nobody, ["t"], timeout_s=1)


def test_a_topic_made_again_is_another_source(kafka_settings: KafkaSettings) -> None:
    topic = make_topic(kafka_settings)
    first = read_topic_facts(kafka_settings, [topic, "none"])
    client, _ = admin_client(kafka_settings)
    client.delete_topics([topic], request_timeout=30)[topic].result(timeout=31)
    make_topic(kafka_settings, partitions=3)
    second = read_topic_facts(kafka_settings, [topic])
    assert (set(first), first[topic].partitions, second[topic].partitions) == ({topic}, 2, 3)
    assert first[topic].cluster_id == second[topic].cluster_id
    assert first[topic].source_id != second[topic].source_id
    assert len(second[topic].topic_uuid) == 22
