"""The queue in front of a spool: bounded, ordered, and what is dropped leaves its count behind."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_producers.spool_queue import CLASSES, Lost, SpoolQueue, Submission
from rlhf_audit_schemas.kinds import KINDS

KIND_OF = {"gradients": "gradient_stats", "annotations": "annotation", "lifecycle": "heartbeat"}


def queue_of(max_events: int, max_bytes: int = 1 << 30) -> SpoolQueue:
    return SpoolQueue(
        max_events=max_events,
        max_bytes=max_bytes,
        places=lambda item: Counter({(item.kind.stream, 0): item.count}),
    )


def submission(stream: str, count: int, held: int = 0) -> Submission:
    return Submission(KINDS[KIND_OF[stream]], count, list, bytes_held=held)


puts = st.lists(st.tuples(st.sampled_from(sorted(CLASSES)), st.integers(1, 20)), max_size=40)


@given(puts=puts, limit=st.integers(1, 60))
def test_every_event_put_in_comes_out_or_is_counted_as_lost(puts: list[tuple[str, int]], limit: int) -> None:
    queue = queue_of(limit)
    for stream, count in puts:
        queue.put(submission(stream, count))
    out: Counter[str] = Counter()
    held = 0
    for item in queue.take():
        if isinstance(item, Lost):
            out.update({stream: count for (stream, _), count in item.counts.items()})
        else:
            out[item.kind.stream] += item.count
            held += item.count
    expected: Counter[str] = Counter()
    for stream, count in puts:
        expected[stream] += count
    assert out == expected
    assert held <= limit
    assert queue.dropped == expected.total() - held


@given(puts=puts, limit=st.integers(1, 60))
def test_nothing_is_dropped_while_something_of_less_worth_is_kept(puts: list[tuple[str, int]], limit: int) -> None:
    queue = queue_of(limit)
    for stream, count in puts:
        was_kept = queue.put(submission(stream, count))
        kept_streams = {item.kind.stream for item in queue._items if isinstance(item, Submission)}
        if not was_kept:
            assert not {one for one in kept_streams if CLASSES[one] < CLASSES[stream]}


def test_the_order_of_what_is_kept_and_lost_stays() -> None:
    queue = queue_of(10)
    queue.put(submission("annotations", 6))
    queue.put(submission("annotations", 6))
    queue.put(submission("annotations", 4))
    first, lost, last = queue.take()
    assert isinstance(first, Submission)
    assert isinstance(lost, Lost)
    assert isinstance(last, Submission)
    assert (first.count, lost.counts, last.count) == (6, {("annotations", 0): 6}, 4)


def test_losses_behind_one_another_take_the_room_of_one() -> None:
    queue = queue_of(1)
    for _ in range(10_000):
        queue.put(submission("gradients", 2))
    assert len(queue) == 1
    assert queue.dropped == 20_000


def test_bytes_bound_the_queue_as_events_do() -> None:
    queue = queue_of(100, max_bytes=1000)
    assert queue.put(submission("annotations", 1, held=900))
    assert not queue.put(submission("annotations", 1, held=101))
    assert queue.put(submission("annotations", 1, held=100))


def test_one_stream_can_be_taken_and_the_rest_stays() -> None:
    queue = queue_of(10)
    queue.put(submission("annotations", 6))
    queue.put(submission("gradients", 4))
    queue.put(submission("gradients", 4))
    taken = queue.take(frozenset({"gradients"}))
    assert [type(item) for item in taken] == [Submission, Lost]
    assert [item.count for item in queue.take() if isinstance(item, Submission)] == [6]


def test_half_full_wakes_the_writer() -> None:
    queue = queue_of(10)
    queue.put(submission("annotations", 5))
    assert not queue.wake.is_set()
    queue.put(submission("annotations", 1))
    assert queue.wake.is_set()
