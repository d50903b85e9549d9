"""A recorder in memory: what a producer appends, as far as it survived.

``append`` only buffers; ``work`` makes it durable. ``after_crash`` gives what a
dead process leaves behind. It checks no signature and seals nothing: laws of
sealing are tested where sealing is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_producers.recorder import Epoch, EventCounts, LaneView
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER

_PARTITIONS = {"annotations": 4, "gradients": 4, "lifecycle": 1, "released": 4}


@dataclass
class MemoryRecorder:
    """Implements ``Recorder``; ``durable`` holds the source logs by (stream, partition)."""

    ledger_id: bytes = bytes(16)
    routing_key: bytes = bytes(32)
    partitions: Mapping[str, int] = field(default_factory=lambda: dict(_PARTITIONS))
    durable: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    drained: bool = False
    _pending: list[tuple[tuple[str, int], bytes]] = field(default_factory=list)

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        self.drained = False
        self._pending.extend(((stream, partition), value) for value in values)

    def work(self) -> None:
        for place, value in self._pending:
            self.durable.setdefault(place, []).append(value)
        self._pending.clear()

    def drain(self) -> None:
        self.work()
        self.drained = True

    def take_epoch(self, producer: str) -> Epoch:
        previous = self.epochs.get(producer)
        self.epochs[producer] = 0 if previous is None else previous + 1
        return Epoch(self.epochs[producer], previous)

    def last_epoch(self, producer: str) -> int | None:
        return self.epochs.get(producer)

    def lanes_of(self, producer: str) -> Sequence[LaneView]:
        lanes: dict[tuple[str, int], LaneView] = {}
        for body in self.batches(producer):
            head = body.first_seq + len(body.events)
            lanes[body.stream, body.partition] = LaneView(body.stream, body.partition, body.epoch, head, body.final)
        return list(lanes.values())

    def delivered(self, producer: str) -> EventCounts:
        counts: Counter[tuple[str, int, str]] = Counter()
        for body in self.batches(producer):
            counts[body.stream, body.partition, KINDS_BY_NUMBER[body.kind].name] += len(body.events)
        return counts

    def batches(self, producer: str | None = None) -> list[BatchBody]:
        """Everything durable, log by log."""
        bodies = [BatchBody.decode(open_envelope(value)[0]) for log in self.durable.values() for value in log]
        return [body for body in bodies if producer in (None, body.producer)]

    def after_crash(self) -> MemoryRecorder:
        """The recorder of the next process: what was not durable is gone."""
        logs = {place: list(log) for place, log in self.durable.items()}
        return MemoryRecorder(self.ledger_id, self.routing_key, self.partitions, logs, dict(self.epochs))
