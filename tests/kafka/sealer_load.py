"""Steady load on the source partitions, and the pauses that it shows in the sealed ones."""

from __future__ import annotations

import threading
from itertools import pairwise

from kafka.fleet import Fleet
from rlhf_audit_processors.kafka.worker import CRASHED
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic
from sealing_rig import STREAM, Rig, poll

LOAD_EVERY_S = 0.04
SLACK = 6.0  # never a timed test: what was measured is printed, and this only tells a pause from a standstill


class Load(threading.Thread):
    """Steady load on all partitions until stopped."""

    def __init__(self, rig: Rig, *, every_s: float = LOAD_EVERY_S) -> None:
        super().__init__(daemon=True)
        self._rig, self._over, self._every_s = rig, threading.Event(), every_s

    def run(self) -> None:
        while not self._over.wait(self._every_s):
            self._rig.send_batches(1, events=10)
            self._rig.producer.poll(0)

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; everything is handed to the brokers then."""
        self._over.set()
        self.join()
        self._rig.flush()


def pauses(rig: Rig, since_ms: float) -> dict[int, float]:
    """Longest time without a new sealed record of each partition, in seconds, from a moment on."""
    found = {}
    for partition in range(4):
        with PartitionTail(rig.kafka, sealed_topic(rig.kafka.topic_prefix, STREAM), partition) as tail:
            times = [message.ts_us / 1e6 for message in tail.read(*tail.watermarks())]
        times = [at for at in times if at * 1000 >= since_ms]
        found[partition] = max((b - a for a, b in pairwise(times)), default=0.0)
    return found


def tell(what: str, found: dict[int, float]) -> float:
    worst = max(found.values())
    print(f"\npause {what}: {worst:.1f} s (each partition: {', '.join(f'{one:.1f}' for one in found.values())})")  # noqa: T201 - measured
    return worst


def both_at_work(rig: Rig, fleet: Fleet) -> None:
    """Both workers have a share of the partitions."""

    def has_share(name: str) -> bool:
        return any(f"{share} partitions taken over" in fleet.words(name, 400) for share in (6, 7))

    poll(lambda: has_share("a") and has_share("b"), 60, "sharing the partitions")
    rig.wait_until_sealed()


def crashes_alone(fleet: Fleet) -> bool:
    """Whether no worker ended by itself but by giving up a surprise for a restart, which is a normal way to end."""
    return {status for ends in fleet.deaths.values() for status in ends} <= {CRASHED}
