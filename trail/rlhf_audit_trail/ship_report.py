"""What a shipper tells: metrics for machines, a line now and then for a person, trouble in words that help.

Trouble is said once when it begins and again every minute while it lasts, with
what to do about it, and that it is over. Counts, names of topics and producers
only; never anything that was recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from rlhf_audit_producers.shipper_queue import Parcel
from rlhf_audit_producers.shipper_trouble import Blame

if TYPE_CHECKING:
    from rlhf_audit_producers.shipper import Shipper
    from rlhf_audit_stores.health import WorkerHealth

_SAY_AGAIN_S = 60.0
_LINE_EVERY_S = 3.0
_MEASURE_EVERY_S = 1.0


class ShipReport:
    """Listens to one shipper after the other. Used by the shipper's thread."""

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float],
        *,
        health: WorkerHealth | None = None,
        measure: Callable[[], int] = lambda: 0,
        is_shown: bool = False,
    ) -> None:
        """``measure`` tells the bytes in the spools; ``is_shown`` adds a line every few seconds."""
        self._say, self._clock, self._health = say, clock, health
        self._measure, self._is_shown = measure, is_shown
        self._news: Counter[str] = Counter()
        self._news_bytes: Counter[str] = Counter()
        self._said_at: dict[tuple[str, str], float] = {}
        self._lasting: dict[tuple[str, str], Blame] = {}
        self._measured_at = self._line_at = float("-inf")
        self._line_records = 0
        self._spool_bytes = 0
        self.records = self.bytes_shipped = 0

    def acknowledged(self, parcel: Parcel) -> None:
        """All in-sync replicas have it."""
        stream = parcel.place[0]
        self._news[stream] += 1
        self._news_bytes[stream] += len(parcel.value)
        if self._lasting:
            self._clear(stream)

    def trouble(self, blame: Blame, topic: str) -> None:
        """A delivery failed, or the client was told something."""
        key = (blame.reason, topic)
        now = self._clock()
        if self._health is not None:
            self._health.ship_errors.labels(blame.reason).inc()
        if blame.reason not in ("too_large",):
            self._lasting[key] = blame
        if now - self._said_at.get(key, float("-inf")) >= _SAY_AGAIN_S:
            self._said_at[key] = now
            self._say(f"{topic or 'brokers'}: {blame.text}")

    def turned(self, shipper: Shipper) -> None:
        """The loop has turned once."""
        now = self._clock()
        self._count()
        if now - self._measured_at >= _MEASURE_EVERY_S:
            self._measured_at = now
            self._spool_bytes = self._measure()
            self._tell_health(shipper, now)
        if self._is_shown and now - self._line_at >= _LINE_EVERY_S:
            rate = (self.records - self._line_records) / (now - self._line_at)
            if self.records != self._line_records or shipper.queue.records:
                self._say(
                    f"shipped {self.records:,} records ({self.bytes_shipped / 1e6:,.1f} MB), {rate:,.0f}/s; on the way "
                    f"{shipper.queue.records:,}; spools {self._spool_bytes / 1e6:,.1f} MB"
                )
            self._line_at, self._line_records = now, self.records

    @property
    def explanation(self) -> str:
        """Why it does not go on, as far as known; empty if it does."""
        return "; ".join(f"{topic or 'brokers'}: {blame.text}" for (_, topic), blame in sorted(self._lasting.items()))

    def _count(self) -> None:
        for stream, records in self._news.items():
            self.records += records
            self.bytes_shipped += self._news_bytes[stream]
            if self._health is not None:
                self._health.shipped_records.labels(stream).inc(records)
                self._health.shipped_bytes.labels(stream).inc(self._news_bytes[stream])
        self._news.clear()
        self._news_bytes.clear()

    def _tell_health(self, shipper: Shipper, now: float) -> None:
        health = self._health
        if health is None:
            return
        health.alive()
        health.spool_bytes.set(self._spool_bytes)
        oldest = shipper.oldest_read_at
        health.spool_oldest_seconds.set(0 if oldest is None else max(0.0, now - oldest))
        health.ready(not self._lasting, self.explanation)

    def _clear(self, stream: str) -> None:
        for key in [key for key in self._lasting if not key[1] or key[1].endswith(f"audit.{stream}")]:
            del self._lasting[key]
            if self._said_at.pop(key, None) is not None:
                self._say(f"{key[1] or 'brokers'}: shipping again")
