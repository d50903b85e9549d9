"""What a producer records into: the durable front of a ledger, seen from the recording side.

The one-process runtime implements it over local source logs; ``memory_recorder``
is the one for tests. A producer decides what is said and under which numbers;
order among producers, sealing and storing are the recorder's. Nothing here
reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlhf_audit_stores.epochs import Epoch

__all__ = ["Epoch", "EventCounts", "LaneView", "Recorder"]


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane as the sealed state knows it."""

    stream: str
    partition: int
    epoch: int
    next_seq: int
    ended: bool


EventCounts = Mapping[tuple[str, int, str], int]
"""(stream, partition, kind name) -> sealed events."""


class Recorder(Protocol):
    """Durable front of one ledger, used by one thread."""

    @property
    def ledger_id(self) -> bytes:
        """The 16 bytes that every batch names."""

    @property
    def routing_key(self) -> bytes:
        """Secret key of ``rlhf_audit_ledger.ids.partition_of``."""

    @property
    def partitions(self) -> Mapping[str, int]:
        """Stream -> number of partitions, as in the genesis."""

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        """Put source values behind one another into a source log. MUST keep their order; need not be durable yet."""

    def work(self) -> None:
        """Make everything appended durable, seal it, store the windows that are complete."""

    def drain(self) -> None:
        """Return when everything appended is sealed and stored."""

    def take_epoch(self, producer: str) -> Epoch:
        """Take the next epoch of a producer. MUST be exclusive and durable: no number is ever handed out twice."""

    def last_epoch(self, producer: str) -> int | None:
        """The highest epoch ever taken, or None if this producer was never here."""

    def lanes_of(self, producer: str) -> Sequence[LaneView]:
        """Its newest lane in each partition, as sealed; a lane that has ended MUST stay listed, as ended."""

    def delivered(self, producer: str) -> EventCounts:
        """Sealed events of this producer over all its epochs; scans the stored headers, so only a restart asks."""
