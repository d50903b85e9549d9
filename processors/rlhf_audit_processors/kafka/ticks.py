"""When the owner of a partition writes a tick, and which (``docs/format.md`` sections 2 and 5).

Windows age by the owner's own steady clock (``window_clock``). One tick is
under way at a time; its counter follows from the sealed state. A tick that
would not close the open window is not written.

Pure: the clock comes in as an argument, what is due comes out.
"""

from __future__ import annotations

from rlhf_audit_ledger.control import ControlType, signed_control
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState
from rlhf_audit_processors.kafka.global_head import GlobalHead
from rlhf_audit_processors.window_clock import Instant, WindowAge, has_to_flush, next_tick

MAX_WINDOW_BYTES = 64 * 1024 * 1024  # of source values in one window: every sink holds one in memory
TICK_TIMEOUT_US = 30_000_000  # a tick that was not sealed by then is taken for lost


class TickClock:
    """The ticks of one partition, from the moment its state was read back."""

    def __init__(self, settings: PartitionSettings, ticker: Signer, state: SealState, now: Instant) -> None:
        self._settings, self._ticker = settings, ticker
        self._window_us = settings.stream.window_us
        self._age = WindowAge(self._window_us, state, now)
        self._under_way: tuple[int, int] | None = None  # counter, and when it was written by the steady clock

    def age_us(self, state: SealState, now: Instant) -> int:
        """How long the open window has been open, as we saw it; 0 without one."""
        return self._age.us(state, now)

    def is_under_way(self, state: SealState, now: Instant) -> bool:
        """Whether a tick was written that is not sealed yet."""
        if self._under_way is not None:
            counter, since_us = self._under_way
            if state.ticks.counter >= counter or now.steady_us - since_us > TICK_TIMEOUT_US:
                self._under_way = None
        return self._under_way is not None

    def due(
        self, state: SealState, now: Instant, head: GlobalHead, *, window_bytes: int = 0, is_draining: bool = False
    ) -> bytes | None:
        """Source value of the tick that has to be written now; None if none has to. It counts as under way then."""
        age_us = self._age.us(state, now)
        if self.is_under_way(state, now):
            return None
        is_full = window_bytes >= MAX_WINDOW_BYTES
        closes = state.window is not None and (is_draining or is_full or age_us >= self._window_us)
        # In mode strong a tick each window, whether or not anything came.
        is_time = self._settings.is_strong and now.wall_us // self._window_us > state.ticks.number
        if not (closes or is_time):
            return None
        flush = closes and (is_draining or is_full or has_to_flush(state.ticks, self._window_us, now.wall_us))
        tick = next_tick(
            self._settings,
            state,
            now.wall_us,
            source_id=state.source_id,
            flush=flush,
            global_size=head.size,
            global_root=head.root,
        )
        self._under_way = (tick.counter, now.steady_us)
        return signed_control(ControlType.TICK, tick.encode(), self._ticker)

    def forget(self) -> None:
        """The tick that was under way could not be written."""
        self._under_way = None
