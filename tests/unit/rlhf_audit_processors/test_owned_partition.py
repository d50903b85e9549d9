"""One partition under one generation: order of acknowledgements, what Faust does not deliver, when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from builders import SOURCE_ID, START_US, TICKER, Lane, make_sealer, messages, sealed_from
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.state import first_state
from rlhf_audit_processors.kafka import owned as module
from rlhf_audit_processors.kafka.owned import FULL_INBOX, Delivered, Inbox, OwnedPartition
from rlhf_audit_processors.kafka.sealed_topic import MAX_IN_FLIGHT
from rlhf_audit_processors.kafka.ticks import TickClock
from rlhf_audit_processors.window_clock import Instant
from surroundings import Around

SEALER = make_sealer()
FIRST = first_state(SEALER.settings, SOURCE_ID)


@dataclass
class Event:
    offset: int
    acked: list[int]

    def ack(self) -> bool:
        self.acked.append(self.offset)
        return True


def source_of(count: int, *, without: Sequence[int] = (), nulls: Sequence[int] = ()) -> list[SourceMessage]:
    lane = Lane(SEALER.settings)
    all_of_them = messages([None if n in nulls else lane.cut().value for n in range(count)])
    return [message for message in all_of_them if message.offset not in without]


class Run:
    """An owned partition whose task runs while the test looks."""

    def __init__(self, around: Around) -> None:
        self.around = around
        clock = TickClock(SEALER.settings, TICKER, FIRST, Instant(START_US, 0))
        self.inbox = Inbox(around, SEALER.settings.stream.stream, SEALER.settings.partition)
        self.part = OwnedPartition(SEALER, FIRST, around, self.inbox, generation=1, clock=clock)
        self.acked: list[int] = []

    def deliver(self, deliveries: Sequence[SourceMessage]) -> None:
        for message in deliveries:
            self.inbox.put(Delivered(message, Event(message.offset, self.acked)))

    async def until(self, is_done: Callable[[], bool]) -> None:
        for _ in range(2000):
            if is_done():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not come to that")

    @property
    def records(self) -> list[bytes]:
        return [record for record, _ in self.around.sent]


def expected(source: Sequence[SourceMessage]) -> list[bytes]:
    return [one.record.encode() for one in sealed_from(SEALER, source)[1]]


def runs(test: Callable[[Run], Coroutine[Any, Any, None]], around: Around) -> None:
    async def main() -> None:
        run = Run(around)
        task = asyncio.ensure_future(run.part.run())
        try:
            await test(run)
            assert not task.done() or task.exception() is None
        finally:
            task.cancel()

    asyncio.run(main())


def test_messages_are_acknowledged_in_order_and_only_when_the_brokers_have_their_records() -> None:
    source = source_of(6)

    async def test(run: Run) -> None:
        run.deliver(source)
        await run.until(lambda: len(run.records) == 6)
        assert run.records == expected(source)
        futures = [future for _, future in run.around.sent]
        for late in (1, 2, 5):
            futures[late].set_result(None)
        run.part.settle()
        assert run.acked == []
        futures[0].set_result(None)
        run.part.settle()
        assert run.acked == [0, 1, 2]
        assert len(run.around.counted) == 3
        futures[3].set_exception(RuntimeError("the broker said no"))
        futures[4].set_result(None)
        with pytest.raises(RuntimeError, match="said no"):
            run.part.settle()
        assert run.acked == [0, 1, 2]

    runs(test, Around(source, is_slow=True))


def test_what_was_sealed_before_is_acknowledged_and_not_sent_again() -> None:
    source = source_of(4)

    async def test(run: Run) -> None:
        run.deliver([*source, *source[:2]])
        await run.until(lambda: len(run.records) == 4 and run.part.waiting == 0)
        await asyncio.sleep(0)
        run.part.settle()
        assert run.acked == [0, 1, 2, 3, 0, 1]
        assert run.records == expected(source)

    runs(test, Around(source))


def test_offsets_that_were_passed_over_are_read_and_sealed_first() -> None:
    """Nulls 2, 3, 4, 7 were swallowed; nothing stands at 8 and 9."""
    source = source_of(12, without=(8, 9), nulls=(2, 3, 4, 7))

    async def test(run: Run) -> None:
        run.deliver([message for message in source if message.value is not None])
        await run.until(lambda: len(run.records) == len(expected(source)))
        assert run.records == expected(source)
        run.part.settle()
        assert run.acked == [message.offset for message in source if message.value is not None]

    runs(test, Around(source))


def test_what_nobody_delivers_is_sealed_when_the_partition_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.001)
    source = source_of(5, nulls=(3, 4))

    async def test(run: Run) -> None:
        run.deliver(source[:3])
        await run.until(lambda: len(run.records) == 3)
        run.around.end = 7  # 5 and 6 hold nothing: a hole ends where a message is seen, so they wait for one
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert run.records == expected(source)
        assert len(run.around.read) <= 3
        run.part.settle()
        assert run.acked == [0, 1, 2]

    runs(test, Around(source))


def test_nothing_is_sent_under_another_generation() -> None:
    source = source_of(4)

    async def test(run: Run) -> None:
        run.deliver(source[:2])
        await run.until(lambda: len(run.records) == 2)
        run.around.generation = 2
        run.deliver(source[2:])
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(run.records) == 2

    runs(test, Around(source))


def test_it_waits_for_the_brokers_and_stops_fetching_meanwhile() -> None:
    source = source_of(MAX_IN_FLIGHT + FULL_INBOX + 10)

    async def test(run: Run) -> None:
        run.deliver(source)
        assert run.around.paused == [True]
        await run.until(lambda: len(run.records) == MAX_IN_FLIGHT)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(run.records) == MAX_IN_FLIGHT
        run.around.is_slow = False
        for _, future in run.around.sent:
            future.set_result(None)
        while run.part.waiting:
            run.part.settle()
            await asyncio.sleep(0)
        await run.until(lambda: len(run.records) == len(source))
        run.part.settle()
        assert run.acked == list(range(len(source)))
        assert run.around.paused == [True, False]
        assert run.records == expected(source)

    runs(test, Around(source, is_slow=True))
