"""Sinks on a real broker: windows and events per second into objects and into ClickHouse, beside a plain loop.

    python benchmarks/kafka_sink.py [--events 400000] [--batch 1024] [--repeat 2]

Sealed records of four partitions stand in the topic before the clock starts; it runs from the first partition's
placing to the last window. ``plain`` consumes the same messages, decodes the same events into the same columns and
inserts them into the same table, and checks nothing: no chain, no roots, no signatures, no tokens. The embedded engine
is used for both, in this process. Best of the repeats; counts are compared in ClickHouse.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from clickhouse_sink import bodies_of, values
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic
from machine import machine

from rlhf_audit_ledger.batch import BATCH_TYPE, NO_BATCH, BatchBody, encode_batch, open_envelope
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_sinks.clickhouse.arrow import encode
from rlhf_audit_sinks.clickhouse.columns import event_columns
from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
from rlhf_audit_sinks.clickhouse.event_decoder import decode_events
from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
from rlhf_audit_sinks.kafka_windows import WindowFollower
from rlhf_audit_sinks.window_stores import ClickHouseWindows, ObjectsWindows, WindowStore
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import admin_client, sealed_topic
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.partition import SealedWindow
from rlhf_audit_trail.places import need_ledger
from rlhf_audit_trail.sinking import all_partitions

Records = Mapping[int, Sequence[bytes]]
Times = tuple[float, float]
PARTITIONS = 4
TABLE = "audit_restricted.annotation"


class Keep:
    """Sealed records of each partition, and how many windows."""

    def __init__(self) -> None:
        self.records: dict[int, list[bytes]] = {}
        self.windows = 0

    def store(self, window: SealedWindow) -> None:
        """Keep them."""
        self.windows += 1
        self.records.setdefault(window.settings.partition, []).extend(one.record.encode() for one in window.sealed)


def seal(folder: Path, events: int) -> Keep:
    """A ledger with these events, its records kept."""
    keep = Keep()
    with LocalTrail(folder, sinks=[keep]) as trail:
        bodies = bodies_of(events // PARTITIONS)
        for number in range(PARTITIONS):
            part = trail.part("annotations", number)
            for at, value in enumerate(_to_partition(values(trail, bodies, f"p{number}"), number)):
                trail.append("annotations", number, [value])
                if at % 32 == 31:
                    trail.work()
            assert part.needs_tick
        trail.drain()
    return keep


def _to_partition(made: Sequence[bytes], number: int) -> list[bytes]:
    """The same batches for another partition, each naming the one before."""
    found, previous = [], NO_BATCH
    for value in made:
        body = BatchBody.decode(open_envelope(value)[0])
        done = encode_batch(replace(body, partition=number, prev_batch=previous), None)
        previous = done.digest
        found.append(done.value)
    return found


def produce(settings: KafkaSettings, records: Records, counts: Mapping[str, int]) -> None:
    """Topics of all streams, filled."""
    client, _ = admin_client(settings)
    topics = [NewTopic(sealed_topic(settings.topic_prefix, name), count, 1) for name, count in counts.items()]
    for answer in client.create_topics(topics).values():
        answer.result(timeout=30)
    producer = Producer(settings.producer_config())
    for number, each in records.items():
        for data in each:
            producer.produce(sealed_topic(settings.topic_prefix, "annotations"), value=data, partition=number)
            producer.poll(0)
    assert producer.flush(120) == 0


class Clock:
    """Seconds that have passed and those that this process computed, engine threads included."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Times:
        """Since it was made."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def follow(settings: KafkaSettings, trail: Path, store: WindowStore, events: int) -> Times:
    """Seconds from the first placing to the last window."""
    health = WorkerHealth("sink")
    follower = WindowFollower(
        settings,
        all_partitions(need_ledger(trail, FolderStore(trail / "objects"))),
        store,
        quarantine_key=load_secret(trail / "keys" / "quarantine.key"),
        health=health,
        alarms=trail / "alarms",
    )
    started: list[Clock] = []
    place = store.place

    def timed(*arguments: Any) -> Any:
        started.append(Clock())
        return place(*arguments)

    store.place = timed  # type: ignore[method-assign, assignment]  # only to know when it began

    def is_done() -> bool:
        labels = [{"sink": store.name, "stream": "annotations", "partition": str(n)} for n in range(PARTITIONS)]
        found = [health.registry.get_sample_value("rlhf_audit_sink_events_total", each) or 0 for each in labels]
        return sum(found) >= events

    follower.run(is_done)
    return started[0].read()


def insert_plain(client: Any, bodies: list[bytes]) -> None:
    """Decode annotations and insert them, with no column of the ledger and no token."""
    kind = KINDS["annotation"].number
    columns, _ = decode_events(kind, 1, event_columns(kind, 1), bodies)
    batch = pa.RecordBatch.from_pydict(columns)
    client.raw_insert(TABLE, column_names=batch.schema.names, insert_block=encode(batch), fmt="ArrowStream")


def plain(settings: KafkaSettings, client: Any, messages: int) -> Times:
    """Seconds of a loop that consumes, decodes and inserts, and does nothing else."""
    consumer = Consumer(settings.consumer_config("plain"))
    topic = sealed_topic(settings.topic_prefix, "annotations")
    clock = Clock()
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    bodies: list[bytes] = []
    while messages:
        for message in consumer.consume(64, 0.2):
            messages -= 1
            value = SealedRecord.decode(message.value() or b"").value or b""
            if value[:1] == BATCH_TYPE:
                bodies += BatchBody.decode(open_envelope(value)[0]).events
        if len(bodies) >= 32_768 or not messages:
            insert_plain(client, bodies)
            bodies = []
    consumer.close()
    return clock.read()


def with_engine(folder: Path, work: Callable[[Any], Times], expected: int) -> Times:
    """Run with an engine of its own, whose tables are there, and count afterwards."""
    engine = EmbeddedEngine(folder)
    client = engine.client()
    ClickHouseSink(client)
    times = work(client)
    counting = engine.client()
    assert counting.query(f"SELECT count() FROM {TABLE}").result_rows == [(expected,)]  # noqa: S608 - ours
    counting.close()
    client.close()
    engine.close()
    return times


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    best: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        keep = seal(place / "reference", args.events)
        messages = sum(map(len, keep.records.values()))
        ledger = need_ledger(place / "reference", FolderStore(place / "reference" / "objects"))
        counts = ledger.genesis.partition_counts
        with KafkaCluster(place / "kafka", stop_timeout_s=0) as cluster:
            produce(cluster.settings("b."), keep.records, counts)
            for number in range(args.repeat):
                for kind, times in _round(cluster, place, number, args.events, messages).items():
                    wall, cpu = best.get(kind, times)
                    best[kind] = min(times[0], wall), min(times[1], cpu)
    result = {
        "events_per_s": {kind: round(args.events / wall) for kind, (wall, _) in best.items()},
        "cpu_us_per_event": {kind: round(cpu / args.events * 1e6, 2) for kind, (_, cpu) in best.items()},
        "windows_per_s": {kind: round(keep.windows / best[kind][0], 1) for kind in ("objects", "clickhouse")},
        "clickhouse_cpu_to_plain": round(best["clickhouse"][1] / best["plain"][1], 2),
        "events": args.events,
        "messages": messages,
        "windows": keep.windows,
        "machine": machine(),
    }
    print(json.dumps(result, indent=2))
    return 0


def _round(cluster: KafkaCluster, place: Path, number: int, events: int, messages: int) -> dict[str, Times]:
    settings = cluster.settings("b.")
    trail = place / f"objects{number}"
    shutil.copytree(place / "reference" / "keys", trail / "keys")
    shutil.copytree(place / "reference" / "objects" / "global", trail / "objects" / "global")
    objects, vault = FolderStore(trail / "objects"), FolderStore(trail / "vault", mode=0o600)
    key = load_secret(trail / "keys" / "vault.key")
    times = {}

    def rows(client: Any) -> Times:
        store = ClickHouseWindows(lambda: ClickHouseSink(client), objects=objects, vault=vault, vault_key=key)
        return follow(settings, trail, store, events)

    times["clickhouse"] = with_engine(place / f"rows{number}", rows, events)
    times["plain"] = with_engine(place / f"plain{number}", lambda client: plain(settings, client, messages), events)
    times["objects"] = follow(settings, trail, ObjectsWindows(objects, vault, key), events)
    return times


if __name__ == "__main__":
    raise SystemExit(main())
