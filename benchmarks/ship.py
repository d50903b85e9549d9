"""Records and bytes per second from spools to one real broker, next to a bare produce loop with the same client.

    python benchmarks/ship.py [--records 20000] [--events 100] [--event-bytes 136] [--ranks 4] [--repeat 3]

* ``ship``: spools read, lanes followed, headers put on, acknowledged by the broker, positions noted durably, spools
  deleted.
* ``produce``: the same values, ready in memory, through the same client settings, and a flush.

Both beside the broker on the same cores; every record must be in the topics. Needs Java and Maven. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from machine import machine

from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.batches import ProducerSession
from rlhf_audit_producers.shipper_client import client_config
from rlhf_audit_producers.spool_files import acquire_name, epoch_folder, producers, unpack_spool_record, write_name
from rlhf_audit_producers.spool_log import LedgerFacts, SpoolLog
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.following import RecordFollower
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import admin_client, source_topic
from rlhf_audit_stores.kafka.wire import with_header
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.settings import load_settings
from rlhf_audit_trail.ship_report import ShipReport
from rlhf_audit_trail.shipping import ShipPlan, open_shipper, run_shipper

Value = tuple[str, int, bytes]


def record(directory: Path, facts: LedgerFacts, rank: int, records: int, events: int, size: int) -> None:
    """A spool of so many batches in four lanes."""
    disk = RealDisk()
    lock = acquire_name(disk, directory / "spool", f"bench/{rank}")
    write_name(disk, lock.folder, lock.producer)
    log = SpoolLog(facts, epoch_folder(lock.folder, 0), disk, quota_bytes=1 << 40)
    session = ProducerSession(
        log,
        producer=lock.producer,
        epoch=0,
        signer=SeedSigner(os.urandom(32)),
        batch_events=events,
        now_us=lambda: time.time_ns() // 1000,
    )
    session.start(software="benchmark", previous_epoch=None, previous_lanes=[], purpose="train")
    bodies = [os.urandom(size) for _ in range(events)]
    for number in range(records):
        lane = session.lane("annotations", number % facts.partitions["annotations"])
        lane.put(KINDS["annotation"], bodies)
        lane.cut()
    session.end(rows=records * events, bad_rows=0, reason="finished")
    log.work()
    log.close()
    lock.release()


def values(directory: Path) -> list[Value]:
    """What lies in the spools."""
    found: list[Value] = []
    for _, refs in producers(RealDisk(), directory / "spool"):
        for ref in refs:
            for _, each in RecordFollower(ref.folder, RealDisk()).read(1 << 40):
                stream, partition, value = unpack_spool_record(each)
                found.append((stream, partition, with_header(value)))
    return found


def make_topics(settings: KafkaSettings, facts: LedgerFacts) -> None:
    from confluent_kafka.cimpl import NewTopic

    client, _ = admin_client(settings)
    topics = [NewTopic(source_topic(settings.topic_prefix, name), count, 1) for name, count in facts.partitions.items()]
    for answer in client.create_topics(topics, request_timeout=30).values():
        answer.result(timeout=31)


def count(settings: KafkaSettings, facts: LedgerFacts) -> int:
    """Records in the topics."""
    total = 0
    for stream, partitions in facts.partitions.items():
        for partition in range(partitions):
            with PartitionTail(settings, source_topic(settings.topic_prefix, stream), partition) as tail:
                first, end = tail.watermarks()
                total += end - first
    return total


def produce(settings: KafkaSettings, found: list[Value]) -> None:
    from confluent_kafka import Producer

    producer = Producer({**client_config(settings), "log_level": 3})
    failed: list[object] = []

    def note(error: object, message: object) -> None:
        if error is not None:
            failed.append(error)

    for stream, partition, value in found:
        while True:
            try:
                producer.produce(
                    source_topic(settings.topic_prefix, stream), value, partition=partition, on_delivery=note
                )
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    assert producer.flush(120) == 0
    assert not failed


def ship(directory: Path, facts: LedgerFacts, settings: KafkaSettings) -> None:
    flags = {"brokers": settings.brokers, "topic_prefix": settings.topic_prefix, "clickhouse": "off"}
    report = ShipReport(print, time.monotonic)
    result = run_shipper(
        directory,
        lambda: open_shipper(directory, facts, load_settings(directory, flags=flags), report),
        ShipPlan(drain=True, drain_s=600),
        report,
    )
    assert result.has_run
    assert not result.left


def timed(what: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and seconds of our own CPU."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    what()
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--event-bytes", type=int, default=136)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    rates: dict[str, list[dict[str, float]]] = {"produce": [], "ship": []}
    with tempfile.TemporaryDirectory() as folder, KafkaCluster(Path(folder) / "kafka", stop_timeout_s=0) as cluster:
        for turn in range(args.repeat):
            trail = Path(folder) / f"trail-{turn}"
            facts = ledger_facts(trail, load_settings(trail))
            for rank in range(args.ranks):
                record(trail, facts, rank, args.records // args.ranks, args.events, args.event_bytes)
            found = values(trail)
            megabytes = sum(len(value) for *_, value in found) / 1e6
            for name in ("produce", "ship") if turn % 2 else ("ship", "produce"):
                settings = cluster.settings(f"{name}{turn}.")
                make_topics(settings, facts)
                what = partial(ship, trail, facts, settings) if name == "ship" else partial(produce, settings, found)
                seconds, cpu = timed(what)
                if count(settings, facts) != len(found):
                    raise SystemExit(f"{name}: {count(settings, facts)} of {len(found)} records in the topics")
                rates[name].append(
                    {
                        "records_per_s": round(len(found) / seconds),
                        "mb_per_s": round(megabytes / seconds, 1),
                        "cpu_us_per_record": round(cpu / len(found) * 1e6, 1),
                    }
                )
    print(
        json.dumps(
            {
                "benchmark": "ship",
                "machine": machine(),
                "records": args.records,
                "record_bytes": round(megabytes * 1e6 / len(found)),
                "ranks": args.ranks,
                "rates": rates,
            }
        )
    )


if __name__ == "__main__":
    main()
