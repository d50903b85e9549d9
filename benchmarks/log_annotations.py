"""What ``log_annotations`` costs the thread that trains, and the process as a whole.

    python benchmarks/log_annotations.py [--calls 400] [--batch 64] [--pause-ms 10]

Calls are paced like steps, with a pause in between that is not counted. Per
event and call: wall time on the caller's thread (median, p99), and the CPU
time of the whole process, writer's thread included, less that of the same
loop without recording. Four disks: as it is; every sync takes 100 ms; full
after 1 MB; and nothing recorded at all. Every event must be in the spool or
declared as lost. Memory: what a fresh process takes for importing, opening and one call, and how much it grows
while the loop runs. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_producers.spool_files import producers, unpack_spool_record
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import DiskFullError, Handle, RealDisk
from rlhf_audit_stores.following import RecordFollower

SYNC_S, FULL_BYTES = 0.1, 1 << 20


class SlowDisk(RealDisk):
    """Each sync takes 100 ms, as on a busy disk."""

    def sync(self, handle: Handle) -> None:
        time.sleep(SYNC_S)
        super().sync(handle)


class SmallDisk(RealDisk):
    """Full after one MB."""

    def __init__(self) -> None:
        self._free = FULL_BYTES
        self._reserved: dict[Path, int] = {}

    def write(self, handle: Handle, data: bytes) -> None:
        room = max(0, self._reserved.get(handle.path, 0) - self.size(handle.path))
        if len(data) > self._free + room:
            raise DiskFullError(handle.path)
        self._free -= max(0, len(data) - room)
        super().write(handle, data)

    def reserve(self, handle: Handle, size: int) -> None:
        more = size - max(self._reserved.get(handle.path, 0), self.size(handle.path))
        if more > self._free:
            raise DiskFullError(handle.path)
        if more > 0:
            self._free -= more
            self._reserved[handle.path] = size


DISKS = {"as it is": RealDisk, "100 ms per sync": SlowDisk, "full after 1 MB": SmallDisk}


def rss_kib() -> int:
    """Memory of this process that is its own."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty"):
            return int(line.split()[1])
    return 0


def loop(disk: str | None, calls: int, batch: int, pause_s: float, directory: str) -> dict[str, Any]:
    """One process that trains; ``disk`` None records nothing."""
    trail = None
    if disk is not None:
        from rlhf_audit_trail.ledger_facts import ledger_facts
        from rlhf_audit_trail.recording import AuditTrail
        from rlhf_audit_trail.settings import load_settings

        ledger_facts(Path(directory), load_settings(Path(directory)))
        trail = AuditTrail(directory, "bench", runtime=False, disk=DISKS[disk](), queue_events=20_000)
    before_kib = rss_kib()
    texts = [f"{'a sentence of some length, as prompts have. ' * 6}{n}" for n in range(batch)]
    times = []
    cpu = time.process_time()
    for call in range(calls):
        prompts = [f"{call}{text}" for text in texts]
        rewards = [0.5] * batch
        annotators = [f"rater{n % 9}" for n in range(batch)]
        began = time.perf_counter()
        if trail is not None:
            trail.log_annotations(prompts=prompts, responses=texts, rewards=rewards, annotators=annotators)
        times.append((time.perf_counter() - began) / batch * 1e6)
        time.sleep(pause_s)
    cpu_us = (time.process_time() - cpu) * 1e6 / calls / batch
    memory_kib = rss_kib() - before_kib
    found: dict[str, Any] = {"cpu_us_per_event": round(cpu_us, 2), "memory_growth_mib": round(memory_kib / 1024, 1)}
    if trail is not None:
        trail.close()
        times.sort()
        kept, lost = in_spool(Path(directory))
        if kept + lost != calls * batch:
            raise SystemExit(f"{kept} in the spool and {lost} declared as lost of {calls * batch}")
        found |= {
            "caller_us_per_event_median": round(statistics.median(times), 3),
            "caller_us_per_event_p99": round(times[int(len(times) * 0.99)], 3),
            "in_spool": kept,
            "declared_lost": lost,
        }
    return found


FRESH = """
import sys
def rss():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return int(next(line for line in lines if line.startswith("Private_Dirty")).split()[1])
before = rss()
from rlhf_audit_trail import AuditTrail
trail = AuditTrail(sys.argv[1], runtime=False)
trail.log_annotations(rewards=[1.0])
trail.flush()
print(rss() - before)
"""


def memory_mib() -> float:
    """Importing, opening and one call in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", FRESH, folder]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return round(int(out) / 1024, 1)


def in_spool(directory: Path) -> tuple[int, int]:
    """Annotations that lie in the spools, and numbers declared as lost."""
    kept = lost = 0
    for _, refs in producers(RealDisk(), directory / "spool"):
        for ref in refs:
            for _, record in RecordFollower(ref.folder, RealDisk()).read(1 << 40):
                body = BatchBody.decode(open_envelope(unpack_spool_record(record)[2])[0])
                if body.kind == KINDS["annotation"].number:
                    kept += len(body.events)
                elif body.kind == KINDS["loss"].number:
                    lost += sum(KINDS["loss"].codec.decode(event)["count"] for event in body.events)
    return kept, lost


def _report(arguments: tuple[Any, ...], into: multiprocessing.SimpleQueue[Any]) -> None:
    into.put(loop(*arguments))


def measured(*arguments: Any) -> dict[str, Any]:
    """``loop`` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=_report, args=(arguments, queue))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise SystemExit(f"{arguments}: exit status {child.exitcode}")
    return dict(queue.get())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pause-ms", type=float, default=10.0)
    args = parser.parse_args()
    how = (args.calls, args.batch, args.pause_ms / 1000)
    idle = measured(None, *how, "")
    results = {}
    for disk in DISKS:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(disk, *how, folder)
        found["cpu_us_per_event"] = round(found["cpu_us_per_event"] - idle["cpu_us_per_event"], 2)
        results[disk] = found
    print(
        json.dumps(
            {
                "benchmark": "log_annotations",
                "machine": machine(),
                "calls": args.calls,
                "batch": args.batch,
                "pause_ms": args.pause_ms,
                "bound_us_per_event": 20,
                "stretch_us_per_event": 5,
                "memory_added_mib": memory_mib(),
                "disks": results,
            }
        )
    )


if __name__ == "__main__":
    main()
