"""When a window's time is over, and the tick that closes it (``docs/format.md`` sections 2 and 5).

A window's time counts from when whoever writes its ticks saw it open, by a
clock that is never set: time stamps of messages may be of 1970 or 2100, and
the machine's clock may be set back, and no window closes early or never.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

from rlhf_audit_ledger.close import TickState
from rlhf_audit_ledger.control import Tick
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment, in microseconds: ``wall_us`` since 1970, for stamps; ``steady_us`` of a clock nobody sets."""

    wall_us: int
    steady_us: int

    @classmethod
    def now(cls) -> Self:
        """This moment."""
        return cls(time.time_ns() // 1000, time.monotonic_ns() // 1000)


class WindowAge:
    """For how long the open window of one partition has been open."""

    def __init__(self, window_us: int, state: SealState, now: Instant) -> None:
        self._window_id = state.window_id
        self._seen_us: int | None = None
        if state.window is not None:  # opened before we came: its stamp counts if it can be true
            age_us = now.wall_us - state.window.opened_us
            self._seen_us = now.steady_us - (min(age_us, window_us) if age_us >= 0 else window_us)

    def us(self, state: SealState, now: Instant) -> int:
        """Microseconds since it was seen to open; 0 without one. Notices windows that opened or closed."""
        if state.window is None:
            self._seen_us = None
        elif self._seen_us is None or state.window_id != self._window_id:
            self._seen_us = now.steady_us
        self._window_id = state.window_id
        return 0 if self._seen_us is None else max(0, now.steady_us - self._seen_us)


def has_to_flush(ticks: TickState, window_us: int, wall_us: int) -> bool:
    """Whether a tick closes the open window by ``flush`` alone: a clock behind the one of the last tick, or set back,
    must not keep it open."""
    return max(wall_us // window_us, ticks.number) <= ticks.closed_number


def next_tick(
    settings: PartitionSettings,
    state: SealState,
    wall_us: int,
    *,
    source_id: bytes,
    flush: bool,
    global_size: int,
    global_root: bytes,
) -> Tick:
    """The tick after those that ``state`` knows. A clock set back must not make the number fall."""
    window_us = settings.stream.window_us
    ts_us = max(wall_us, state.ticks.number * window_us)
    return Tick(
        ledger_id=settings.ledger_id,
        source_id=source_id,
        stream=settings.stream.stream,
        partition=settings.partition,
        counter=state.ticks.counter + 1,
        number=ts_us // window_us,
        ts_us=ts_us,
        flush=flush,
        global_size=global_size,
        global_root=global_root,
    )
