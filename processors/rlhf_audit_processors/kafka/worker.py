"""The worker process of ``rlhf-audit seal``: a Faust app, the partitions it owns, one acker, ticks, a clean end.

The order of a takeover, in ``on_rebalance_complete``:

1. Everything of the old generation stops; what is still under way is waited for, shortly.
2. State of each partition is read back from objects and sealed topic (``taking_over``), in parallel.
3. Its next offset is committed, so that Faust goes there: the group's own offsets are hints.
4. Its task starts.

A partition that cannot be taken over for a reason a person has to look at is
left alone, loudly, and the others go on. Any other surprise ends the process
before anything is acknowledged; whoever supervises it starts it again.

On SIGTERM open windows are closed by a flush tick, and what is under way is
finished, within a bound.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_ledger.state import SealState
from rlhf_audit_processors.kafka.faust_app import Patience, make_app
from rlhf_audit_processors.kafka.global_head import READ_EVERY_S, GlobalHead, TickSource
from rlhf_audit_processors.kafka.owned import Acknowledged, Delivered, OwnedPartition
from rlhf_audit_processors.kafka.sealed_topic import ForkedTopicError, as_sealed
from rlhf_audit_processors.kafka.taking_over import take_over
from rlhf_audit_processors.kafka.ticks import TickClock
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import OffsetsGoneError, PartitionTail
from rlhf_audit_stores.kafka.topics import TopicFacts, sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import RecordName
from rlhf_audit_stores.objects import ObjectStore

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

CRASHED = 3  # exit status: could not go on; started again it reads its state back
DRAIN_S = 5.0  # for flush ticks to come back and records to be acknowledged
STOP_S = 10.0  # for Faust to leave; then the process ends anyway
_TURN_S = 0.1
_READ_MESSAGES, _READ_BYTES = 256, 16 << 20  # of one call of the plain reader
_RETRY_S = 0.5
_LAST_FLIGHT_S = 3.0
_US = 1_000_000
_HOLDS_EVENTS = ("accepted", "gap_filled")
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class SealPlan:
    """Everything a worker is told: where the brokers are, whose partitions it seals, with which keys."""

    kafka: KafkaSettings
    sealers: Mapping[Place, Sealer]
    ticker: Signer
    topics: Mapping[str, TopicFacts]
    objects: ObjectStore
    heads: TickSource
    header: Callable[[bytes, RecordName], bytes]
    data_dir: Path
    instance: str | None = None
    patience: Patience = field(default_factory=Patience)
    should_stop: Callable[[], bool] = lambda: False


def run_worker(plan: SealPlan, health: WorkerHealth) -> int:
    """Seal until SIGTERM or SIGINT. Returns 0 then; a crash ends the process with ``CRASHED``."""
    return asyncio.run(SealWorker(plan, health).run())


class SealWorker:
    """One process' share of the partitions."""

    def __init__(self, plan: SealPlan, health: WorkerHealth, *, now_us: Callable[[], int] | None = None) -> None:
        self._plan, self._health = plan, health
        self._now_us = now_us or (lambda: time.time_ns() // 1000)
        self._owned: dict[Place, OwnedPartition] = {}
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._refused: dict[Place, str] = {}
        self._done = asyncio.Event()
        self._stop = asyncio.Event()
        self._head: GlobalHead | None = None
        self._head_read = 0.0
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="seal-read")
        self._streams = {source_topic(plan.kafka.topic_prefix, stream): stream for stream in plan.topics}

    async def run(self) -> int:
        """The whole life of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._plan.data_dir.mkdir(parents=True, exist_ok=True)
        self._app = make_app(
            self._plan.kafka,
            instance=self._plan.instance,
            patience=self._plan.patience,
            data_dir=str(self._plan.data_dir),
        )
        app: Any = self._app
        topic = app.topic(*self._streams, value_serializer="raw", key_serializer="raw")
        app.agent(topic, name="seal")(self._agent)
        app.on_rebalance_complete.connect(self._on_rebalance_complete, weak=False)
        app.on_partitions_revoked.connect(self._on_partitions_revoked, weak=False)
        app.finalize()
        await self._starting(app)
        acker = self._guarded(self._acknowledge(), "acker")
        try:
            while not self._stop.is_set():
                await self._turn()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _TURN_S)
            await self._drain()
        finally:
            acker.cancel()
        self._health.ready(False, "stopping")
        return await self._leave(app)

    async def _starting(self, app: Any) -> None:
        """Brokers that do not answer must not keep a worker from ending."""
        starting, stopping = asyncio.ensure_future(app.start()), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done() and (error := starting.exception()) is not None:
            self._die("start", error)

    async def _leave(self, app: Any) -> int:
        self._stop_all()
        try:
            await asyncio.wait_for(app.stop(), STOP_S)
        except Exception as error:  # noqa: BLE001 - everything is acknowledged or will be sealed again
            logger.warning("the Kafka clients did not stop in order: %s", type(error).__name__)
        logger.info("stopped")
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)  # threads of the clients must not hold up the end

    # --- what Faust calls

    async def _agent(self, stream: Any) -> None:
        """Route messages to their partitions; nothing is acknowledged here."""
        async for event in stream.noack().events():
            message = event.message
            owned = self._owned.get((self._streams[message.topic], message.partition))
            if owned is None or message.generation_id != owned.generation:
                continue
            found = SourceMessage(message.offset, _time_us(message.timestamp), message.value)
            owned.deliver(Delivered(as_sealed(found), cast(Acknowledged, event)))

    async def _on_partitions_revoked(self, *_: object, **__: object) -> None:
        self._stop_all()

    async def _on_rebalance_complete(self, *_: object, **__: object) -> None:
        try:
            await self._take_over()
        except Exception as error:  # noqa: BLE001 - the process boundary
            self._die("taking over", error)

    # --- taking over

    async def _take_over(self) -> None:
        app: Any = self._app
        generation = app.consumer_generation_id
        flying = [future for owned in self._owned.values() for future in owned.futures() if not future.done()]
        self._stop_all()
        self._owned.clear()
        self._refused.clear()
        if flying:  # read back what they become rather than seal it again
            await asyncio.wait(flying, timeout=_LAST_FLIGHT_S)
        places = sorted((self._streams[tp.topic], tp.partition) for tp in app.consumer.assignment())
        began = time.monotonic()
        states = await asyncio.gather(*(self._state_of(place, generation) for place in places))
        if not self.is_current(generation):
            return  # this runs again for the newer one
        self._head_read = 0.0  # ticks of the owner before us named what it saw: ours must not name less
        taken = {place: state for place, state in zip(places, states, strict=True) if state is not None}
        for place, state in taken.items():
            clock = TickClock(self._plan.sealers[place].settings, self._plan.ticker, state, self._now_us())
            self._owned[place] = OwnedPartition(
                self._plan.sealers[place], state, self, generation=generation, clock=clock
            )
        await self._go_to(app, {place: state.next_offset for place, state in taken.items()})
        if not self.is_current(generation):
            return
        for place, owned in self._owned.items():
            self._tasks[place] = self._guarded(owned.run(), owned.settings.name)
        logger.info(
            "generation %s: %d partitions taken over in %.2f s", generation, len(taken), time.monotonic() - began
        )
        self._say_whether_ready()

    async def _state_of(self, place: Place, generation: int) -> SealState | None:
        """State of a partition; asked again while brokers or store do not answer. None if it must not be sealed."""
        while self.is_current(generation) and not self._stop.is_set():
            try:
                state: SealState = await self._in_thread(self._read_state, place)
                return state
            except ForkedTopicError as error:
                self._health.forks.labels("seal").inc()
                self._refuse(place, error)
                return None
            except AuditTrailError as error:
                if not error.retriable and not isinstance(error, OffsetsGoneError):  # gone while it was read
                    self._refuse(place, error)
                    return None
                logger.warning("%s/%d: %s; trying again", *place, error)
                self._health.ready(False, "brokers or object store do not answer")
            except OSError as error:
                logger.warning("%s/%d: object store: %s; trying again", *place, type(error).__name__)
                self._health.ready(False, "the object store does not answer")
            await asyncio.sleep(_RETRY_S)
        return None

    def _refuse(self, place: Place, error: AuditTrailError) -> None:
        logger.error("%s/%d is not sealed: %s", *place, error)
        self._refused[place] = f"{place[0]}/{place[1]} is not sealed: a person has to look at it"

    def _read_state(self, place: Place) -> SealState:
        prefix, (stream, number) = self._plan.kafka.topic_prefix, place
        with (
            PartitionTail(self._plan.kafka, sealed_topic(prefix, stream), number) as sealed,
            PartitionTail(self._plan.kafka, source_topic(prefix, stream), number) as source,
        ):
            return take_over(
                self._plan.sealers[place], self._plan.objects, sealed, source, self._plan.topics[stream].source_id
            )

    async def _go_to(self, app: Any, offsets: Mapping[Place, int]) -> None:
        """Make Faust read on from these offsets: it seeks to what is committed."""
        from faust.types import TP

        prefix = self._plan.kafka.topic_prefix
        if offsets:
            await app.consumer._commit(
                {TP(source_topic(prefix, place[0]), place[1]): at for place, at in offsets.items()}
            )

    def _stop_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    # --- what a partition asks for (owned.Surroundings)

    def is_current(self, generation: int) -> bool:
        """Whether the group still has this generation."""
        return bool(cast(Any, self._app).consumer_generation_id == generation)

    async def send(self, stream: str, partition: int, record: bytes) -> asyncio.Future[object]:
        """Put a sealed record in line."""
        value = self._plan.header(record, "SealedRecord")
        return await self._produce(sealed_topic(self._plan.kafka.topic_prefix, stream), partition, value)

    async def _produce(self, topic: str, partition: int, value: bytes) -> asyncio.Future[object]:
        from aiokafka.errors import KafkaTimeoutError

        producer: Any = self._app.producer
        while True:
            try:
                future = await producer.send(topic, None, value, partition, None, None)
            except Exception as error:
                if not isinstance(error.__cause__, KafkaTimeoutError):
                    raise
                logger.warning("%s[%d]: the brokers take nothing; trying again", topic, partition)
                continue  # nothing was put in line: the same record comes next
            future.add_done_callback(lambda _: self._done.set())
            return cast("asyncio.Future[object]", future)

    async def read_source(self, stream: str, partition: int, first: int, end: int) -> Sequence[SourceMessage]:
        """Messages by the plain reader; asked again while the brokers do not answer."""
        generation = cast(Any, self._app).consumer_generation_id
        while self.is_current(generation):
            try:
                found: list[SourceMessage] = await self._in_thread(self._read_some, stream, partition, first, end)
                return found
            except AuditTrailError as error:
                if not error.retriable:
                    raise
                logger.warning("%s/%d: %s; trying again", stream, partition, error)
                await asyncio.sleep(_RETRY_S)
        return ()

    def _read_some(self, stream: str, partition: int, first: int, end: int) -> list[SourceMessage]:
        found: list[SourceMessage] = []
        size = 0
        topic = source_topic(self._plan.kafka.topic_prefix, stream)
        # Gone: deleted before they were sealed. What comes next makes them a hole.
        with PartitionTail(self._plan.kafka, topic, partition) as tail, suppress(OffsetsGoneError):
            for message in tail.read(max(first, tail.watermarks()[0]), end):
                found.append(as_sealed(message))
                size += len(message.value or b"")
                if len(found) >= _READ_MESSAGES or size >= _READ_BYTES:
                    break
        return found

    def highwater(self, stream: str, partition: int) -> int | None:
        """Offset that the next source message will get, as the last answer to a fetch said."""
        from faust.types import TP

        consumer: Any = self._app.consumer
        topic = source_topic(self._plan.kafka.topic_prefix, stream)
        try:
            return cast("int | None", consumer.highwater(TP(topic, partition)))
        except Exception:  # noqa: BLE001 - not assigned any more, or nothing fetched yet
            return None

    def pause(self, stream: str, partition: int, is_paused: bool) -> None:
        """Stop or go on fetching."""
        from faust.types import TP

        consumer: Any = self._app.consumer
        places = {TP(source_topic(self._plan.kafka.topic_prefix, stream), partition)}
        if is_paused:
            consumer.pause_partitions(places)
        else:
            consumer.resume_partitions(places)

    def wake_acker(self) -> None:
        """Something can be acknowledged."""
        self._done.set()

    def settled(self, stream: str, partition: int, records: Sequence[Sealed]) -> None:
        """Count what the brokers have."""
        for one in records:
            self._health.sealed_messages.labels(stream, str(partition), one.header.outcome).inc()
            if one.header.batch is not None and one.header.outcome in _HOLDS_EVENTS:
                self._health.sealed_events.labels(stream, str(partition)).inc(one.header.batch.count)

    # --- the acker, the turns, the end

    async def _acknowledge(self) -> None:
        """The one place where messages are acknowledged."""
        while True:
            await self._done.wait()
            self._done.clear()
            for owned in list(self._owned.values()):
                owned.settle()

    async def _turn(self) -> None:
        app: Any = self._app
        if app.crashed or getattr(app, "should_stop", False):
            self._die("Faust", app._crash_reason or RuntimeError("Faust stopped"))
        if self._plan.should_stop():
            self._stop.set()
        self._health.alive()
        await self._write_ticks(is_draining=False)
        self._measure()

    def _measure(self) -> None:
        now_us = self._now_us()
        for (stream, number), owned in self._owned.items():
            end = self.highwater(stream, number)
            lag = owned.waiting if end is None else max(0, end - owned.state.next_offset)
            self._health.seal_lag_messages.labels(stream, str(number)).set(lag)
            age_us = owned.clock.age_us(owned.state, now_us)
            self._health.window_age_seconds.labels(stream, str(number)).set(age_us / _US)

    async def _write_ticks(self, *, is_draining: bool) -> None:
        await self._read_head()
        if self._head is None:
            return
        now_us = self._now_us()
        for (stream, number), owned in self._owned.items():
            if not self.is_current(owned.generation) or not self._tasks:
                return
            tick = owned.clock.due(
                owned.state, now_us, self._head, window_bytes=owned.window_bytes, is_draining=is_draining
            )
            if tick is not None:
                value = self._plan.header(tick, "Control")
                topic = source_topic(self._plan.kafka.topic_prefix, stream)
                self._guarded(self._write_tick(topic, number, value, owned), f"tick of {owned.settings.name}")

    async def _write_tick(self, topic: str, number: int, value: bytes, owned: OwnedPartition) -> None:
        """One tick is under way at a time; one that failed is written anew, with a new time."""
        try:
            await (await self._produce(topic, number, value))
        except Exception as error:  # noqa: BLE001 - a tick that is lost costs time and nothing else
            logger.warning("%s: a tick was not written: %s", owned.settings.name, type(error).__name__)
            owned.clock.forget()

    async def _read_head(self) -> None:
        now = time.monotonic()
        if self._head is not None and now - self._head_read < READ_EVERY_S:
            return
        try:
            self._head = await self._in_thread(self._plan.heads.read)
            self._head_read = now
        except (AuditTrailError, OSError) as error:
            logger.warning("global log: %s; windows wait for it", error)
            self._head, self._head_read = None, now

    async def _drain(self) -> None:
        """Close the open windows and finish what is under way."""
        logger.info("draining")
        deadline = time.monotonic() + DRAIN_S
        self._head_read = 0.0
        while time.monotonic() < deadline:
            await self._write_ticks(is_draining=True)
            now_us = self._now_us()
            if all(
                owned.is_idle and not owned.clock.is_under_way(owned.state, now_us) for owned in self._owned.values()
            ):
                return
            self._health.alive()
            await asyncio.sleep(_TURN_S / 2)

    def _say_whether_ready(self) -> None:
        reason = next(iter(self._refused.values()), "")
        self._health.ready(not reason, reason)

    async def _in_thread(self, call: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments))

    def _guarded(self, work: Any, name: str) -> asyncio.Task[None]:
        """A task whose failure ends the process."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)

        def look(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                self._die(name, error)

        task.add_done_callback(look)
        return task

    def _die(self, where: str, error: BaseException) -> None:
        """End at once, before anything else is acknowledged: no finaliser of Faust runs."""
        text = str(error) if isinstance(error, AuditTrailError) else type(error).__name__
        logger.critical("%s: %s; this worker ends and reads its state back when it is started again", where, text)
        if os.environ.get("RLHF_AUDIT_DEBUG") == "1":
            logger.critical("because of", exc_info=error)
        logging.shutdown()
        os._exit(CRASHED)


def _time_us(timestamp_s: float | None) -> int:
    """CreateTime in whole milliseconds, times 1000, from the seconds that Faust makes of it."""
    return round((-0.001 if timestamp_s is None else timestamp_s) * 1000) * 1000
