"""``owned.Surroundings`` without brokers: what a partition that is sealed asks of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed


@dataclass
class Around:
    """The worker's side: brokers that acknowledge when told, a source that can be read in full."""

    source: Sequence[SourceMessage]
    is_slow: bool = False
    generation: int = 1
    end: int | None = None
    sent: list[tuple[bytes, asyncio.Future[object]]] = field(default_factory=list)
    counted: list[Sealed] = field(default_factory=list)
    read: list[tuple[int, int]] = field(default_factory=list)
    paused: list[bool] = field(default_factory=list)

    def is_current(self, generation: int) -> bool:
        return generation == self.generation

    async def send(self, stream: str, partition: int, record: bytes) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if not self.is_slow:
            future.set_result(None)
        self.sent.append((record, future))
        return future

    async def read_source(self, stream: str, partition: int, first: int, end: int) -> Sequence[SourceMessage]:
        self.read.append((first, end))
        return [message for message in self.source if first <= message.offset < end][:2]

    def highwater(self, stream: str, partition: int) -> int | None:
        return self.end

    def pause(self, stream: str, partition: int, is_paused: bool) -> None:
        self.paused.append(is_paused)

    def wake_acker(self) -> None:
        """Tests settle by hand."""

    def settled(self, stream: str, partition: int, records: Sequence[Sealed]) -> None:
        self.counted += records
