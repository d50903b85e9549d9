"""The worker process of ``rlhf-audit seal``: a Faust app, the partitions it owns, one acker, ticks, a clean end.

The order of a takeover, in ``on_rebalance_complete``:

1. Everything of the old generation stops; what is still under way is waited for, shortly.
2. State of each partition is read back from objects and sealed topic (``taking_over``), in parallel.
3. Its next offset is committed, so that Faust goes there: the group's own offsets are hints.
4. Its task starts.

A partition whose state takes longer than ``WAIT_FOR_STATES_S``, because its
leader is gone or its objects lag, holds up no other: it begins when its state
is there. Faust stands anywhere in it then; what it passed over is read by the
plain reader, what it brings again was sealed before.

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
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealer
from rlhf_audit_ledger.state import SealState
from rlhf_audit_processors.kafka.faust_app import Patience, make_app
from rlhf_audit_processors.kafka.global_head import TickSource, WatchedHead
from rlhf_audit_processors.kafka.links import RETRY_S, Links
from rlhf_audit_processors.kafka.owned import Acknowledged, Delivered, Inbox, OwnedPartition
from rlhf_audit_processors.kafka.sealed_topic import ForkedTopicError, as_sealed, time_us
from rlhf_audit_processors.kafka.taking_over import take_over
from rlhf_audit_processors.kafka.ticks import TickClock
from rlhf_audit_processors.window_clock import Instant
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import OffsetsGoneError, PartitionTail
from rlhf_audit_stores.kafka.topics import TopicFacts, sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import RecordName
from rlhf_audit_stores.objects import ObjectStore

logger = logging.getLogger(__name__)

CRASHED = 3  # exit status: could not go on; started again it reads its state back
DRAIN_S = 5.0  # for flush ticks to come back and records to be acknowledged
STOP_S = 10.0  # for Faust to leave; then the process ends anyway
WAIT_FOR_STATES_S = 2.0  # of a takeover; most states are there in tenths of a second
_TURN_S = 0.1
_LAST_FLIGHT_S = 3.0
_US = 1_000_000
Place = tuple[str, int]
T = TypeVar("T")


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

    def __init__(self, plan: SealPlan, health: WorkerHealth) -> None:
        self._plan, self._health = plan, health
        self._inboxes: dict[Place, Inbox] = {}
        self._generation = -1  # of the inboxes
        self._owned: dict[Place, OwnedPartition] = {}
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._refused: dict[Place, str] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._stop = asyncio.Event()
        self._measured: set[Place] = set()
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
        self._links = Links(app, self._plan.kafka, self._plan.header, self._health)
        self._head = WatchedHead(self._plan.heads, self._links.in_thread)
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
            inbox = self._inboxes.get((self._streams[message.topic], message.partition))
            if inbox is None or message.generation_id != self._generation:
                continue
            found = SourceMessage(message.offset, time_us(message.timestamp), message.value)
            inbox.put(Delivered(as_sealed(found), cast(Acknowledged, event)))

    async def _on_partitions_revoked(self, *_: object, **__: object) -> None:
        self._generation = -1  # the group still has the old one until it has joined again: nothing begins meanwhile
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
        self._inboxes.clear()
        self._refused.clear()
        if flying:  # read back what they become rather than seal it again
            await asyncio.wait(flying, timeout=_LAST_FLIGHT_S)
        places = sorted((self._streams[tp.topic], tp.partition) for tp in app.consumer.assignment())
        self._generation = generation
        self._inboxes = {place: Inbox(self._links, *place) for place in places}
        began = time.monotonic()
        reading = {
            place: self._guarded(self._state_of(place, generation), f"{place[0]}/{place[1]}") for place in places
        }
        if reading:
            await asyncio.wait(reading.values(), timeout=WAIT_FOR_STATES_S)
        if not self._is_ours(generation):
            return  # this runs again for the newer one
        states = {place: one.result() for place, one in reading.items() if one.done()}
        taken = {place: state for place, state in states.items() if state is not None}
        self._forget_measures(set(taken))
        await self._links.go_to({place: state.next_offset for place, state in taken.items()})
        if not self._is_ours(generation):
            return
        self._begin(taken, generation)
        for place, one in reading.items():
            if place not in states:
                logger.warning("%s/%d: its state is not read back yet; the others go on", *place)
                self._guarded(self._begin_late(place, one, generation), f"{place[0]}/{place[1]}")
        logger.info(
            "generation %s: %d partitions taken over in %.2f s", generation, len(taken), time.monotonic() - began
        )
        self._say_whether_ready()

    def _begin(self, states: Mapping[Place, SealState], generation: int) -> None:
        """Start the tasks of partitions whose states are read back."""
        # Ticks of the owner before us named what it saw: ours must not name less.
        self._head.renew()
        for place, state in states.items():
            sealer = self._plan.sealers[place]
            clock = TickClock(sealer.settings, self._plan.ticker, state, Instant.now())
            owned = self._owned[place] = OwnedPartition(
                sealer, state, self._links, self._inboxes[place], generation=generation, clock=clock
            )
            self._tasks[place] = self._guarded(owned.run(), owned.settings.name)

    async def _begin_late(self, place: Place, reading: asyncio.Task[SealState | None], generation: int) -> None:
        state = await reading
        if not self._is_ours(generation):
            return
        if state is not None:
            self._begin({place: state}, generation)
            logger.info("%s/%d: taken over, late", *place)
        self._say_whether_ready()

    def _is_ours(self, generation: int) -> bool:
        """Whether partitions of this generation may be begun, and said anything of."""
        return generation == self._generation and self._links.is_current(generation) and not self._stop.is_set()

    async def _state_of(self, place: Place, generation: int) -> SealState | None:
        """State of a partition; asked again while brokers or store do not answer. None if it must not be sealed."""
        while self._is_ours(generation):
            try:
                state: SealState = await self._links.in_thread(self._read_state, place)
                return state
            except (AuditTrailError, OSError) as error:
                if not self._is_ours(generation):  # whose partition it is now has to say
                    return None
                if not self._may_pass(place, error):
                    return None
            await asyncio.sleep(RETRY_S)
        return None

    def _may_pass(self, place: Place, error: Exception) -> bool:
        """Say why a state could not be read; whether trying again may help."""
        if isinstance(error, AuditTrailError):
            if not error.retriable and not isinstance(error, OffsetsGoneError):  # gone while it was read
                if isinstance(error, ForkedTopicError):
                    self._health.forks.labels("seal").inc()
                self._refuse(place, error)
                return False
            logger.warning("%s/%d: %s; trying again", *place, error)
            self._health.ready(False, "brokers or object store do not answer")
        else:
            logger.warning("%s/%d: object store: %s; trying again", *place, type(error).__name__)
            self._health.ready(False, "the object store does not answer")
        return True

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

    def _stop_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    # --- the acker, the turns, the end

    async def _acknowledge(self) -> None:
        """The one place where messages are acknowledged."""
        while True:
            await self._links.done.wait()
            self._links.done.clear()
            for owned in list(self._owned.values()):
                owned.settle()

    async def _turn(self) -> None:
        app: Any = self._app
        if app.crashed or getattr(app, "should_stop", False):
            self._die("Faust", app._crash_reason or RuntimeError("Faust stopped"))
        if self._plan.should_stop():
            self._stop.set()
        self._health.alive()
        self._write_ticks()
        self._measure()

    def _measure(self) -> None:
        now = Instant.now()
        for (stream, number), owned in self._owned.items():
            end = self._links.highwater(stream, number)
            lag = owned.waiting if end is None else max(0, end - owned.state.next_offset)
            self._health.seal_lag_messages.labels(stream, str(number)).set(lag)
            age_us = owned.clock.age_us(owned.state, now)
            self._health.window_age_seconds.labels(stream, str(number)).set(age_us / _US)
            self._measured.add((stream, number))

    def _forget_measures(self, ours: set[Place]) -> None:
        """Who owns a partition tells its lag; what it was when we had it would stand there for ever."""
        for stream, number in self._measured - ours:
            self._health.seal_lag_messages.remove(stream, str(number))
            self._health.window_age_seconds.remove(stream, str(number))
        self._measured &= ours

    def _write_ticks(self) -> None:
        for owned in self._owned.values():
            self._write_tick_if_due(owned, is_draining=False)

    def _write_tick_if_due(self, owned: OwnedPartition, *, is_draining: bool) -> bool:
        """Returns False while it cannot be told what the tick should name."""
        head = self._head.now()
        if head is None:
            return False
        if owned.is_at_work and self._links.is_current(owned.generation):
            size = owned.window_bytes
            tick = owned.clock.due(owned.state, Instant.now(), head, window_bytes=size, is_draining=is_draining)
            if tick is not None:
                self._guarded(self._write_tick(tick, owned), f"tick of {owned.settings.name}")
        return True

    async def _write_tick(self, tick: bytes, owned: OwnedPartition) -> None:
        """One tick is under way at a time; one that failed is written anew, with a new time."""
        try:
            await self._links.send_tick(owned.stream, owned.partition, tick)
        except Exception as error:  # noqa: BLE001 - a tick that is lost costs time and nothing else
            logger.warning("%s: a tick was not written: %s", owned.settings.name, type(error).__name__)
            owned.clock.forget()

    async def _drain(self) -> None:
        """Close each open window, once, and finish what is under way."""
        logger.info("draining")
        deadline = time.monotonic() + DRAIN_S
        left, flushed = dict(self._owned), set[Place]()
        while left and time.monotonic() < deadline:
            for place, owned in list(left.items()):
                if owned.clock.is_under_way(owned.state, Instant.now()):
                    continue
                if place not in flushed and owned.state.window is not None:
                    if self._write_tick_if_due(owned, is_draining=True):
                        flushed.add(place)
                    continue
                owned.finish()
                if not owned.futures():
                    del left[place]
            self._health.alive()
            await asyncio.sleep(_TURN_S / 4)

    def _say_whether_ready(self) -> None:
        late = (f"{place[0]}/{place[1]} is not taken over yet" for place in sorted(self._inboxes.keys() - self._owned))
        reason = next(iter(self._refused.values()), "") or next(late, "")
        self._health.ready(not reason, reason)

    def _guarded(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task whose failure ends the process."""
        task = asyncio.ensure_future(work)
        self._background.add(task)  # the loop itself holds tasks weakly

        def look(done: asyncio.Task[T]) -> None:
            self._background.discard(done)
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
