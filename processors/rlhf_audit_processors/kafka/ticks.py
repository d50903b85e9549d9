"""When the owner of a partition writes a tick, and which (``docs/format.md`` sections 2 and 5).

A window's time counts from when its owner saw it open, by the owner's clock:
time stamps of messages may be of 1970 or 2100 and move nothing. One tick is
under way at a time; its counter follows from the sealed state. A tick that
would not close the open window is not written.

Pure: the clock comes in as an argument, what is due comes out.
"""

from __future__ import annotations

from rlhf_audit_ledger.control import ControlType, Tick, signed_control
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState
from rlhf_audit_processors.kafka.global_head import GlobalHead

MAX_WINDOW_BYTES = 64 * 1024 * 1024  # of source values in one window: every sink holds one in memory
TICK_TIMEOUT_US = 30_000_000  # a tick that was not sealed by then is taken for lost


class TickClock:
    """The ticks of one partition, from the moment its state was read back."""

    def __init__(self, settings: PartitionSettings, ticker: Signer, state: SealState, now_us: int) -> None:
        self._settings, self._ticker = settings, ticker
        self._window_us = settings.stream.window_us
        self._window_id = state.window_id
        self._seen_us: int | None = None
        if state.window is not None:  # opened before we came: its stamp counts if it can be true
            age_us = now_us - state.window.opened_us
            self._seen_us = now_us - min(age_us, self._window_us) if age_us >= 0 else now_us - self._window_us
        self._under_way: tuple[int, int] | None = None  # counter, when it was written

    def age_us(self, state: SealState, now_us: int) -> int:
        """How long the open window has been open, as we saw it; 0 without one."""
        self._look(state, now_us)
        return 0 if self._seen_us is None else max(0, now_us - self._seen_us)

    def is_under_way(self, state: SealState, now_us: int) -> bool:
        """Whether a tick was written that is not sealed yet."""
        if self._under_way is not None:
            counter, since_us = self._under_way
            if state.ticks.counter >= counter or now_us - since_us > TICK_TIMEOUT_US:
                self._under_way = None
        return self._under_way is not None

    def due(
        self, state: SealState, now_us: int, head: GlobalHead, *, window_bytes: int = 0, is_draining: bool = False
    ) -> bytes | None:
        """Source value of the tick that has to be written now; None if none has to. It counts as under way then."""
        age_us = self.age_us(state, now_us)
        if self.is_under_way(state, now_us):
            return None
        number = now_us // self._window_us
        if self._settings.is_strong:  # a tick each window, whether or not anything came
            if number <= state.ticks.number:
                return None
            flush = False
        else:
            is_full = window_bytes >= MAX_WINDOW_BYTES
            if state.window is None or not (is_draining or is_full or age_us >= self._window_us):
                return None
            # A clock behind the one that wrote the last tick must not keep a window open: `flush` closes it.
            flush = is_draining or is_full or max(number, state.ticks.number) <= state.ticks.closed_number
        tick = self._tick(state, now_us, head, flush=flush)
        self._under_way = (tick.counter, now_us)
        return signed_control(ControlType.TICK, tick.encode(), self._ticker)

    def forget(self) -> None:
        """The tick that was under way could not be written."""
        self._under_way = None

    def _tick(self, state: SealState, now_us: int, head: GlobalHead, *, flush: bool) -> Tick:
        ts_us = max(now_us, state.ticks.number * self._window_us)  # a clock set back must not make the number fall
        return Tick(
            ledger_id=self._settings.ledger_id,
            source_id=state.source_id,
            stream=self._settings.stream.stream,
            partition=self._settings.partition,
            counter=state.ticks.counter + 1,
            number=ts_us // self._window_us,
            ts_us=ts_us,
            flush=flush,
            global_size=head.size,
            global_root=head.root,
        )

    def _look(self, state: SealState, now_us: int) -> None:
        """Notice that a window opened or closed."""
        if state.window is None:
            self._seen_us = None
        elif self._seen_us is None or state.window_id != self._window_id:
            self._seen_us = now_us
        self._window_id = state.window_id
