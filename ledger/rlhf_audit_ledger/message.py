"""A message of a source log, as every step sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """``ts_us`` is the message's own time (whole milliseconds times 1000); ``value`` None is a hole."""

    offset: int
    ts_us: int
    value: bytes | None
