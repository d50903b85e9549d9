"""Other places that get every stored window: the query copy, above all.

Evidence is written first, by the partition itself. What stands here is
optional: it may be slow, full, or not installed, and must never hold up
sealing. So each sink has a thread and a short queue; if the queue runs over
or the sink fails, windows are let go, and later the sink catches up from the
objects, which hold everything.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rlhf_audit_trail.partition import SealedWindow

logger = logging.getLogger(__name__)

_QUEUED_WINDOWS = 64
_RETRY_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_CLOSE_TIMEOUT_S = 600.0  # a catch-up at the end of a long run may take its time; a hung store must not keep us


class WindowSink(Protocol):
    """A store of sealed windows. Used by one thread."""

    def store(self, window: SealedWindow) -> None:
        """Durable when it returns. A window that is already there MUST be a no-op, whoever brought it."""


class CatchingUpSink(WindowSink, Protocol):
    """A sink that can read from the objects what it missed."""

    def catch_up(self) -> None:
        """Store every window that the objects hold and this sink lacks; durable when it returns."""

    def close(self) -> None:
        """Let go of the store."""


class FeedThread:
    """A ``WindowSink`` that hands windows to another one on a thread of its own, and never waits for it.

    ``make`` is called on that thread: a store that cannot be opened is tried again like one that fails.
    """

    def __init__(self, name: str, make: Callable[[], CatchingUpSink]) -> None:
        self.name, self._make = name, make
        self._windows: queue.Queue[SealedWindow | None] = queue.Queue(_QUEUED_WINDOWS)
        self._is_behind = threading.Event()
        self._is_behind.set()  # what was stored before this process began is caught up first
        self._closing = threading.Event()
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name=f"rlhf-audit-{name}", daemon=True)
        self._thread.start()

    def store(self, window: SealedWindow) -> None:
        """Queue a window; with a full queue it is left to the catching up."""
        try:
            self._windows.put_nowait(window)
        except queue.Full:
            self._is_behind.set()

    @property
    def is_behind(self) -> bool:
        """Whether windows are missing there that were stored as evidence."""
        return self._is_behind.is_set() or not self._windows.empty()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Bring the sink up to date, once, and end. Returns whether it is."""
        self._closing.set()
        try:
            self._windows.put_nowait(None)
        except queue.Full:
            self._is_behind.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._is_behind.is_set()

    def _run(self) -> None:
        sink: CatchingUpSink | None = None
        while True:
            try:
                if sink is None:
                    sink = self._make()
                self._feed(sink)
                break
            except Exception as error:
                self._is_behind.set()
                logger.warning("%s pauses: %s", self.name, type(error).__name__)
                logger.debug("%s pauses", self.name, exc_info=error)
                if sink is not None:
                    _close_quietly(sink)
                    sink = None
                pause_s = _RETRY_S[min(self.failures, len(_RETRY_S) - 1)]
                self.failures += 1
                if self._closing.wait(pause_s) and self.failures > 1:
                    return  # one more try after being told to close, and no more
        _close_quietly(sink)

    def _feed(self, sink: CatchingUpSink) -> None:
        """Returns when the sink is up to date and nothing more will come."""
        while True:
            if self._is_behind.is_set():
                self._is_behind.clear()  # before: what is let go meanwhile must be caught up again
                sink.catch_up()
                self.failures = 0
            try:
                window = self._windows.get(timeout=0.5)
            except queue.Empty:
                if self._closing.is_set() and not self._is_behind.is_set():
                    return
                continue
            if window is not None:
                sink.store(window)


def _close_quietly(sink: CatchingUpSink) -> None:
    try:
        sink.close()
    except Exception as error:  # noqa: BLE001 - it is given up anyway
        logger.debug("closing a sink failed: %s", type(error).__name__)
