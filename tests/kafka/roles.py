"""Which broker does what: leads partitions, controls the cluster, keeps a group. Faults are aimed by it."""

from __future__ import annotations

import json
from contextlib import suppress

from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import admin_client, group_name
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from sealing_rig import poll

GROUPS = "__consumer_offsets"


def leaders_of(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    """Partition -> broker, -1 without one; empty for a topic that is not there."""
    client, _ = admin_client(kafka)
    found = client.list_topics(topic, timeout=10).topics[topic].partitions
    return {number: one.leader for number, one in found.items()}


def controller_of(cluster: KafkaCluster) -> int:
    """The leader of the metadata quorum: clients are told a broker drawn by lot."""
    found = []
    for node in cluster.nodes:
        path = cluster.directory / f"node-{node}" / "data" / "__cluster_metadata-0" / "quorum-state"
        state = json.loads(path.read_text(encoding="ascii"))
        found.append((state["leaderEpoch"], state["leaderId"]))
    return int(max(found)[1])


def coordinator_of(kafka: KafkaSettings) -> int:
    """The broker that keeps the sealers' group. Asking the brokers would do; librdkafka may abort over the answer."""
    leaders = leaders_of(kafka, GROUPS)
    return leaders[_java_hash(group_name(kafka.topic_prefix, "seal")) % len(leaders)]


def need_groups(cluster: KafkaCluster) -> None:
    """The first group that somebody asks for makes the topic that groups are kept in."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    def are_kept() -> bool:
        consumer = Consumer(cluster.settings().consumer_config("audit.tail"))
        with suppress(KafkaException):
            consumer.committed([TopicPartition("none", 0)], timeout=2)
        consumer.close()
        leaders = leaders_of(cluster.settings(), GROUPS)
        return bool(leaders) and min(leaders.values()) > 0

    poll(are_kept, what="the topic of groups")


def _java_hash(text: str) -> int:
    """``Utils.abs(text.hashCode())``, by which Kafka chooses a group's partition."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return abs(value - (1 << 32) if value >> 31 else value)
