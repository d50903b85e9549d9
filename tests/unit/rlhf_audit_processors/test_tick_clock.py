"""When a partition's owner writes a tick: by its own clock, one at a time, and never one that closes nothing."""

from __future__ import annotations

from builders import SOURCE_ID, START_US, TICKER, WINDOW_US, Lane, make_genesis, make_sealer, sealed_from
from rlhf_audit_ledger.control import Control, Tick
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealer
from rlhf_audit_ledger.state import first_state
from rlhf_audit_processors.kafka.global_head import GlobalHead
from rlhf_audit_processors.kafka.ticks import MAX_WINDOW_BYTES, TICK_TIMEOUT_US, TickClock
from rlhf_audit_processors.window_clock import Instant

HEAD = GlobalHead(7, bytes([7]) * 32)


class World:
    """One partition whose ticks are sealed as soon as they are due."""

    def __init__(self, sealer: Sealer | None = None) -> None:
        self.sealer = sealer or make_sealer()
        self.lane = Lane(self.sealer.settings)
        self.state = first_state(self.sealer.settings, SOURCE_ID)
        self.now_us = START_US
        self.set_back_us = 0
        self.clock = self.new_clock()
        self.closes = 0

    @property
    def now(self) -> Instant:
        return Instant(self.now_us - self.set_back_us, self.now_us - START_US)

    def new_clock(self) -> TickClock:
        return TickClock(self.sealer.settings, TICKER, self.state, self.now)

    def seal(self, value: bytes, ts_us: int | None = None) -> None:
        self.state, sealed = sealed_from(
            self.sealer,
            [SourceMessage(self.state.next_offset, self.now_us if ts_us is None else ts_us, value)],
            self.state,
        )
        self.closes += sum(one.close is not None for one in sealed)

    def batch(self, ts_us: int | None = None) -> None:
        self.seal(self.lane.cut().value, ts_us)

    def due(self, **how: int | bool) -> bytes | None:
        return self.clock.due(self.state, self.now, HEAD, **how)  # type: ignore[arg-type]  # named as they are there

    def turn(self, after_us: int = 0) -> bool:
        """Let time pass; write and seal the tick that is due."""
        self.now_us += after_us
        tick = self.due()
        if tick is not None:
            self.seal(tick)
        return tick is not None


def tick_of(value: bytes | None) -> Tick:
    return Tick.decode(Control.decode(value or b"").body)


def test_an_idle_partition_gets_no_tick() -> None:
    world = World()
    assert not any(world.turn(WINDOW_US) for _ in range(5))


def test_a_window_closes_when_its_time_is_over_and_not_before() -> None:
    world = World()
    world.batch()
    assert not world.turn()
    assert not world.turn(WINDOW_US - 1)
    assert world.turn(1)
    assert (world.closes, world.state.window) == (1, None)
    assert not world.turn(10 * WINDOW_US)


def test_a_tick_names_counter_number_and_global_head() -> None:
    world = World()
    for counter in (1, 2, 3):
        world.batch()
        assert world.due() is None
        world.now_us += WINDOW_US
        tick = world.due()
        found = tick_of(tick)
        assert (found.counter, found.number, found.flush) == (counter, world.now_us // WINDOW_US, False)
        assert (found.global_size, found.global_root, found.source_id) == (HEAD.size, HEAD.root, SOURCE_ID)
        world.seal(tick or b"")
    assert world.closes == 3


def test_times_that_messages_claim_move_nothing() -> None:
    for ts_us in (0, 4_102_444_800_000_000, START_US):
        world = World()
        world.batch(ts_us)
        assert not world.turn()
        assert not world.turn(WINDOW_US - 1)
        assert world.turn(1)
        assert world.closes == 1


def test_a_window_found_open_closes_within_its_length_whatever_its_stamp() -> None:
    for age_us, waits_us in ((0, WINDOW_US), (WINDOW_US // 2, WINDOW_US // 2), (10 * WINDOW_US, 0), (-WINDOW_US, 0)):
        world = World()
        world.batch(START_US - age_us)
        world.clock = world.new_clock()
        if waits_us:
            assert not world.turn(waits_us - 1)
            world.now_us += 1
        assert world.turn()
        assert world.closes == 1


def test_one_tick_is_under_way_at_a_time_and_a_lost_one_is_written_again() -> None:
    world = World()
    world.batch()
    assert world.due() is None
    world.now_us += WINDOW_US
    first = world.due()
    assert first is not None
    assert world.due() is None
    world.now_us += TICK_TIMEOUT_US
    assert world.due() is None
    world.now_us += 1
    again = tick_of(world.due())
    assert again.counter == tick_of(first).counter
    world.clock.forget()
    assert world.due() is not None


def test_draining_and_a_full_window_flush() -> None:
    world = World()
    world.batch()
    assert world.due() is None
    assert tick_of(world.due(is_draining=True)).flush
    world.clock.forget()
    assert tick_of(world.due(window_bytes=MAX_WINDOW_BYTES)).flush
    assert not World().due(is_draining=True)


def test_a_clock_set_back_still_closes_windows() -> None:
    world = World()
    world.batch()
    assert not world.turn()
    assert world.turn(WINDOW_US)
    world.now_us -= 5 * WINDOW_US
    world.clock = world.new_clock()
    world.batch()
    assert not world.turn()
    assert not world.turn(WINDOW_US - 1)
    assert world.turn(1)
    assert world.closes == 2
    assert world.state.window is None


def test_a_clock_set_back_or_forward_under_an_open_window_changes_nothing() -> None:
    for set_back_us in (3_600_000_000, -3_600_000_000):
        world = World()
        world.batch()
        assert not world.turn()
        world.set_back_us = set_back_us
        assert not world.turn(WINDOW_US - 1)
        assert world.turn(1)
        assert world.closes == 1
        world.batch()
        assert not world.turn()
        assert world.turn(WINDOW_US)
        assert world.closes == 2


def test_in_mode_strong_every_window_gets_a_tick() -> None:
    world = World(make_sealer(make_genesis(mode="strong")))
    assert [world.turn(WINDOW_US) for _ in range(3)] == [True, True, True]
    assert not world.turn()
    assert world.closes == 3


def test_in_mode_strong_a_clock_set_back_keeps_no_window_open() -> None:
    world = World(make_sealer(make_genesis(mode="strong")))
    assert world.turn()
    world.set_back_us = 3_600_000_000
    for closes in (2, 3):
        world.batch()
        assert not world.turn()
        assert world.turn(WINDOW_US)
        assert world.closes == closes
    world.batch()
    assert tick_of(world.due(is_draining=True)).flush
    world.clock.forget()
    assert tick_of(world.due(window_bytes=MAX_WINDOW_BYTES)).flush
