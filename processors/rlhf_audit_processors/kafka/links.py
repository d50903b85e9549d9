"""What partitions ask of the brokers: records in line, source messages read plainly, fetching paused, counting.

Implements ``owned.Surroundings`` over Faust's clients and the plain reader.
Brokers that do not answer are asked again, for ever: nothing is lost while a
partition waits, and its generation ends the waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_processors.kafka.sealed_topic import as_sealed
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.errors import BrokerError
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import OffsetsGoneError, PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import RecordName

logger = logging.getLogger(__name__)

RETRY_S = 0.5
_READ_MESSAGES, _READ_BYTES = 256, 16 << 20  # of one call of the plain reader
_HOLDS_EVENTS = ("accepted", "gap_filled")


class Links:
    """One worker's way to the brokers. ``app`` is a Faust app that has started."""

    def __init__(
        self, app: Any, kafka: KafkaSettings, header: Callable[[bytes, RecordName], bytes], health: WorkerHealth
    ) -> None:
        self.app, self._kafka, self._header, self._health = app, kafka, header, health
        self.done = asyncio.Event()  # something can be acknowledged
        # As many as partitions may wait for a leader that is gone, or others would wait behind them.
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="seal-read")

    def is_current(self, generation: int) -> bool:
        """Whether the group still has this generation."""
        return bool(self.app.consumer_generation_id == generation)

    async def send(self, stream: str, partition: int, record: bytes) -> asyncio.Future[object]:
        """Put a sealed record in line."""
        value = self._header(record, "SealedRecord")
        return await self._produce(sealed_topic(self._kafka.topic_prefix, stream), partition, value)

    async def send_tick(self, stream: str, partition: int, tick: bytes) -> None:
        """Write a tick into the source partition; returns when the brokers have it."""
        topic = source_topic(self._kafka.topic_prefix, stream)
        await (await self._produce(topic, partition, self._header(tick, "Control")))

    async def _produce(self, topic: str, partition: int, value: bytes) -> asyncio.Future[object]:
        from aiokafka.errors import KafkaTimeoutError

        producer: Any = self.app.producer
        while True:
            try:
                future = await producer.send(topic, None, value, partition, None, None)
            except Exception as error:
                if not isinstance(error.__cause__, KafkaTimeoutError):
                    raise
                logger.warning("%s[%d]: the brokers take nothing; trying again", topic, partition)
                continue  # nothing was put in line: the same record comes next
            future.add_done_callback(lambda _: self.done.set())
            return cast("asyncio.Future[object]", future)

    async def read_source(self, stream: str, partition: int, first: int, end: int) -> Sequence[SourceMessage]:
        """Messages by the plain reader; asked again while the brokers do not answer."""
        generation = self.app.consumer_generation_id
        while self.is_current(generation):
            try:
                found: list[SourceMessage] = await self.in_thread(self._read_some, stream, partition, first, end)
                return found
            except AuditTrailError as error:
                if not error.retriable:
                    raise
                logger.warning("%s/%d: %s; trying again", stream, partition, error)
                await asyncio.sleep(RETRY_S)
        return ()

    def _read_some(self, stream: str, partition: int, first: int, end: int) -> list[SourceMessage]:
        found: list[SourceMessage] = []
        size = 0
        topic = source_topic(self._kafka.topic_prefix, stream)
        with PartitionTail(self._kafka, topic, partition) as tail:
            at = max(first, tail.watermarks()[0])
            while at < end and not found:
                try:
                    for message in tail.read(at, end):
                        found.append(as_sealed(message))
                        size += len(message.value or b"")
                        if len(found) >= _READ_MESSAGES or size >= _READ_BYTES:
                            break
                    break
                except OffsetsGoneError as error:
                    # Deleted before they were sealed: what comes next makes them a hole, and those alone.
                    low = tail.watermarks()[0]
                    if low <= at and not found:
                        raise BrokerError(f"{topic}[{partition}]: offset {at} is there and is not served") from error
                    at = low
        return found

    def highwater(self, stream: str, partition: int) -> int | None:
        """Offset that the next source message will get, as the last answer to a fetch said."""
        from faust.types import TP

        consumer: Any = self.app.consumer
        topic = source_topic(self._kafka.topic_prefix, stream)
        try:
            return cast("int | None", consumer.highwater(TP(topic, partition)))
        except Exception:  # noqa: BLE001 - not assigned any more, or nothing fetched yet
            return None

    def pause(self, stream: str, partition: int, is_paused: bool) -> None:
        """Stop or go on fetching."""
        from faust.types import TP

        consumer: Any = self.app.consumer
        places = {TP(source_topic(self._kafka.topic_prefix, stream), partition)}
        if is_paused:
            consumer.pause_partitions(places)
        else:
            consumer.resume_partitions(places)

    def wake_acker(self) -> None:
        """Something can be acknowledged."""
        self.done.set()

    def settled(self, stream: str, partition: int, records: Sequence[Sealed]) -> None:
        """Count what the brokers have."""
        for one in records:
            self._health.sealed_messages.labels(stream, str(partition), one.header.outcome).inc()
            if one.header.batch is not None and one.header.outcome in _HOLDS_EVENTS:
                self._health.sealed_events.labels(stream, str(partition)).inc(one.header.batch.count)

    async def go_to(self, offsets: dict[tuple[str, int], int]) -> None:
        """Make Faust read on from these offsets: it seeks to what is committed."""
        from faust.types import TP

        prefix = self._kafka.topic_prefix
        if offsets:
            await self.app.consumer._commit(
                {TP(source_topic(prefix, stream), number): at for (stream, number), at in offsets.items()}
            )

    async def in_thread(self, call: Callable[..., Any], *arguments: object) -> Any:
        """Call what may block."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments))
