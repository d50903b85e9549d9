"""Reading a trail for people: its state, its newest windows, and how things are written on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_ask import asker_of, live_asker
from rlhf_audit_trail.trail_state import TrailState, read_state, stored_windows, window_headers

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def state_of(trail: StoredTrail) -> TrailState:
    """State of a trail: asks the query copy if there is one, and does without if not."""
    from rlhf_audit_sinks.clickhouse.engine import NoEngineError, is_installed

    trail.partition_counts()  # says so at once if there is no ledger
    live = live_asker(trail.directory)
    if live is not None:
        try:
            return read_state(trail, live)
        except AuditTrailError:  # it ended just now
            pass
        finally:
            live.close()
    if not trail.settings.clickhouse_host and not is_installed():
        return read_state(trail, None, not_asked=str(NoEngineError()))
    try:
        with asker_of(trail) as asker:
            return read_state(trail, asker)
    except (AuditTrailError, OSError) as error:  # less is known then, and that is said
        return read_state(trail, None, not_asked=str(error))


@dataclass(frozen=True, slots=True)
class WindowLine:
    """One stored window: what it holds, by kind and by outcome."""

    stream: str
    partition: int
    window: int
    closed_us: int
    kinds: dict[str, int]
    odd: dict[str, int]

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.closed_us / 1e6, UTC).strftime("%H:%M:%S UTC")
        kinds = ", ".join(f"{count:,} {name}" for name, count in self.kinds.items()) or "no events"
        odd = "".join(f"  {count:,} {name.upper()}" for name, count in self.odd.items())
        return f"{at}  {f'{self.stream}/{self.partition}':<14} window {self.window:<6} {kinds}{odd}"

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def new_windows(
    trail: StoredTrail, shown: dict[tuple[str, int], int], *, newest: int | None = None
) -> Iterator[WindowLine]:
    """Windows stored since the last call; ``shown`` keeps how far it came. ``newest``: of each log only so many."""
    objects = trail.objects
    for stream, number in trail.partitions():
        windows = stored_windows(objects, (stream, number))
        start = shown.get((stream, number), 0)
        if newest is not None:
            start = max(start, windows - newest)
        for window in range(start, windows):
            yield _line(objects, stream, number, window)
        shown[stream, number] = windows


def _line(objects: ObjectStore, stream: str, partition: int, window: int) -> WindowLine:
    kinds: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    headers = window_headers(objects, stream, partition, window)
    for header in headers:
        if header.outcome in ("accepted", "gap_filled") and header.batch is not None:
            known = KINDS_BY_NUMBER.get(header.batch.kind)
            kinds[f"{header.batch.kind:#06x}" if known is None else known.name] += header.batch.count
        if header.outcome not in ("accepted", "control", "ignored"):
            odd[header.outcome] += 1
    return WindowLine(stream, partition, window, headers[-1].ts_us, {k: n for k, n in kinds.items() if n}, dict(odd))


def clean(text: str) -> str:
    """Text that somebody else chose, safe for a terminal."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def ago(at_us: int, state: TrailState) -> str:
    """How long before the state was read."""
    seconds = max(0, (state.at_us - at_us) // 1_000_000)
    if seconds < _MINUTE_S:
        return f"{seconds} s ago"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S} min ago"
    return f"{seconds // _HOUR_S} h ago" if seconds < 2 * _DAY_S else f"{seconds // _DAY_S} d ago"
