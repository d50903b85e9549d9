"""Bringing the query copy up to what the evidence holds: live, afterwards, or from nothing.

The one way rows get into ClickHouse: windows are read back from ``objects/``
and ``vault/`` (whatever stored them) and go through the sink. So the live
copy and a restored one come from the same code and the same bytes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, CouldNotCheckError, FormatError, TamperError
from rlhf_audit_sinks.stored_windows import StoredWindows
from rlhf_audit_stores.keys import load_secret

if TYPE_CHECKING:
    from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
    from rlhf_audit_trail.places import StoredTrail

logger = logging.getLogger(__name__)

# What is wrong with the evidence of one partition and is right again by no other try.
BROKEN = (TamperError, FormatError, CouldNotCheckError)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The stored windows of a trail, partition by partition."""

    partitions: tuple[StoredWindows, ...]

    @classmethod
    def of(cls, trail: StoredTrail) -> Evidence:
        """Raises CouldNotCheckError if there is no ledger, ConfigError if the vault's key is not there."""
        places = trail.partitions()
        path = trail.directory / "keys" / "vault.key"
        try:
            key = bytes(load_secret(path))
        except FileNotFoundError as error:
            raise ConfigError(f"{path} is not there: the payloads cannot be read") from error
        return cls(tuple(StoredWindows(trail.objects, trail.vault, key, stream, number) for stream, number in places))


def catch_up(
    sink: ClickHouseSink,
    evidence: Evidence,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_window: Callable[[int], None] = lambda events: None,
) -> int:
    """Store every window that the evidence holds and the sink lacks; returns how many. ``on_window`` gets events.

    One broken window holds up its own partition only: the others are stored first. Raises what is wrong with it
    (``BROKEN``, what is false before what is missing) once there is nothing else left to store, ClickHouseError if
    ClickHouse does not answer.
    """
    stored = 0
    broken: AuditTrailError | None = None
    for windows in evidence.partitions:
        try:
            for window in windows.read_from(sink.stored_up_to(windows.stream, windows.partition)):
                sink.store(window)
                stored += 1
                close = window[-1].close
                on_window(0 if close is None else close.events)
                if should_stop():
                    return stored
        except BROKEN as error:
            if broken is None or (isinstance(error, TamperError) and not isinstance(broken, TamperError)):
                broken = error
    if broken is not None and not stored:
        raise broken
    return stored


def windows_missing(sink: ClickHouseSink, evidence: Evidence) -> bool:
    """Whether the evidence holds a window that the sink lacks."""
    return any(each.has(sink.stored_up_to(each.stream, each.partition)) for each in evidence.partitions)


def start_over(engine: EmbeddedEngine) -> None:
    """Delete the engine's data: it is a copy. No client may be open."""
    shutil.rmtree(engine.data)
    engine.data.mkdir(mode=0o700)
