"""Duplicates compared with what they repeat, in a second pass over headers that only happens where there are any.

A batch is cut once, so a resent one has the numbers and the digest of one that
was accepted. Other bytes under taken numbers are a conflict; numbers that were
never accepted here (a batch that came after its epoch was replaced) are late:
the ledger does not hold those events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rlhf_audit_auditor.evidence import Evidence
from rlhf_audit_auditor.lane_watch import LaneWatch
from rlhf_audit_ledger.header import BatchFacts, SealHeader
from rlhf_audit_ledger.objects import SEGMENT, segment_name
from rlhf_audit_schemas.errors import FormatError

MAX_WAITING = 65_536  # duplicates held for one pass; memory must not grow with a producer that resends everything


@dataclass(slots=True)
class Duplicates:
    """Duplicates of one partition that wait for their comparison."""

    objects: Evidence
    watch: LaneWatch
    late: int = 0
    _waiting: dict[tuple[str, int, int, int], list[BatchFacts]] = field(default_factory=dict)
    _count: int = 0

    def add(self, facts: BatchFacts, window: int) -> None:
        """A duplicate seen in ``window``; what it repeats stands there or before."""
        self._waiting.setdefault(_key(facts), []).append(facts)
        self._count += 1
        if self._count >= MAX_WAITING:
            self.compare(window)

    def compare(self, window: int) -> None:
        """Compare all that wait with the accepted batches of windows 0 to ``window``."""
        if not self._waiting:
            return
        for accepted in self._accepted(window):
            for facts in self._waiting.pop(_key(accepted), ()):
                if facts.digest != accepted.digest:
                    self.watch.add_conflict(facts, accepted.digest)
        self.late += sum(map(len, self._waiting.values()))
        self._waiting.clear()
        self._count = 0

    def _accepted(self, window: int) -> Iterator[BatchFacts]:
        for number in range(window + 1):
            name = segment_name(self.watch.stream, self.watch.partition, number)
            data = self.objects.get(name)
            if data is None:
                continue
            try:
                headers: Iterable[SealHeader] = [SealHeader.decode(raw["header"]) for raw in SEGMENT.decode(name, data)]
            except FormatError:
                continue  # the first pass has said so
            for header in headers:
                if header.batch is not None and header.outcome in ("accepted", "gap_filled"):
                    yield header.batch


def _key(facts: BatchFacts) -> tuple[str, int, int, int]:
    return facts.producer, facts.epoch, facts.first_seq, facts.count
