"""Who else hears of every stored window: the query copy, above all.

Evidence is written first, by the partition itself, and is all that counts. A
sink is told afterwards, and catches up from the objects whatever it missed;
so one that fails is told no more, and sealing goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rlhf_audit_trail.partition import SealedWindow

logger = logging.getLogger(__name__)


class WindowSink(Protocol):
    """Somebody who wants to know of windows."""

    def store(self, window: SealedWindow) -> None:
        """Take note of a window whose evidence is durable. MUST NOT wait for anything slow."""


class OptionalSinks:
    """Sinks that must never stop whoever seals."""

    def __init__(self, sinks: Sequence[WindowSink]) -> None:
        self._sinks = list(sinks)

    def store(self, window: SealedWindow) -> None:
        """Tell every sink; one that raises is told no more in this process."""
        for sink in list(self._sinks):
            try:
                sink.store(window)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an optional store, evidence goes on
                self._sinks.remove(sink)
                logger.error("%s failed (%s): it catches up later", type(sink).__name__, type(error).__name__)
