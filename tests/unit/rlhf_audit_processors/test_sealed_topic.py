"""Where a restarted sealer goes on: sealed topics with duplicates, forks and holes in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builders import LOG, SOURCE_ID, Lane, make_sealer, messages, sealed_from, tick_value
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_processors.kafka.sealed_topic import LOOK_BACK, ForkedTopicError, SealedTopic, as_sealed, time_us
from rlhf_audit_processors.kafka.taking_over import take_over
from rlhf_audit_stores.kafka.wire import with_header
from rlhf_audit_stores.objects import MemoryStore
from rlhf_audit_stores.stored_state import RefusedToGoOnError

SEALER = make_sealer()
FIRST = first_state(SEALER.settings, SOURCE_ID)


@dataclass
class ListTail:
    """A partition in memory; ``low`` is its first offset."""

    values: Sequence[bytes | None]
    low: int = 0
    where: str = "topic[2]"
    reads: int = 0

    def watermarks(self) -> tuple[int, int]:
        return self.low, self.low + len(self.values)

    def read(self, first: int, end: int) -> Iterator[SourceMessage]:
        assert self.low <= first <= end <= self.low + len(self.values)
        for offset in range(first, end):
            self.reads += 1
            yield SourceMessage(offset, 0, self.values[offset - self.low])


def source_of(count: int) -> list[SourceMessage]:
    lane = Lane(SEALER.settings)
    return messages([lane.cut(2).value for _ in range(count)])


SOURCE = source_of(30)
STATE, SEALED = sealed_from(SEALER, SOURCE)
RECORDS = [one.record.encode() for one in SEALED]
STATES = [FIRST]
for _one in SOURCE:
    STATES.append(sealed_from(SEALER, [_one], STATES[-1])[0])


def read(topic: SealedTopic, start: SealState) -> list[bytes]:
    found = list(topic.read_from(start.m + 1))
    assert [m for m, _ in found] == list(range(start.m + 1, topic.next_m))
    return [data for _, data in found]


@given(start=st.integers(0, 30), ends=st.lists(st.integers(1, 30), max_size=4))
def test_records_behind_the_published_state_come_once_and_in_order(start: int, ends: list[int]) -> None:
    """A zombie appends a run of records that are there already."""
    values = list(RECORDS)
    for end in ends:
        values += RECORDS[max(0, end - 5) : end]
    topic = SealedTopic(ListTail(values), STATES[start])
    assert read(topic, STATES[start]) == RECORDS[start:]
    assert topic.holds_start


@given(data=st.data())
def test_a_duplicate_with_other_bytes_is_a_fork(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 29))
    broken = bytearray(RECORDS[at])
    broken[-1] ^= 1  # within the last event
    with pytest.raises(ForkedTopicError, match=f"source offset {at} was sealed twice"):
        SealedTopic(ListTail([*RECORDS, bytes(broken)]), FIRST)


@given(first=st.integers(1, 29))
def test_missing_records_are_refused(first: int) -> None:
    """Retention took records that the objects do not have."""
    with pytest.raises(RefusedToGoOnError, match="source offset 0 is missing"):
        SealedTopic(ListTail(RECORDS[first:], low=first), FIRST)
    whole = SealedTopic(ListTail(RECORDS[first:], low=first), STATES[first])
    assert read(whole, STATES[first]) == RECORDS[first:]


def test_what_the_objects_hold_is_not_read_again() -> None:
    source = source_of(2000)
    state, sealed = sealed_from(SEALER, source[:1990])
    _, more = sealed_from(SEALER, source[1990:], state)
    tail = ListTail([one.record.encode() for one in [*sealed, *more]])
    topic = SealedTopic(tail, state)
    assert tail.reads == LOOK_BACK
    assert topic.next_m == 2001
    assert read(topic, state) == [one.record.encode() for one in more]


def test_garbage_in_the_sealed_topic_is_refused_by_its_place() -> None:
    with pytest.raises(RefusedToGoOnError, match="offset 30 is no sealed record"):
        SealedTopic(ListTail([*RECORDS, b"garbage"]), FIRST)


def test_a_wire_header_is_dropped_and_times_stay_within_the_format() -> None:
    value = SOURCE[0].value or b""
    for headed in (with_header(value), with_header(value, schema_id=7)):
        assert as_sealed(SourceMessage(3, 5_000, headed)) == SourceMessage(3, 5_000, value)
    assert as_sealed(SourceMessage(3, 5_000, None)).value is None
    for ts_us in (2**62 * 1000, -(2**62) * 1000):
        sealed_from(SEALER, [as_sealed(SourceMessage(0, ts_us, value))])


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**52), 2**52) | st.integers(2**50 - 9, 2**50 + 9))
@example(-1)
@example(1 << 51)
@example((1 << 52) + 1)
def test_every_reader_reads_the_same_time(create_time_ms: int) -> None:
    by_faust = SourceMessage(0, time_us(create_time_ms / 1000.0), None)
    assert as_sealed(by_faust) == as_sealed(SourceMessage(0, create_time_ms * 1000, None))


def taken_over(sealed: Sequence[bytes], source: ListTail, objects: MemoryStore | None = None) -> SealState:
    return take_over(SEALER, objects or MemoryStore(), ListTail(sealed), source, SOURCE_ID)


def source_tail(first: int = 0) -> ListTail:
    return ListTail([message.value for message in SOURCE[first:]], low=first)


@given(count=st.integers(0, 30))
def test_taking_over_gives_the_state_after_the_last_sealed_record(count: int) -> None:
    assert taken_over(RECORDS[:count], source_tail()) == STATES[count]


def test_a_source_that_lost_messages_goes_on_only_where_the_sealed_topic_tells_from_where() -> None:
    assert taken_over(RECORDS[:10], source_tail(20)) == STATES[10]
    with pytest.raises(RefusedToGoOnError, match="begins at 20, sealed up to 0"):
        taken_over([], source_tail(20))


def test_another_source_or_a_shorter_one_is_refused() -> None:
    with pytest.raises(RefusedToGoOnError, match="ends at 5, sealed up to 10"):
        taken_over(RECORDS[:10], ListTail([message.value for message in SOURCE[:5]]))
    changed = [message.value for message in SOURCE]
    changed[9] = b"other"
    with pytest.raises(RefusedToGoOnError, match="source message 9 is not the one"):
        taken_over(RECORDS[:10], ListTail(changed))
    with pytest.raises(RefusedToGoOnError, match="another source log"):
        take_over(SEALER, MemoryStore(), ListTail(RECORDS[:10]), source_tail(), bytes(16))


def test_holes_and_ticks_are_read_back_like_everything_else() -> None:
    lane = Lane(SEALER.settings)
    values = [
        tick_value(SEALER.settings, 1),
        lane.cut().value,
        None,
        b"poison",
        tick_value(SEALER.settings, 2, flush=True),
    ]
    source = messages(values)
    del source[3]  # a marker: nothing is there
    state, sealed = sealed_from(SEALER, source)
    data = [one.record.encode() for one in sealed]
    assert data_state(data, source) == state


def data_state(sealed: Sequence[bytes], source: Sequence[SourceMessage]) -> SealState:
    @dataclass
    class Gappy(ListTail):
        def read(self, first: int, end: int) -> Iterator[SourceMessage]:
            return (message for message in source if first <= message.offset < end)

        def watermarks(self) -> tuple[int, int]:
            return 0, source[-1].offset + 1

    return take_over(SEALER, MemoryStore(), ListTail(sealed), Gappy([]), SOURCE_ID)


def test_the_fixtures_are_what_they_seem() -> None:
    assert isinstance(SEALED[0], Sealed)
    assert STATES[-1] == STATE
    assert SEALER.signer is LOG
