"""What a chaos run must have left behind, counted from the topics, from the objects and by SQL; in constant memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS, KINDS_BY_NUMBER
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import strip_header
from spooling import sealed

_BIT = 1


@dataclass(slots=True)
class InTopics:
    """Source topics: events that the brokers acknowledged, each batch once. Sealed topics: what stands there twice."""

    events: Counter[str] = field(default_factory=Counter)
    resent_batches: int = 0
    records: int = 0
    identical: int = 0
    forks: int = 0


def read_topics(settings: KafkaSettings, partitions: Mapping[str, int]) -> InTopics:
    """Read every topic from its beginning to its end."""
    found = InTopics()
    for stream, count in partitions.items():
        for partition in range(count):
            _read_source(settings, stream, partition, found)
            _read_sealed(settings, stream, partition, found)
    return found


def _read_source(settings: KafkaSettings, stream: str, partition: int, found: InTopics) -> None:
    seen: dict[tuple[str, int, int, bool], bytes] = {}
    with PartitionTail(settings, source_topic(settings.topic_prefix, stream), partition) as tail:
        for message in tail.read(*tail.watermarks()):
            value = strip_header(message.value or b"")
            try:
                body = BatchBody.decode(open_envelope(value)[0])
            except FormatError:
                continue  # a tick
            key = (body.producer, body.epoch, body.first_seq, body.final)
            digest = hashlib.sha256(value).digest()
            if key in seen:
                assert seen[key] == digest, f"{key}: two contents under the same numbers"
                found.resent_batches += 1
                continue
            seen[key] = digest
            found.events[KINDS_BY_NUMBER[body.kind].name] += len(body.events)


def _read_sealed(settings: KafkaSettings, stream: str, partition: int, found: InTopics) -> None:
    seen: dict[int, bytes] = {}
    with PartitionTail(settings, sealed_topic(settings.topic_prefix, stream), partition) as tail:
        for message in tail.read(*tail.watermarks()):
            value = strip_header(message.value or b"")
            offset = SealHeader.decode(SealedRecord.decode(value).header).offset
            digest = hashlib.sha256(value).digest()
            found.records += 1
            if offset not in seen:
                seen[offset] = digest
            elif seen[offset] == digest:
                found.identical += 1
            else:
                found.forks += 1


@dataclass(slots=True)
class InObjects:
    """Events in the stored windows. ``items`` holds, per rank, a bit for each numbered judgement that was seen once."""

    events: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    items: dict[str, bytearray] = field(default_factory=dict)
    twice: int = 0
    lost_producers: list[str] = field(default_factory=list)

    def count(self, rank: str) -> int:
        """Judgements of a rank; raises unless they are those from 0 on, without a hole."""
        bits = self.items.get(rank, bytearray())
        held = sum(bits)
        assert all(bits[:held]), f"rank {rank}: a judgement is missing below {held}"
        return held


def read_objects(trail: Path, at_most: int) -> InObjects:
    """Decode every stored payload; no rank has more than ``at_most`` judgements."""
    found = InObjects()
    annotation = KINDS["annotation"]
    for header, body in sealed(trail):
        found.outcomes[header.outcome] += 1
        if body is None or header.outcome not in ("accepted", "gap_filled"):
            continue
        kind = KINDS_BY_NUMBER[body.kind]
        found.events[kind.name] += len(body.events)
        if kind.name == "producer_lost":
            found.lost_producers += [kind.codec.decode(event)["producer"] for event in body.events]
        if kind is annotation:
            for event in body.events:
                rank, _, number = annotation.codec.decode(event)["item"].partition("-")
                bits = found.items.get(rank)
                if bits is None:
                    bits = found.items[rank] = bytearray(at_most)
                found.twice += bits[int(number)] == _BIT
                bits[int(number)] = _BIT
    return found


def read_clickhouse(client: Any) -> tuple[Counter[str], list[str]]:
    """Plain counts per table of events, and the tables that hold anything twice."""
    counts: Counter[str] = Counter()
    doubled: list[str] = []
    for kind in KINDS:
        query = f"SELECT count(), uniqExact(stream, partition, leaf_index) FROM audit_restricted.{kind}"  # noqa: S608
        rows, distinct = client.query(query).result_rows[0]
        if rows:
            counts[kind] = int(rows)
        if rows != distinct:
            doubled.append(kind)
    return counts, doubled
