"""Events per second of one sealer worker's CPU, brokers apart, next to a bare Faust worker that passes messages on.

    python benchmarks/kafka_seal.py [--megabytes 120] [--event-bytes 200] [--batches 256 1024]

* ``seal``: ``rlhf-audit seal``, one process: envelope decoded, batch signature checked, events hashed, chain, tree and
  windows carried on, records encoded and acknowledged by the broker.
* ``pass_on``: the same Faust app with the same clients, whose agent sends each value on as it is.

``us_per_event``: CPU time of the worker process over the run, its start and takeover left out. The sealed topic must be
what the local loop makes of the source. Needs Java and Maven. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from rlhf_audit_stores.kafka.settings import KafkaSettings  # noqa: E402
from rlhf_audit_stores.kafka.tail import PartitionTail  # noqa: E402
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic  # noqa: E402
from rlhf_audit_stores.kafka.wire import with_header  # noqa: E402
from rlhf_audit_trail.kafka_cluster import KafkaCluster  # noqa: E402
from sealing_rig import STREAM, Rig  # noqa: E402 - the tests' own ledger on Kafka

PARTITIONS = (0, 1, 2, 3)
TICKS = 1_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_us(pid: int) -> int:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICKS


def ends(rig: Rig, topic: str) -> list[int]:
    """Offset behind the last record of each partition."""
    found = []
    for partition in PARTITIONS:
        with PartitionTail(rig.kafka, topic, partition) as tail:
            found.append(tail.watermarks()[1])
    return found


@contextmanager
def worker(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end."""
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stderr=sys.stderr)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(rig: Rig, argv: Sequence[str], batch: int, messages: int, size: int) -> dict[str, Any]:
    """Start a worker, let it settle, send everything, wait until the last record stands in the sealed topic."""
    sealed = sealed_topic(rig.kafka.topic_prefix, STREAM)
    values = [
        (with_header(rig.batch(f"bench/{partition}", partition, batch, size=size), record="EventBatch"), partition)
        for _ in range(messages // len(PARTITIONS))
        for partition in PARTITIONS
    ]
    with worker(argv) as process:
        deadline = time.monotonic() + 60
        while min(ends(rig, sealed)) == 0 and time.monotonic() < deadline:  # the first tick of each has gone through
            time.sleep(0.2)
        time.sleep(2)
        before, started, used = ends(rig, sealed), time.monotonic(), cpu_us(process.pid)
        for value, partition in values:
            rig.send(value, partition)
        rig.flush()
        wanted = [end + messages // len(PARTITIONS) for end in before]
        while any(found < end for found, end in zip(ends(rig, sealed), wanted, strict=True)):
            assert process.poll() is None
            assert time.monotonic() < started + 300
            time.sleep(0.05)
        wall_s, used = time.monotonic() - started, cpu_us(process.pid) - used
    events = messages * batch
    return {
        "events": events,
        "messages": messages,
        "message_bytes": len(values[0][0]),
        "us_per_event": round(used / events, 3),
        "us_per_message": round(used / messages, 1),
        "events_per_cpu_s": round(events / (used / 1e6)),
        "events_per_s": round(events / wall_s),
    }


def pass_on(brokers: str, prefix: str, data: str) -> None:
    """The bare worker: the app of the sealer, an agent that sends on, one acker."""
    from rlhf_audit_processors.kafka.faust_app import Patience, make_app

    async def run() -> None:
        kafka = KafkaSettings(brokers, topic_prefix=prefix)
        app: Any = make_app(kafka, instance=None, patience=Patience(), data_dir=data)
        under_way: asyncio.Queue[Any] = asyncio.Queue(256)
        sealed = sealed_topic(prefix, STREAM)

        async def agent(stream: Any) -> None:
            async for event in stream.noack().events():
                message = event.message
                future = await app.producer.send(sealed, None, message.value, message.partition, None, None)
                await under_way.put((future, event))

        app.agent(app.topic(source_topic(prefix, STREAM), value_serializer="raw", key_serializer="raw"), name="on")(
            agent
        )
        app.finalize()
        await app.start()
        while True:
            future, event = await under_way.get()
            await future
            event.ack()

    asyncio.run(run())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=120)
    parser.add_argument("--event-bytes", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--pass-on", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pass_on:
        pass_on(*args.pass_on)
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, KafkaCluster(Path(folder) / "kafka", stop_timeout_s=0) as cluster:
        for batch in args.batches:
            messages = max(40, args.megabytes * 1_000_000 // (batch * args.event_bytes) // 4 * 4)
            found: dict[str, Any] = {}
            for mode in ("pass_on", "seal"):
                prefix = f"b{secrets.token_hex(3)}."
                rig = Rig(Path(folder) / f"{mode}-{batch}", cluster.settings(prefix), window_seconds=3600)
                if mode == "seal":
                    argv = [sys.executable, "-m", "rlhf_audit_trail", *rig.command("--stream", STREAM)]
                else:
                    argv = [sys.executable, __file__, "--pass-on", rig.kafka.brokers, prefix, folder]
                found[mode] = measure(rig, argv, batch, messages, args.event_bytes - 20)
                if mode == "seal":
                    rig.judge((0,))
            found["seal_to_pass_on"] = round(found["seal"]["us_per_event"] / found["pass_on"]["us_per_event"], 2)
            results[f"batches of {batch}"] = found
    load = os.getloadavg()[0]
    print(json.dumps({"machine": machine(), "load": load, "event_bytes": args.event_bytes, "results": results}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
