"""End to end on real Kafka: source topics to sealed, stored, queryable and verified, for one broker and for three.

    python benchmarks/kafka_pipeline.py [--events 400000] [--brokers 1 3] [--sealers 2]

Batches of 1,024 judgements stand in four partitions of the source topic before the clock starts. Then two sealers, an
objects sink, a ClickHouse sink (embedded engine) and the sequencer start as the processes they are; the clock runs from
the first sealed record to the last window stored in both, and includes what is left of their start. ``verified`` adds
``rlhf-audit verify``. ``plain`` consumes the same source messages, decodes the same events into the same columns and
inserts them into the same table of the same engine, and seals nothing: the ratio is the price of evidence.

Everything shares the cores, brokers included. ``cpu_s`` is what each process used. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from clickhouse_sink import bodies_of
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from kafka_sink import insert_plain, with_engine
from machine import machine

from rlhf_audit_ledger.batch import BATCH_TYPE, NO_BATCH, BatchBody, encode_batch, open_envelope
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import strip_header, with_header
from rlhf_audit_trail.cli import main as run_command
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.ledger_facts import known_facts
from rlhf_audit_trail.query_ask import live_asker, rows_of

PARTITIONS, BATCH, WAIT_S = 4, 1024, 600.0
STREAM = "annotations"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def command(*words: str | Path) -> int:
    """Exit status of an ``rlhf-audit`` command; what it prints goes to stderr."""
    with redirect_stdout(sys.stderr):
        return run_command([str(word) for word in words])


def cpu_s(pid: int) -> float:
    """User and system time of a process and its children that have ended or still run."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(path.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def fill(settings: KafkaSettings, trail: Path, events: int) -> int:
    """Put signed batches into the source topic; the number of messages."""
    facts = known_facts(trail)
    bodies = bodies_of(events // PARTITIONS)
    producer = Producer(settings.producer_config())
    signer, sent = SeedSigner(bytes(range(32))), 0
    kind = KINDS["annotation"]
    for number in range(PARTITIONS):
        previous = NO_BATCH
        for first in range(0, len(bodies), BATCH):
            done = encode_batch(
                BatchBody(
                    facts.ledger_id, f"bench/{number}", 0, STREAM, number, first, kind.number, 1, previous,
                    signer.public_key if first == 0 else None, None, first + BATCH >= len(bodies),
                    tuple(bodies[first : first + BATCH]),
                ),
                signer,
            )  # fmt: skip
            previous = done.digest
            producer.produce(
                source_topic(settings.topic_prefix, STREAM),
                value=with_header(done.value, record="EventBatch"),
                partition=number,
            )
            producer.poll(0)
            sent += 1
    assert producer.flush(300) == 0
    return sent


@contextmanager
def workers(trail: Path, sealers: int, logs: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """All workers as processes; ended at the end."""
    words = {
        **{f"seal-{n}": ["seal", trail, "--workers", "1", "--instance", f"seal-{n}"] for n in range(sealers)},
        "objects": ["sink", "objects", trail],
        "clickhouse": ["sink", "clickhouse", trail],
        "sequence": ["sequence", trail],
    }
    logs.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = {}
    for name, argv in words.items():
        with (logs / f"{name}.log").open("wb") as log:
            started[name] = subprocess.Popen(
                [sys.executable, "-m", "rlhf_audit_trail", *map(str, argv)], env=environment, stdout=log, stderr=log
            )
    try:
        yield started
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def first_record_s(settings: KafkaSettings) -> float:
    """Wait for the first sealed batch of any partition; when that was."""
    while True:
        for number in range(PARTITIONS):
            with PartitionTail(settings, sealed_topic(settings.topic_prefix, STREAM), number) as tail:
                if tail.watermarks()[1] > 1:
                    return time.perf_counter()
        time.sleep(0.05)


def stored(trail: Path) -> int:
    """Rows of the query copy."""
    asker = live_asker(trail)
    return 0 if asker is None else int(rows_of(asker, "SELECT count() AS n FROM annotation")[0]["n"])


def sealed_windows(trail: Path) -> int:
    """Events in stored segments, from the closes."""
    from rlhf_audit_ledger.close import Close
    from rlhf_audit_ledger.objects import SEGMENT
    from rlhf_audit_stores.objects import FolderStore

    objects = FolderStore(trail / "objects")
    closes = (
        SEGMENT.decode(one.name, objects.get(one.name))[-1]["close"] for one in objects.list(f"segments/{STREAM}/")
    )
    return sum(Close.decode(close).events for close in closes)


def pipeline(
    cluster: KafkaCluster, place: Path, events: int, sealers: int
) -> tuple[dict[str, Any], KafkaSettings, int]:
    """One run."""
    prefix = f"b{secrets.token_hex(3)}."
    settings, trail = cluster.settings(prefix), place / prefix / "trail"
    trail.mkdir(parents=True)
    (trail / "config.toml").write_text(
        f'brokers = "{cluster.bootstrap}"\ntopic_prefix = "{prefix}"\nwindow_seconds = 1\n', encoding="utf-8"
    )
    assert command("topics", "apply", trail) == 0
    messages = fill(settings, trail, events)
    with workers(trail, sealers, place / prefix / "logs") as processes:
        began = first_record_s(settings)
        deadline = time.monotonic() + WAIT_S
        while stored(trail) < events or sealed_windows(trail) < events:
            assert time.monotonic() < deadline, "the pipeline did not come to an end"
            assert all(process.poll() is None for process in processes.values())
            time.sleep(0.25)
        seconds = time.perf_counter() - began
        used = {name: round(cpu_s(process.pid), 1) for name, process in processes.items()}
    began = time.perf_counter()
    assert command("verify", trail) == 0
    verifying = time.perf_counter() - began
    found = {
        "events_per_s": round(events / seconds),
        "events_per_s_verified": round(events / (seconds + verifying)),
        "cpu_s": used,
    }
    return found, settings, messages


def plain(settings: KafkaSettings, messages: int, client: Any) -> tuple[float, float]:
    """Seconds, and those of CPU, of a loop that consumes the source topic, decodes, inserts and does nothing else."""
    consumer = Consumer(settings.consumer_config("plain"))
    topic = source_topic(settings.topic_prefix, STREAM)
    started, used = time.perf_counter(), time.process_time()
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    bodies: list[bytes] = []
    while messages:
        for message in consumer.consume(64, 0.2):
            value = strip_header(message.value() or b"")
            if value[:1] == BATCH_TYPE:
                messages -= 1
                bodies += BatchBody.decode(open_envelope(value)[0]).events
        if len(bodies) >= 32_768 or not messages:
            insert_plain(client, bodies)
            bodies = []
    consumer.close()
    return time.perf_counter() - started, time.process_time() - used


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--brokers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--sealers", type=int, default=2)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:  # one for all: an engine moves where temporary files go
        for brokers in args.brokers:
            place = Path(name) / str(brokers)
            place.mkdir()
            with KafkaCluster(place / "kafka", brokers=brokers, stop_timeout_s=0) as cluster:
                found, settings, messages = pipeline(cluster, place, args.events, args.sealers)
                loop = partial(plain, settings, messages)
                seconds, cpu = with_engine(place / "plain", loop, args.events // PARTITIONS * PARTITIONS)
            found["plain_events_per_s"] = round(args.events / seconds)
            found["plain_cpu_s"] = round(cpu, 1)
            found["ratio_to_plain"] = round(found["events_per_s"] / found["plain_events_per_s"], 3)
            results[f"{brokers} broker{'s' if brokers > 1 else ''}"] = found
    facts = {"machine": machine(), "load": os.getloadavg()[0], "events": args.events, "batch": BATCH}
    print(json.dumps({**facts, "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
