"""Progress of long work, for a person at a terminal.

A bar on stderr with rate and time left when stderr is a terminal (or progress
is forced on), nothing at all otherwise: results on stdout and logs stay clean,
and rich is not even imported. Counts only; never an event's contents.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rlhf_audit_trail.settings import ProgressMode


class Meter(Protocol):
    """What the work reports to."""

    def advance(self, count: int) -> None:
        """``count`` more units are done. Call it per batch, not per unit."""

    def describe(self, text: str) -> None:
        """Replace the words before the bar, for work that has phases."""


class SilentMeter:
    """Shows nothing."""

    def advance(self, count: int) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


def is_shown(mode: ProgressMode) -> bool:
    """Whether a bar would be drawn."""
    return mode == "on" or (mode == "auto" and sys.stderr.isatty())


@contextmanager
def track(total: int | None, description: str, unit: str = "events", *, mode: ProgressMode = "auto") -> Iterator[Meter]:
    """Show the progress of the work inside the block; ``total`` None is work of unknown size."""
    if not is_shown(mode):
        yield SilentMeter()
        return
    from rlhf_audit_trail._progress_bar import shown_meter

    with shown_meter(total, description, unit) as meter:
        yield meter
