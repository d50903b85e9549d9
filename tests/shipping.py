"""Brokers that answer as a test says, and a shipper before them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_producers.shipper import Shipper
from rlhf_audit_producers.shipper_queue import Client, Parcel, ShipQueue
from rlhf_audit_producers.shipper_trouble import Blame
from rlhf_audit_producers.spool_following import Place
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.kafka.wire import strip_header, with_header
from spooling import FACTS, NOW_US

Answer = Literal["ok", "refuse", "lose", "silent", "silent but stored", "full", "too large"]
RIGHTS, TOO_LARGE, TIMED_OUT, FATAL, GAPLESS, PURGED = 29, 10, -192, -150, -148, -152


@dataclass(frozen=True)
class FakeError:
    number: int

    def code(self) -> int:
        return self.number


class FakeKafkaException(Exception):
    """``args[0]`` is the error, as with confluent_kafka."""


@dataclass
class Brokers:
    """What stands in the topics. ``answer`` says what becomes of a record; ``is_gapless`` as librdkafka is set."""

    answer: Callable[[str, int, bytes], Answer] = lambda topic, partition, value: "ok"
    is_gapless: bool = True
    tells_by_raising: bool = True
    capacity: int = 1000
    topics: dict[tuple[str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    clients: int = 0
    company_bytes: int = 0  # of the record that ``answer`` is asked about and those behind it for the same partition

    def client(self) -> FakeClient:
        self.clients += 1
        return FakeClient(self)

    @property
    def values(self) -> list[bytes]:
        return [strip_header(value) for _, log in sorted(self.topics.items()) for value in log]

    def bodies(self) -> list[BatchBody]:
        return [BatchBody.decode(open_envelope(value)[0]) for value in self.values]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Decoded events of one kind, repeats left out."""
        codec = next(each for each in KINDS_BY_NUMBER.values() if each.name == kind)
        return [
            codec.codec.decode(event)
            for value in dict.fromkeys(self.values)
            for body in [BatchBody.decode(open_envelope(value)[0])]
            if body.kind == codec.number
            for event in body.events
        ]


class FakeClient:
    """A producer: records wait until ``poll``, which asks the brokers about some of them."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._queue: deque[tuple[str, int, bytes, Callable[[Any, Any], None]]] = deque()
        self._silent: list[Callable[[Any, Any], None]] = []
        self._is_dead = False
        self._last: FakeError | None = None

    def produce(self, topic: str, value: bytes, *, partition: int, on_delivery: Callable[[Any, Any], None]) -> None:
        if len(self._queue) >= self._brokers.capacity:
            raise BufferError
        if self._is_dead:
            raise FakeKafkaException(FakeError(FATAL))
        self._queue.append((topic, partition, bytes(value), on_delivery))

    def poll(self, timeout: float) -> int:
        due = min(3, len(self._queue))
        was_alive = not self._is_dead
        for _ in range(due):
            self._answer(*self._queue.popleft())
            if was_alive and self._is_dead and self._brokers.tells_by_raising:
                raise FakeKafkaException(FakeError(GAPLESS))
        return due

    def _answer(self, topic: str, partition: int, value: bytes, tell: Callable[[Any, Any], None]) -> None:
        if self._is_dead:
            tell(self._last or FakeError(FATAL), None)
            self._last = None
            return
        behind = sum(len(each[2]) for each in self._queue if each[:2] == (topic, partition))
        self._brokers.company_bytes = len(value) + behind
        what = self._brokers.answer(topic, partition, value)
        if what in ("ok", "lose", "silent but stored"):
            self._brokers.topics[topic, partition].append(value)
        if what == "ok":
            tell(None, None)  # no message either: its offset can be missing
        elif what in ("silent", "silent but stored"):
            self._silent.append(tell)
            self._is_dead = True  # what stands behind it is not answered either
        else:
            self._is_dead = self._brokers.is_gapless
            if self._is_dead and self._brokers.tells_by_raising:
                self._queue.appendleft((topic, partition, value, tell))  # it is told behind the end of the client
                self._last = FakeError({"refuse": RIGHTS, "too large": TOO_LARGE}.get(what, TIMED_OUT))
                return
            tell(FakeError({"refuse": RIGHTS, "too large": TOO_LARGE}.get(what, TIMED_OUT)), None)

    def purge(self) -> None:
        waiting = [*self._silent, *(tell for *_, tell in self._queue)]
        self._queue.clear()
        self._silent.clear()
        for tell in waiting:
            tell(FakeError(PURGED), None)


class Clock:
    """Time that passes when it is told to, and a little whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def topic_of(stream: str) -> str:
    return f"audit.{stream}"


def queue_before(brokers: Brokers, clock: Clock, **options: Any) -> ShipQueue:
    def make() -> Client:
        return brokers.client()

    return ShipQueue(make, topic_of, clock, **options)


def parcel(place: Place, number: int, *, size: int = 0) -> Parcel:
    value = f"{place[0]}/{place[1]}/{number}".encode().ljust(size, b".")
    return Parcel(b"spool", number, place, value, None, 0.0)


def shipper(
    trail: Path,
    brokers: Brokers,
    *,
    clock: Clock | None = None,
    disk: Disk | None = None,
    facts: LedgerFacts = FACTS,
    troubles: list[Blame] | None = None,
) -> Shipper:
    """A shipper of the spools of ``trail``."""
    clock = Clock() if clock is None else clock
    heard: list[Blame] = [] if troubles is None else troubles

    def make_queue(on_refused: Callable[[Parcel], None]) -> ShipQueue:
        return queue_before(brokers, clock, on_refused=on_refused, on_trouble=lambda blame, topic: heard.append(blame))

    return Shipper(
        trail / "spool",
        facts,
        RealDisk() if disk is None else disk,
        make_queue,
        with_header=with_header,
        software="test",
        now_us=lambda: NOW_US,
        clock=clock,
    )


def ship_all(trail: Path, brokers: Brokers, *, turns: int = 5000, **options: Any) -> Shipper:
    """Ship until nothing is left; fails after so many turns."""
    clock = options.setdefault("clock", Clock())
    one = shipper(trail, brokers, **options)
    for _ in range(turns):
        if not one.turn():
            one.close()
            return one
        clock.now += 0.1
    raise AssertionError(f"not done after {turns} turns: {one.left()}")
