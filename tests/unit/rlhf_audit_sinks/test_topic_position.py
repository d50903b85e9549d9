"""Where a sink begins to read a sealed topic: never behind a record that its store lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from hypothesis import example, given
from hypothesis import strategies as st

from builders import QUARANTINE_KEY, Lane, make_genesis, make_sealer, seal_values
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.state import SealState
from rlhf_audit_sinks.sealed_windows import SealedGapError, WindowAssembler
from rlhf_audit_sinks.topic_position import locate

RECORDS = 24


class FakeTail:
    """A topic partition in memory that counts what is read of it."""

    def __init__(self, values: Sequence[bytes], low: int = 0) -> None:
        self.values, self.low, self.reads = values, low, 0

    def watermarks(self) -> tuple[int, int]:
        return self.low, self.low + len(self.values)

    def read(self, first: int, end: int) -> Iterator[SourceMessage]:
        for offset in range(first, end):
            self.reads += 1
            yield SourceMessage(offset, 0, self.values[offset - self.low])


@cache
def sealed() -> tuple[list[bytes], list[SealState]]:
    """Records, and the state after each window of three."""
    sealer = make_sealer(make_genesis(max_messages=3))
    lane = Lane(sealer.settings)
    _, records = seal_values(sealer, [lane.cut(2).value for _ in range(RECORDS)])
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, None)
    states = []
    for one in records:
        if assembler.take(one.record.encode()).window is not None and assembler.state is not None:
            states.append(assembler.state)
    return [one.record.encode() for one in records], states


def repeated(runs: Sequence[tuple[int, int]]) -> list[bytes]:
    """The records in order, and after some of them a run of those before, as a zombie writes it."""
    records, _ = sealed()
    again = dict(runs)
    found: list[bytes] = []
    for at, record in enumerate(records):
        found.append(record)
        found += records[max(0, at - again.get(at, 0)) : at] if at in again else []
    return found


LONGEST_RUN = 9
RUNS = st.lists(st.tuples(st.integers(0, RECORDS - 1), st.integers(1, LONGEST_RUN)), max_size=6)


@example(runs=[(23, 8)], window=5, guess=0, low=0)  # duplicates end the topic: nothing behind them shows a gap
@given(runs=RUNS, window=st.integers(0, RECORDS // 3 - 1), guess=st.integers(-1, 60), low=st.integers(0, 5))
def test_reading_from_there_meets_every_record_that_the_store_lacks_or_shows_a_gap(
    runs: list[tuple[int, int]], window: int, guess: int, low: int
) -> None:
    values = repeated(runs)
    state = sealed()[1][window]
    tail = FakeTail(values, low)
    start = locate(tail, state, guess=guess, look_back=LONGEST_RUN)
    assert low <= start <= low + len(values)
    taken = _read_on(values[start - low :], state)
    if taken is None:  # the caller begins at the beginning then, where everything is met
        taken = _read_on(values, state)
    assert taken == RECORDS - 3 * (window + 1)


def _read_on(values: Sequence[bytes], state: SealState) -> int | None:
    sealer = make_sealer(make_genesis(max_messages=3))
    assembler = WindowAssembler(sealer.settings, QUARANTINE_KEY, state)
    try:
        return sum(assembler.take(value).outcome == "sealed" for value in values)
    except SealedGapError:
        return None


def test_a_right_guess_costs_one_read_and_a_wrong_one_a_logarithm() -> None:
    values, states = sealed()
    right = FakeTail(values)
    assert locate(right, states[3], guess=12, look_back=2) == 10
    assert right.reads == 1
    idle = FakeTail(values)
    assert locate(idle, states[-1], guess=RECORDS, look_back=0) == RECORDS - 1
    assert idle.reads == 1
    blind = FakeTail(values)
    assert locate(blind, states[3], guess=-1001, look_back=0) == 12
    assert blind.reads <= 6


def test_bytes_that_are_no_record_are_never_a_reason_to_begin_behind_them() -> None:
    values, states = sealed()
    broken = [b"rubbish" if at % 2 else value for at, value in enumerate(values)]
    assert locate(FakeTail(broken), states[3], guess=-1) <= 12


def test_an_emptied_topic_is_read_from_its_end() -> None:
    assert locate(FakeTail([], low=7), sealed()[1][2], guess=3) == 7
