"""In order to every partition, again and again until acknowledged: what a shipper does between spool and client.

The rules, over a client that is idempotent and free of gaps (see
``shipper_client``):

1. of each partition records are handed over in the order in which they came;
2. one failed delivery ends the client: what it holds is thrown away, a new one
   is made, and each partition goes on from its first record that is not
   acknowledged, with the same bytes. What stood behind that record goes out
   again too, acknowledged or not, so that no later record is left in front of
   an earlier one;
3. a partition whose delivery failed waits, longer each time; the others go on
   at once;
4. an acknowledgement is "no error". Offsets are never looked at: they can be
   missing. A late acknowledgement by an earlier client counts, a late failure
   does not;
5. a full client means wait. Nothing is dropped;
6. a record that the brokers call too large goes out alone, since it may have
   been the company it was in; refused alone it is put aside (``on_refused``),
   and the partition goes on.

So every partition holds each record at least once, first copies in order;
repeats are byte for byte the same and the sealer knows them. No file and no
network here; whoever owns this calls ``work``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_producers.shipper_trouble import Blame, blame_of, stalled
from rlhf_audit_producers.spool_following import Place

MAX_BYTES_UNDERWAY: Final = 48 << 20  # of records in memory: some seconds of a fast network
MAX_RECORDS_UNDERWAY: Final = 50_000  # below librdkafka's own limit of 100,000
FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 30.0
STALL_S: Final = 120.0  # without any acknowledgement: a client that hangs is replaced; the brokers know repeats
_LAST_WORDS, _LAST_WORDS_S = 20, 0.05


class Client(Protocol):
    """What is used of ``confluent_kafka.Producer``. Errors are its own: ``KafkaError``, ``KafkaException``."""

    def produce(self, topic: str, value: bytes, *, partition: int, on_delivery: Callable[[Any, Any], None]) -> None:
        """Raises BufferError when full, KafkaException for a record that cannot be sent."""

    def poll(self, timeout: float) -> int:
        """Call the callbacks that are due; returns how many. Raises KafkaException when the client is finished."""

    def purge(self) -> None:
        """Throw away what is queued and under way; its callbacks come with the next ``poll``."""


@dataclass(slots=True, eq=False)
class Parcel:
    """One record on its way. ``is_settled``: acknowledged by all in-sync replicas, or put aside."""

    spool_id: bytes
    offset: int
    place: Place
    value: bytes
    head: LaneView | None
    read_at: float
    is_settled: bool = False
    is_refused: bool = False
    is_delivered: bool = False  # by the client that has it now


@dataclass(slots=True)
class _Road:
    """One partition: what waits, and what a client has."""

    topic: str
    waiting: deque[Parcel] = field(default_factory=deque)
    underway: deque[Parcel] = field(default_factory=deque)
    retry_at: float = 0.0
    failures: int = 0
    alone: int = 0  # so many records go out one by one
    lone: Parcel | None = None  # the one that did


class ShipQueue:
    """Records in memory between reading and acknowledgement. Used by one thread; callbacks come inside ``work``."""

    def __init__(
        self,
        make_client: Callable[[], Client],
        topic_of: Callable[[str], str],
        clock: Callable[[], float],
        *,
        on_acknowledged: Callable[[Parcel], None] = lambda parcel: None,
        on_refused: Callable[[Parcel], None] = lambda parcel: None,
        on_trouble: Callable[[Blame, str], None] = lambda blame, topic: None,
        max_bytes: int = MAX_BYTES_UNDERWAY,
        max_records: int = MAX_RECORDS_UNDERWAY,
    ) -> None:
        self._make_client, self._topic_of, self._clock = make_client, topic_of, clock
        self._on_acknowledged, self._on_refused, self._on_trouble = on_acknowledged, on_refused, on_trouble
        self._max_bytes, self._max_records = max_bytes, max_records
        self._client: Client | None = None
        self._generation = 0
        self._roads: dict[Place, _Road] = {}
        self._records = self._bytes = 0
        self._failed: dict[Place, Blame] = {}
        self._has_failed = False
        self._failures, self._resume_at = 0, 0.0
        self._moved_at = clock()

    @property
    def has_room(self) -> bool:
        """Whether more may be put in."""
        return self._bytes < self._max_bytes and self._records < self._max_records

    @property
    def has_client(self) -> bool:
        """Whether ``work`` waits for a client; without one it returns at once."""
        return self._client is not None

    @property
    def records(self) -> int:
        """Records that are not settled."""
        return self._records

    @property
    def bytes_held(self) -> int:
        """Bytes of those records."""
        return self._bytes

    def put(self, parcel: Parcel) -> None:
        """Behind everything that was put in before for the same partition."""
        road = self._roads.get(parcel.place)
        if road is None:
            road = self._roads[parcel.place] = _Road(self._topic_of(parcel.place[0]))
        road.waiting.append(parcel)
        self._records += 1
        self._bytes += len(parcel.value)

    def work(self, wait_s: float = 0.0) -> None:
        """Hand over what may go, take in what was acknowledged, begin anew after a failure."""
        if self._has_failed:
            self._begin_anew()
        now = self._clock()
        if now >= self._resume_at:
            if self._is_idle():
                self._moved_at = now
            self._hand_over(now)
        if self._client is not None:
            self._poll(self._client, 0.0 if self._has_failed else wait_s)
        self._watch_for_stall()

    def _poll(self, client: Client, wait_s: float) -> int:
        """A client that is finished says so by raising; what became of each record it tells behind that."""
        try:
            return client.poll(wait_s)
        except Exception as error:
            code = _code_of(error)
            if code is None:
                raise
            self._has_failed = True
            if not blame_of(code).is_collateral:
                self._on_trouble(blame_of(code), "")
            return 1

    def abandon(self) -> None:
        """Let the client go with whatever it holds; those records stay unsettled."""
        self._drop_client()

    def unsettled(self) -> Iterable[Parcel]:
        """What is not settled, partition by partition in order."""
        for road in self._roads.values():
            yield from (parcel for parcel in (*road.underway, *road.waiting) if not parcel.is_settled)

    def _hand_over(self, now: float) -> None:
        for place, road in self._roads.items():
            if not road.waiting or now < road.retry_at:
                continue
            if self._client is None:
                self._client = self._make_client()
            if not self._hand_over_road(place, road, self._client):
                return

    def _hand_over_road(self, place: Place, road: _Road, client: Client) -> bool:
        """Returns False when the client has no room, or is to be replaced."""
        produce, topic, generation = client.produce, road.topic, self._generation
        waiting, underway = road.waiting, road.underway
        while waiting and not (road.alone and underway):
            parcel = waiting[0]
            road.lone = parcel if road.alone else None
            try:
                produce(
                    topic,
                    parcel.value,
                    partition=place[1],
                    on_delivery=partial(self._delivered, generation, road, parcel),
                )
            except BufferError:
                return False
            except Exception as error:
                code = _code_of(error)
                if code is None:
                    raise
                underway.append(waiting.popleft())  # it is this one that failed
                self._note_failure(road, parcel, code)
                return False
            underway.append(waiting.popleft())
        return True

    def _is_idle(self) -> bool:
        return not any(road.underway for road in self._roads.values())

    def _delivered(self, generation: int, road: _Road, parcel: Parcel, error: Any, message: Any) -> None:
        if error is not None:
            if generation == self._generation:
                self._note_failure(road, parcel, error.code())
            return
        self._moved_at = self._clock()
        self._failures = road.failures = 0
        if not parcel.is_settled:
            self._settle(parcel)
            self._on_acknowledged(parcel)
        if generation == self._generation:
            parcel.is_delivered = True
            road.alone = max(0, road.alone - 1)
            _drop_delivered(road)

    def _settle(self, parcel: Parcel) -> None:
        parcel.is_settled = True
        self._records -= 1
        self._bytes -= len(parcel.value)

    def _note_failure(self, road: _Road, parcel: Parcel, code: int) -> None:
        blame = blame_of(code)
        self._has_failed = True
        if blame.is_collateral:  # it failed because another one did
            return
        is_new = parcel.place not in self._failed
        if is_new:
            self._failed[parcel.place] = blame
            self._on_trouble(blame, road.topic)
        if blame.is_too_large:
            if road.lone is parcel:
                if not parcel.is_settled:
                    self._on_refused(parcel)  # durable elsewhere when it returns
                    self._settle(parcel)
                parcel.is_refused = True
                road.alone -= 1
            elif is_new:
                road.alone = len(road.underway)

    def _begin_anew(self) -> None:
        """Rule 2: nothing of the old client counts any more but what it still acknowledges."""
        if self._client is not None:
            for _ in range(_LAST_WORDS):  # which record failed comes after the news that one did
                if self._poll(self._client, _LAST_WORDS_S) == 0:
                    break
        now = self._clock()
        failed, self._failed, self._has_failed = self._failed, {}, False
        self._drop_client()
        for place, blame in failed.items():
            road = self._roads[place]
            if blame.is_too_large:
                continue  # it goes out alone, or was put aside: nothing to wait for
            road.retry_at = now + pause_s(road.failures)
            road.failures += 1
        if not failed:
            self._resume_at = now + pause_s(self._failures)
            self._failures += 1

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        self._generation += 1
        if client is not None:
            client.purge()
            self._poll(client, 0.0)
            self._has_failed = False
        for road in self._roads.values():
            _drop_delivered(road)
            again = [parcel for parcel in road.underway if not parcel.is_refused]
            for parcel in again:
                parcel.is_delivered = False
            road.waiting.extendleft(reversed(again))
            road.underway.clear()
            road.lone = None

    def _watch_for_stall(self) -> None:
        if self._client is None or self._clock() - self._moved_at < STALL_S or self._is_idle():
            return
        self._has_failed = True
        self._moved_at = self._clock()
        self._on_trouble(stalled(), "")


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row before this one."""
    return min(FIRST_PAUSE_S * 2.0 ** min(failures, 20), MAX_PAUSE_S)


def _drop_delivered(road: _Road) -> None:
    """Only from the front: what stands behind an open one is sent again with it."""
    underway = road.underway
    while underway and (underway[0].is_delivered or underway[0].is_refused):
        underway.popleft().value = b""  # its spool may remember it for long, behind one that is stuck elsewhere


def _code_of(error: Exception) -> int | None:
    """The librdkafka code of a KafkaException; None if it is anything else."""
    first = error.args[0] if error.args else None
    code = getattr(first, "code", None)
    return code() if callable(code) else None
