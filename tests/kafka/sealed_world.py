"""A ledger sealed by the one-process runtime, and the same sealed records for a cluster's sinks.

``reference/`` is what the runtime stored. ``trail/`` holds the keys and the founding alone: sinks that read the
records from Kafka have to make the rest of it, byte for byte. All ticks name the founding's head, since the order of
the global log is not a function of the records.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.cimpl import NewTopic

from query_copies import annotation, batch
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import admin_client, sealed_topic
from rlhf_audit_stores.kafka.wire import with_header
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.local import LocalTrail

Key = tuple[str, int]
START_US = 1_760_000_000_000_000


@dataclass
class SealedWorld:
    """Records by partition, in order of m, and how many windows and events are in them."""

    reference: Path
    trail: Path
    records: dict[Key, list[bytes]] = field(default_factory=dict)
    window_ends: dict[Key, list[int]] = field(default_factory=dict)
    windows: int = 0
    events: int = 0

    def stored(self) -> dict[str, bytes]:
        """Objects and vault of the reference, the global log excepted."""
        return contents(self.reference)


def contents(trail: Path, vault: Path | None = None) -> dict[str, bytes]:
    """Every object of a trail but those of the global log."""
    found = {}
    for name, store in (("objects", FolderStore(trail / "objects")), ("vault", FolderStore(vault or trail / "vault"))):
        for info in store.list(""):
            if not info.name.startswith("global/"):
                found[f"{name}/{info.name}"] = store.get(info.name)
    return found


def make_world(place: Path, *, windows: int = 10, batches: int = 3, events: int = 20) -> SealedWorld:
    """``windows`` in each partition of annotations, each of ``batches`` batches and one message of rubbish."""
    world = SealedWorld(place / "reference", place / "trail")
    place.mkdir(parents=True, exist_ok=True)
    with LocalTrail(world.reference, disk=RealDisk(), window_seconds=1) as trail:
        shutil.copytree(world.reference, world.trail, ignore=shutil.ignore_patterns(".lock"))
        root = trail._sequencer.root
        for window in range(windows):
            for number in range(trail.partitions["annotations"]):
                part = trail.part("annotations", number)
                for at in range(batches):
                    producer = f"p{window}-{at}"
                    bodies = [annotation(n) for n in range(events)]
                    value = batch(trail, bodies, producer=producer, partition=number)
                    part.append([value], START_US + window * 1_000_000)
                    world.events += events
                part.append([b"rubbish %d" % window], START_US + window * 1_000_000)
                list(part.work())
                part.tick(START_US + window * 1_000_000, closes_now=True, global_size=2, global_root=root)
                key = ("annotations", number)
                for each in part.work():
                    world.records.setdefault(key, []).extend(one.record.encode() for one in each.sealed)
                    world.window_ends.setdefault(key, []).append(len(world.records[key]))
                    world.windows += 1
    return world


def make_sealed_topics(settings: KafkaSettings, partitions: Mapping[str, int]) -> None:
    """Sealed topics of these streams."""
    client, _ = admin_client(settings)
    topics = [NewTopic(sealed_topic(settings.topic_prefix, name), count, 1) for name, count in partitions.items()]
    for answer in client.create_topics(topics, request_timeout=30).values():
        answer.result(timeout=31)


class SealedFeed:
    """Produces the records as a sealer would, in order; now and then, as a zombie would, some of the last again."""

    def __init__(self, settings: KafkaSettings, records: Mapping[Key, Sequence[bytes]], *, seed: int = 1) -> None:
        self._settings, self._records, self._random = settings, records, random.Random(seed)  # noqa: S311
        self._producer = Producer(settings.producer_config())
        self.duplicates = 0

    def send(self, key: Key, data: bytes) -> None:
        """One message."""
        topic = sealed_topic(self._settings.topic_prefix, key[0])
        self._producer.produce(topic, value=with_header(data, record="SealedRecord"), partition=key[1])

    def all(self, seconds: float = 0.0, *, duplicates: float = 0.02) -> None:
        """Every record, spread over some time."""
        longest = max(map(len, self._records.values()))
        wait = threading.Event()
        for at in range(longest):
            for key, records in self._records.items():
                if at < len(records):
                    self.send(key, records[at])
                if at < len(records) and self._random.random() < duplicates:
                    again = records[max(0, at - self._random.randrange(12)) : at + 1]
                    self.duplicates += len(again)
                    for each in again:
                        self.send(key, each)
            self._producer.poll(0)
            wait.wait(seconds / longest)
        self.flush()

    def flush(self) -> None:
        """Wait until all is acknowledged."""
        assert self._producer.flush(30) == 0
