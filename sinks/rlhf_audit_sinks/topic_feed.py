"""One assigned partition of a sink, and pauses that grow while somebody does not answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from confluent_kafka import Message

from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_sinks.sealed_windows import Window, WindowAssembler

FIRST_PAUSE_S = 0.2


@dataclass(slots=True)
class GrowingPause:
    """Twice as long each time, up to ``longest_s``, until ``end``. Times are of a monotonic clock."""

    longest_s: float
    until: float = 0.0
    _length_s: float = 0.0

    @property
    def is_on(self) -> bool:
        """Whether it was begun and did not end, over or not."""
        return self._length_s > 0

    def begin(self, now: float) -> None:
        """Begin, or go on for longer than before."""
        self._length_s = min(max(2 * self._length_s, FIRST_PAUSE_S), self.longest_s)
        self.until = now + self._length_s

    def end(self) -> None:
        """There was an answer."""
        self._length_s = 0.0


@dataclass(slots=True)
class Feed:
    """One assigned partition. ``assembler`` is None until it is placed; ``waiting`` is closed and not stored yet.

    ``next_offset`` and ``stored_offset`` are those of the topic. ``gap_at`` is the source offset whose record was
    missing once; the partition is then read ``is_from_the_start``. ``pause`` is on while its brokers do not say where
    it is.
    """

    settings: PartitionSettings
    assembler: WindowAssembler | None = None
    waiting: Window | None = None
    next_offset: int = 0
    stored_offset: int = 0
    gap_at: int | None = None
    is_from_the_start: bool = False
    pause: GrowingPause = field(default_factory=lambda: GrowingPause(20.0))  # the others are held up at each try
    backlog: deque[Message] = field(default_factory=deque)
