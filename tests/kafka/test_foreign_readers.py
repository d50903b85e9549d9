"""Readers that are not ours understand the topics: confluent-kafka's AvroDeserializer and ClickHouse's Kafka engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from builders import Lane, make_sealer, seal_values, tick_value
from rlhf_audit_ledger.batch import open_envelope
from rlhf_audit_ledger.control import Control
from rlhf_audit_stores.kafka.registry import Registry, SchemaIds, apply_subjects
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import admin_client, sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import strip_header

pytestmark = pytest.mark.service
CHILD = Path(__file__).with_name("clickhouse_child.py")
SEALER = make_sealer()
LANE = Lane(SEALER.settings)
VALUES = [tick_value(SEALER.settings, 1), LANE.cut(3).value, LANE.cut(2).value, tick_value(SEALER.settings, 2)]
RECORDS = [one.record for one in seal_values(SEALER, VALUES)[1]]


@pytest.fixture
def ids(registry_url: str, tmp_path: Path) -> SchemaIds:
    ids = SchemaIds(tmp_path / "schema_ids.json", registry_url)
    with Registry(registry_url) as registry:
        ids.keep(apply_subjects(registry))
    return ids


def write(settings: KafkaSettings, topic: str, messages: Sequence[bytes]) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.cimpl import NewTopic

    client, _ = admin_client(settings)
    client.create_topics([NewTopic(topic, 1, 1)], request_timeout=30)[topic].result(timeout=31)
    producer = Producer(settings.producer_config())
    for message in messages:
        producer.produce(topic, value=message, partition=0)
    assert producer.flush(30) == 0


@pytest.fixture
def source(kafka_settings: KafkaSettings, ids: SchemaIds) -> str:
    topic = source_topic(kafka_settings.topic_prefix, "annotations")
    write(kafka_settings, topic, [ids.header(value) for value in VALUES])
    return topic


@pytest.fixture
def sealed(kafka_settings: KafkaSettings, ids: SchemaIds) -> str:
    topic = sealed_topic(kafka_settings.topic_prefix, "annotations")
    write(kafka_settings, topic, [ids.header(record.encode(), "SealedRecord") for record in RECORDS])
    return topic


def messages_of(settings: KafkaSettings, topic: str, count: int) -> list[bytes]:
    with PartitionTail(settings, topic, 0) as tail:
        return [message.value or b"" for message in tail.read(0, count)]


@pytest.fixture
def deserializer(registry_url: str) -> Iterator[AvroDeserializer]:
    client = SchemaRegistryClient({"url": registry_url})
    yield AvroDeserializer(client)
    client.close()


def read(deserializer: AvroDeserializer, topic: str, message: bytes) -> dict[str, Any]:
    found = deserializer(message, SerializationContext(topic, MessageField.VALUE))
    assert isinstance(found, dict)
    return found


def test_confluent_s_deserializer_reads_batches_and_ticks_of_one_topic(
    kafka_settings: KafkaSettings, source: str, deserializer: AvroDeserializer
) -> None:
    messages = messages_of(kafka_settings, source, len(VALUES))
    assert [strip_header(message) for message in messages] == VALUES
    for message, value in zip(messages, VALUES, strict=True):
        found = read(deserializer, source, message)
        if value[0] == 1:
            assert (found["body"], found["signature"]) == open_envelope(value)
        else:
            assert (found["body"], found["signature"]) == (Control.decode(value).body, Control.decode(value).signature)


def test_confluent_s_deserializer_reads_sealed_records(
    kafka_settings: KafkaSettings, sealed: str, deserializer: AvroDeserializer
) -> None:
    messages = messages_of(kafka_settings, sealed, len(RECORDS))
    for message, record in zip(messages, RECORDS, strict=True):
        assert strip_header(message) == record.encode()
        found = read(deserializer, sealed, message)
        assert (found["header"], found["link"], found["value"]) == (record.header, record.link, record.value)
        assert (tuple(found["entries"]), found["close"]) == (record.entries, record.close)


def clickhouse_rows(
    folder: Path, settings: KafkaSettings, topic: str, registry_url: str, columns: str, count: int
) -> list[dict[str, Any]]:
    if find_spec("chdb") is None:
        pytest.skip("NO CHDB HERE: ClickHouse's Kafka engine was not tried")
    arguments = [str(folder), settings.brokers, topic, registry_url, str(count), columns]
    done = subprocess.run(
        [sys.executable, str(CHILD), *arguments], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_clickhouse_s_kafka_engine_reads_sealed_records(
    kafka_settings: KafkaSettings, sealed: str, registry_url: str, tmp_path: Path
) -> None:
    columns = "header String, link FixedString(32), close Nullable(String), value Nullable(String)"
    rows = clickhouse_rows(tmp_path / "engine", kafka_settings, sealed, registry_url, columns, len(RECORDS))
    assert [int(row["at"]) for row in rows] == list(range(len(RECORDS)))
    for row, record in zip(rows, RECORDS, strict=True):
        found = {name: bytes.fromhex(row[name]) for name in ("header", "link", "close", "value")}
        assert found == {
            "header": record.header,
            "link": record.link,
            "close": record.close or b"",
            "value": record.value or b"",
        }


def test_clickhouse_s_kafka_engine_reads_batches_and_ticks_of_one_topic(
    kafka_settings: KafkaSettings, source: str, registry_url: str, tmp_path: Path
) -> None:
    columns = "type FixedString(1), body String"
    rows = clickhouse_rows(tmp_path / "engine", kafka_settings, source, registry_url, columns, len(VALUES))
    bodies = [open_envelope(value)[0] if value[0] == 1 else Control.decode(value).body for value in VALUES]
    assert [bytes.fromhex(row["body"]) for row in rows] == bodies
    assert [bytes.fromhex(row["type"]) for row in rows] == [value[:1] for value in VALUES]
