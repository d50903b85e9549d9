"""The seal loop of one partition: read, step, write; nothing else.

Written once over two small Protocols; local files are one pair of drivers, a
Kafka topic pair is another. The loop holds no rule: the rules are the pure
step in ``rlhf_audit_ledger.seal``. What it has appended is acknowledged only
after ``sealed.sync``; callers store and commit after that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer, seal_all
from rlhf_audit_ledger.state import SealState


class SourceReader(Protocol):
    """Messages of one partition in the order that was decided once."""

    @property
    def source_id(self) -> bytes:
        """16 bytes that name this log."""

    @property
    def next_offset(self) -> int:
        """Offset that the next message will get."""

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        """Messages from ``offset`` on, as far as they are durable. MUST give the same bytes at every call."""


class SealedWriter(Protocol):
    """Sealed records of one partition, numbered from 1 by m."""

    def append(self, records: Sequence[bytes]) -> object:
        """Append in order; durable only after ``sync``."""

    def sync(self) -> None:
        """MUST return only when everything appended is durable."""


class SealLoop:
    """Seals what is new in the source log. ``state`` is that after the last record appended.

    A switch of the source is the last message it seals: offsets of the state are then those of another log.
    """

    def __init__(self, sealer: Sealer, state: SealState, source: SourceReader, sealed: SealedWriter) -> None:
        self.sealer = sealer
        self.state = state
        self._source = source
        self._sealed = sealed

    @property
    def is_switched(self) -> bool:
        """Whether the partition goes on in another source log than this one."""
        return self.state.source_id != self._source.source_id

    @property
    def has_work(self) -> bool:
        """Whether the source log holds messages that are not sealed."""
        return not self.is_switched and self._source.next_offset > self.state.next_offset

    def run(self) -> Iterator[Sealed]:
        """Seal every message that is there, one by one; the caller syncs before it acts on a close."""
        source_id = self._source.source_id
        if self.state.source_id != source_id:
            return
        for message in self._source.read_from(self.state.next_offset):
            state, sealed = seal_all(self.sealer, self.state, message)
            self._sealed.append([one.record.encode() for one in sealed])
            self.state = state
            yield from sealed
            if self.state.source_id != source_id:
                return
