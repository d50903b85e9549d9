"""Events and bytes per second through the writer of a spool, and from spools into sealed windows.

    python benchmarks/spool_append.py [--events 200000] [--event-bytes 200] [--repeat 3]

* ``spool``: events that are encoded already: number, cut, sign, write, sync. Beside it ``write``: the same bytes
  written to one file and synced as often, which is what the disk alone costs.
* ``runtime``: what was spooled, taken into the source logs, sealed and stored until nothing is left.

Every event must be sealed. One core. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from machine import machine

from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.objects import SEGMENT
from rlhf_audit_producers.spool_queue import SpoolQueue, Submission
from rlhf_audit_producers.spool_routes import Router
from rlhf_audit_producers.spool_writer import SpoolSettings, SpoolWriter
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.runtime import Runtime
from rlhf_audit_trail.settings import load_settings

PER_CALL, PER_TURN = 64, 4096


def spool(directory: Path, events: int, size: int) -> tuple[float, int]:
    """Seconds, and syncs."""
    settings = SpoolSettings(
        directory=directory,
        facts=ledger_facts(directory, load_settings(directory)),
        base_producer="bench/0",
        run_id="bench",
        software="benchmark",
        disk=RealDisk(),
        now_us=lambda: time.time_ns() // 1000,
    )
    router = Router(settings.facts, settings.base_producer)
    queue = SpoolQueue(max_events=1 << 20, max_bytes=1 << 30, places=router.places)
    writer = SpoolWriter(settings, queue, router)
    writer.open()
    bodies = [os.urandom(size) for _ in range(PER_CALL)]
    began = time.perf_counter()
    turns = 0
    for first in range(0, events, PER_CALL):
        queue.put(Submission(KINDS["annotation"], PER_CALL, lambda: bodies, bytes_held=PER_CALL * size))
        if (first + PER_CALL) % PER_TURN == 0:
            writer.turn()
            turns += 1
    writer.close("finished")
    return time.perf_counter() - began, turns


def plain_write(folder: Path, size: int, syncs: int) -> float:
    """Seconds for the bytes alone."""
    data = os.urandom(size // max(syncs, 1))
    began = time.perf_counter()
    with (folder / "plain").open("wb", buffering=0) as file:
        for _ in range(syncs):
            file.write(data)
            os.fdatasync(file.fileno())
    return time.perf_counter() - began


def drain(directory: Path) -> float:
    """Seconds until everything is stored."""
    began = time.perf_counter()
    with LocalTrail(directory) as trail:
        runtime = Runtime(trail)
        while runtime.turn():
            pass
        runtime.drain()
    return time.perf_counter() - began


def sealed(directory: Path) -> int:
    """Annotations in closed windows."""
    objects = FolderStore(directory / "objects")
    return sum(
        Close.decode(SEGMENT.decode(info.name, objects.get(info.name))[-1]["close"]).events
        for info in objects.list("segments/annotations/")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--event-bytes", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    events = args.events // PER_TURN * PER_TURN
    rates: dict[str, list[float]] = {"spool": [], "write": [], "runtime": []}
    for _ in range(args.repeat):
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            seconds, syncs = spool(directory, events, args.event_bytes)
            rates["spool"].append(events / seconds)
            rates["write"].append(events / plain_write(directory, events * args.event_bytes, syncs))
            rates["runtime"].append(events / drain(directory))
            if sealed(directory) != events:
                raise SystemExit(f"{sealed(directory)} of {events} events were sealed")
    print(
        json.dumps(
            {
                "benchmark": "spool_append",
                "machine": machine(),
                "events": events,
                "event_bytes": args.event_bytes,
                "events_per_s": {name: [round(rate) for rate in sorted(found)] for name, found in rates.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
