"""Whatever brokers and clients do, every partition gets every record, first copies in order."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_producers.shipper_queue import MAX_PAUSE_S, STALL_S, pause_s
from rlhf_audit_producers.shipper_trouble import Blame
from rlhf_audit_producers.spool_following import Place
from shipping import Answer, Brokers, Clock, parcel, queue_before, topic_of

PLACES: list[Place] = [("annotations", 0), ("annotations", 1), ("gradients", 0), ("lifecycle", 0)]
FAILURES = st.sampled_from([answer for answer in get_args(Answer) if answer not in ("full", "too large")])


def first_copies(log: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys(log))


def is_within(wanted: list[bytes], log: list[bytes]) -> bool:
    """Whether ``wanted`` can be read from ``log`` in order, other things in between."""
    rest = iter(log)
    return all(value in rest for value in wanted)


@given(
    sent=st.lists(st.sampled_from(PLACES), min_size=1, max_size=25),
    answers=st.lists(FAILURES, max_size=30),
    chunk=st.integers(1, 8),
    capacity=st.integers(1, 6),
    is_gapless=st.booleans(),
    tells_by_raising=st.booleans(),
)
def test_any_sequence_of_failures_delivers_each_record_of_each_partition_in_order(
    sent: list[Place], answers: list[Answer], chunk: int, capacity: int, is_gapless: bool, tells_by_raising: bool
) -> None:
    script = list(answers)
    brokers = Brokers(
        lambda *_: script.pop(0) if script else "ok",
        is_gapless=is_gapless,
        tells_by_raising=tells_by_raising,
        capacity=capacity,
    )
    clock = Clock()
    queue = queue_before(brokers, clock)
    parcels = [parcel(place, number) for number, place in enumerate(sent)]
    values = {place: [one.value for one in parcels if one.place == place] for place in PLACES}
    waiting = list(parcels)
    for _ in range(4000):
        for one in waiting[:chunk]:
            queue.put(one)
        del waiting[:chunk]
        queue.work()
        clock.now += 1.0
        if not waiting and queue.records == 0:
            break
    assert queue.records == queue.bytes_held == 0
    for _ in range(50):  # what is still to be repeated
        queue.work()
        clock.now += MAX_PAUSE_S
    for place in PLACES:
        log = brokers.topics[topic_of(place[0]), place[1]]
        assert is_within(values[place], log)
        assert set(log) == set(values[place])
        if is_gapless:
            assert first_copies(log) == values[place]
    assert all(one.is_settled and not one.is_refused for one in parcels)


def test_a_partition_without_rights_waits_while_the_others_go_on() -> None:
    brokers = Brokers(lambda topic, *_: "refuse" if "gradients" in topic else "ok")
    clock, troubles = Clock(), list[tuple[Blame, str]]()
    queue = queue_before(brokers, clock, on_trouble=lambda blame, topic: troubles.append((blame, topic)))
    for number in range(60):
        queue.put(parcel(PLACES[number % 4], number))
    for _ in range(400):
        queue.work()
        clock.now += 0.05
    assert queue.records == 15
    assert {one.place for one in queue.unsettled()} == {("gradients", 0)}
    assert {(blame.reason, topic) for blame, topic in troubles} == {("rights", "audit.gradients")}
    assert len(troubles) < 10, "it does not knock all the time"
    brokers.answer = lambda *_: "ok"
    clock.now += MAX_PAUSE_S
    for _ in range(100):
        queue.work()
    assert queue.records == 0


def test_a_record_that_is_too_large_alone_is_put_aside_and_the_others_are_not() -> None:
    """Brokers that refuse whole batches: small records fail in the company of the large one."""
    brokers = Brokers()
    brokers.answer = lambda *_: "too large" if brokers.company_bytes > 400 else "ok"
    refused: list[int] = []
    clock = Clock()
    queue = queue_before(brokers, clock, on_refused=lambda one: refused.append(one.offset))
    sizes = [10, 10, 500, 10, 500, 500, 10]
    for number, size in enumerate(sizes):
        queue.put(parcel(PLACES[0], number, size=size))
    for _ in range(200):
        queue.work()
    assert queue.records == queue.bytes_held == 0
    assert refused == [2, 4, 5]
    kept = [parcel(PLACES[0], number, size=size).value for number, size in enumerate(sizes) if size < 100]
    assert first_copies(brokers.topics["audit.annotations", 0]) == kept


def test_a_client_that_never_answers_is_replaced() -> None:
    first = [True]

    def answer(*_: object) -> Answer:
        return "silent" if first and first.pop() else "ok"

    brokers, clock = Brokers(answer), Clock()
    queue = queue_before(brokers, clock)
    queue.put(parcel(PLACES[0], 0))
    queue.work()
    clock.now += STALL_S / 2
    queue.work()
    assert (queue.records, brokers.clients) == (1, 1)
    for _ in range(3):
        clock.now += STALL_S
        queue.work()
    assert (queue.records, brokers.clients) == (0, 2)


def test_pauses_grow_to_a_bound() -> None:
    pauses = [pause_s(failures) for failures in range(40)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.25, MAX_PAUSE_S)
