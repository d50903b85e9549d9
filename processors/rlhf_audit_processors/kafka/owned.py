"""One partition while this worker owns it: messages in, sealed records out, acknowledged in order.

A task of its own for each partition, so that a partition whose leader is gone
holds up nobody else:

1. Take the next message; if offsets were passed over, read them with a plain reader first: Faust does not deliver
   null values reliably, and never what is not there.
2. Seal it by the loop that every driver uses, and send the records.
3. Go on while they are under way, up to ``MAX_IN_FLIGHT``. ``settle`` acknowledges those that the brokers have.

It stops without a word when the group's generation is another one: then
somebody else may own the partition.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_ledger.state import SealState
from rlhf_audit_processors.kafka.sealed_topic import MAX_IN_FLIGHT
from rlhf_audit_processors.kafka.ticks import TickClock
from rlhf_audit_processors.seal_loop import SealLoop

logger = logging.getLogger(__name__)

MAX_BYTES_IN_FLIGHT = 16 << 20
STALL_S = 1.0  # nothing came for so long though the partition goes on: look at what Faust does not deliver
# Of messages that wait: fetching pauses at the first and goes on at the second.
FULL_INBOX, EMPTY_INBOX = 256, 64
FULL_INBOX_BYTES, EMPTY_INBOX_BYTES = 8 << 20, 2 << 20


class Acknowledged(Protocol):
    """A delivered message that can be acknowledged (``faust.types.EventT``)."""

    def ack(self) -> bool:
        """Called once, when every record of the message and of all before it is stored by the brokers."""


class Surroundings(Protocol):
    """What a partition needs of its worker."""

    def is_current(self, generation: int) -> bool:
        """Whether the group still has this generation."""

    async def send(self, stream: str, partition: int, record: bytes) -> asyncio.Future[object]:
        """Put a sealed record in line, behind all before it; the future ends when the brokers have it."""

    async def read_source(self, stream: str, partition: int, first: int, end: int) -> Sequence[SourceMessage]:
        """Messages of [first, end) by a plain reader, nulls included, from the first on; perhaps not all at once."""

    def highwater(self, stream: str, partition: int) -> int | None:
        """Offset that the partition's next message will get, as far as known."""

    def pause(self, stream: str, partition: int, is_paused: bool) -> None:
        """Fetch no more messages of this partition, or go on."""

    def wake_acker(self) -> None:
        """Something can be acknowledged."""

    def settled(self, stream: str, partition: int, records: Sequence[Sealed]) -> None:
        """Records that the brokers have, for the metrics."""


class _Handed:
    """``SourceReader`` over the messages handed to it, one at a time."""

    def __init__(self, source_id: bytes) -> None:
        self.source_id = source_id
        self.next_offset = 0
        self._message: SourceMessage | None = None

    def hand(self, message: SourceMessage) -> None:
        self._message, self.next_offset = message, message.offset + 1

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        message, self._message = self._message, None
        if message is not None and message.offset >= offset:
            yield message


class _Collected:
    """``SealedWriter`` whose records wait to be sent."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def append(self, records: Iterable[bytes]) -> None:
        self.records.extend(records)

    def sync(self) -> None:
        """The brokers' acknowledgement is awaited by whoever acknowledges."""


@dataclass(slots=True)
class _UnderWay:
    futures: Sequence[asyncio.Future[object]]
    event: Acknowledged | None
    sealed: Sequence[Sealed]
    size: int


@dataclass(slots=True)
class Delivered:
    """One message as Faust brought it."""

    message: SourceMessage
    event: Acknowledged | None


@dataclass(slots=True)
class _Window:
    """Bytes of source values in the open window, so that it can be closed before it fills a sink's memory."""

    number: int = -1
    size: int = 0

    def add(self, number: int, size: int) -> None:
        self.size = size if number != self.number else self.size + size
        self.number = number


class Inbox:
    """Messages that Faust brought and nobody sealed yet; fetching pauses while there are many.

    It is there before the partition's state is: what comes meanwhile waits, within the same bound.
    """

    def __init__(self, around: Surroundings, stream: str, partition: int) -> None:
        self._around, self._stream, self._partition = around, stream, partition
        self._waiting: deque[Delivered] = deque()
        self._bytes = 0
        self._is_paused = False
        self.arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, delivered: Delivered) -> None:
        """Take a message from the agent; never waits."""
        self._waiting.append(delivered)
        self._bytes += len(delivered.message.value or b"")
        self.arrived.set()
        if not self._is_paused and (len(self._waiting) >= FULL_INBOX or self._bytes >= FULL_INBOX_BYTES):
            self._pause(True)

    def pop_oldest(self) -> Delivered:
        """The oldest message. Raises IndexError if there is none."""
        delivered = self._waiting.popleft()
        self._bytes -= len(delivered.message.value or b"")
        if self._is_paused and len(self._waiting) <= EMPTY_INBOX and self._bytes <= EMPTY_INBOX_BYTES:
            self._pause(False)
        return delivered

    def _pause(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        self._around.pause(self._stream, self._partition, is_paused)


class OwnedPartition:
    """The sealing of one partition under one generation of the group."""

    def __init__(
        self, sealer: Sealer, state: SealState, around: Surroundings, inbox: Inbox, *, generation: int, clock: TickClock
    ) -> None:
        self.settings = sealer.settings
        self.stream, self.partition = sealer.settings.stream.stream, sealer.settings.partition
        self.generation, self.clock = generation, clock
        self._around = around
        self._source, self._collected = _Handed(state.source_id), _Collected()
        self._loop = SealLoop(sealer, state, self._source, self._collected)
        self._inbox = inbox
        self._under_way: deque[_UnderWay] = deque()
        self._bytes_under_way = 0
        self._room = asyncio.Event()
        self._is_running = self._is_finishing = False
        self._looked_up_to = 0
        self._window = _Window()

    @property
    def state(self) -> SealState:
        """State after the last message sealed; its records may still be under way."""
        return self._loop.state

    @property
    def window_bytes(self) -> int:
        """Bytes of source values in the open window, as far as we sealed them."""
        return self._window.size if self._window.number == self.state.window_id else 0

    @property
    def is_at_work(self) -> bool:
        """Whether its task runs and goes on."""
        return self._is_running and not self._is_finishing

    def finish(self) -> None:
        """Seal nothing more; what is under way can still be acknowledged."""
        self._is_finishing = True
        self._inbox.arrived.set()

    @property
    def waiting(self) -> int:
        """Messages delivered and not sealed."""
        return len(self._inbox)

    def settle(self) -> None:
        """Acknowledge what the brokers have, in the order of offsets. Raises what sending raised.

        Called by the worker's one acker, and by nobody else.
        """
        while self._under_way and all(future.done() for future in self._under_way[0].futures):
            done = self._under_way.popleft()
            for future in done.futures:
                future.result()
            self._bytes_under_way -= done.size
            self._around.settled(self.stream, self.partition, done.sealed)
            if done.event is not None:
                done.event.ack()
            self._room.set()

    def futures(self) -> list[asyncio.Future[object]]:
        """Of the records under way."""
        return [future for waiting in self._under_way for future in waiting.futures]

    async def run(self) -> None:
        """Seal until the generation ends. Whatever it raises must end the process."""
        self._is_running = True
        while self._around.is_current(self.generation) and not self._is_finishing:
            if not self._inbox:
                await self._wait_for_more()
                continue
            delivered = self._inbox.pop_oldest()
            if delivered.message.offset > self.state.next_offset and not await self._read_up_to(
                delivered.message.offset
            ):
                return
            if not await self._seal(delivered.message, delivered.event):
                return

    async def _wait_for_more(self) -> None:
        self._inbox.arrived.clear()
        try:
            await asyncio.wait_for(self._inbox.arrived.wait(), STALL_S)
        except TimeoutError:
            await self._look_for_undelivered()

    async def _look_for_undelivered(self) -> None:
        """Seal null values and all else that stands in the partition and was never brought to us."""
        end = self._around.highwater(self.stream, self.partition)
        if end is None or end <= max(self.state.next_offset, self._looked_up_to) or self._loop.is_switched:
            return
        await self._read_up_to(end)
        self._looked_up_to = end  # what is left has no message behind it yet: a hole ends where one is seen

    async def _read_up_to(self, end: int) -> bool:
        """Seal the messages of [next offset, end) by the plain reader. Returns False if the generation is over."""
        first = self.state.next_offset
        while first < end:
            messages = await self._around.read_source(self.stream, self.partition, first, end)
            if not messages:
                return True
            logger.info(
                "%s: %d messages from offset %d on were read by the plain reader",
                self.settings.name,
                len(messages),
                first,
            )
            for message in messages:
                if not await self._seal(message, None):
                    return False
            first = messages[-1].offset + 1
        return True

    async def _seal(self, message: SourceMessage, event: Acknowledged | None) -> bool:
        if self._is_finishing or not self._around.is_current(self.generation):
            return False
        self._source.hand(message)
        window = self.state.window_id
        sealed = list(self._loop.run())  # nothing for what was sealed before: then the event alone waits for its turn
        records, self._collected.records = self._collected.records, []
        self._window.add(window, len(message.value or b""))
        size = sum(map(len, records))
        futures = [await self._around.send(self.stream, self.partition, record) for record in records]
        self._under_way.append(_UnderWay(futures, event, sealed, size))
        self._bytes_under_way += size
        if not futures:
            self._around.wake_acker()
        while len(self._under_way) >= MAX_IN_FLIGHT or self._bytes_under_way >= MAX_BYTES_IN_FLIGHT:
            self._room.clear()
            await self._room.wait()
        return True
