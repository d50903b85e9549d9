"""Events per second through ``verify``, every byte re-hashed, and whether its memory grows with the trail.

    python benchmarks/verify_trail.py [--events 1000000] [--small 100000] [--repeat 3]

Events of 200 bytes in batches of 1,024, four partitions, read from a folder.
Baselines of the same run: raw hashlib over the same events (one SHA-256 each),
the four hashes per event that the format cannot do without (event digest,
leaf, one node of the log's tree, one of the window's), and ``cp -r`` of the
trail. Every run must pass and count every event. Peak memory is that of a
process that does nothing but verify. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

from rlhf_audit_auditor.opening import open_trail
from rlhf_audit_auditor.report import Report
from rlhf_audit_auditor.verify import Options, verify
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.batches import ProducerSession
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_trail.local import LocalTrail

EVENT_BYTES, BATCH, PARTITIONS = 200, 1024, 4
BUDGET = 500_000  # events/s per core, DESIGN section 9


def write(trail: Path, events: int) -> None:
    """A trail of random events, the same number in every partition."""
    with LocalTrail(trail) as local:
        session = ProducerSession(
            local, producer="bench/0", epoch=0, signer=SeedSigner(bytes(32)), batch_events=BATCH, now_us=lambda: 0
        )
        kind = KINDS["annotation"]
        chunk = 16 * BATCH
        for start in range(0, events, chunk):
            count = min(chunk, events - start)
            bodies = [os.urandom(EVENT_BYTES) for _ in range(count)]
            for partition in range(PARTITIONS):
                session.record("annotations", partition, kind, bodies[partition::PARTITIONS])
            local.work()
        session.end(rows=events, bad_rows=0, reason="finished")
        local.drain()


def timed(trail: Path, events: int, options: Options) -> tuple[float, float, Report]:
    """Wall seconds, CPU seconds and the report of one check, which must pass."""
    wall = time.perf_counter()
    report = verify(open_trail(trail), options)
    wall = time.perf_counter() - wall
    assert report.exit_code == 0, report.findings or report.unreadable
    assert report.events_by_stream()["annotations"]["annotation"] == events
    return wall, report.cpu_s, report


def hashing(events: int) -> dict[str, float]:
    """CPU seconds of hashing alone."""
    bodies = [os.urandom(EVENT_BYTES) for _ in range(BATCH)]
    rounds = events // BATCH
    sha = hashlib.sha256
    head, leaf, node = b"rlhf-audit/event/v1\0\1\1\0\1", b"\0\1\x11", b"\1"
    before = time.process_time()
    for _ in range(rounds):
        _ = [sha(body).digest() for body in bodies]
    one = time.process_time()
    for _ in range(rounds):
        digests = [sha(head + body).digest() for body in bodies]
        leaves = [sha(leaf + digest).digest() for digest in digests]
        _ = [sha(node + left + right).digest() for left, right in zip(leaves, digests, strict=True)]
        _ = [sha(node + left + right).digest() for left, right in zip(digests, leaves, strict=True)]
    return {"one SHA-256 per event": one - before, "the four hashes per event": time.process_time() - one}


def peak_mb(trail: Path) -> float:
    """Peak memory of a process that verifies this trail alone."""
    command = [sys.executable, __file__, "--measure", str(trail)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(trail: Path) -> None:
    assert verify(open_trail(trail), Options()).exit_code == 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def run(events: int, small: int, repeat: int, place: Path) -> dict[str, object]:
    trail, small_trail = place / "trail", place / "small"
    write(trail, events)
    write(small_trail, small)
    best: dict[str, float] = {}
    size = sum(path.stat().st_size for name in ("objects", "vault") for path in (trail / name).rglob("*"))
    cores = os.cpu_count() or 1
    for number in range(repeat):
        wall, cpu, report = timed(trail, events, Options())
        log_wall, log_cpu, _ = timed(trail, events, Options(log_only=True))
        all_wall, all_cpu, _ = timed(trail, events, Options(jobs=cores))
        before = time.perf_counter()
        for name in ("objects", "vault"):
            subprocess.run(["cp", "-r", str(trail / name), str(place / f"copy-{number}-{name}")], check=True)
        seconds = {
            "verify, per CPU second": cpu,
            "verify, one process, per second": wall,
            "verify --log-only, per CPU second": log_cpu,
            f"verify, {cores} processes, per second": all_wall,
            f"verify, {cores} processes, per CPU second": all_cpu,
            "cp -r of the trail, per second": time.perf_counter() - before,
            **hashing(events),
        }
        del log_wall, report
        best = {name: min(value, best.get(name, value)) for name, value in seconds.items()}
    rates = {name: round(events / value) for name, value in best.items()}
    return {
        "benchmark": "verify_trail",
        "machine": machine(),
        "parameters": {
            "events": events,
            "event_bytes": EVENT_BYTES,
            "batch": BATCH,
            "partitions": PARTITIONS,
            "trail_bytes": size,
            "repeat": repeat,
        },
        "events_per_s": rates,
        "ratio_to_the_four_hashes": round(rates["verify, per CPU second"] / rates["the four hashes per event"], 3),
        "budget": {"events_per_s_per_core": BUDGET, "met": rates["verify, per CPU second"] >= BUDGET},
        "peak_memory_mb": {str(small): round(peak_mb(small_trail), 1), str(events): round(peak_mb(trail), 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        measure(args.measure)
        return
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(run(args.events, args.small, args.repeat, Path(place)), indent=2))


if __name__ == "__main__":
    main()
