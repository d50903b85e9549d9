"""A process's spool: a queue in front, a thread behind, and what happens at fork and at exit.

``put`` is all that the training thread does: it never waits for a disk. The
thread takes a turn every 200 ms, or sooner when the queue is half full.

A forked child never touches what it inherited: it closes the copies of its
parent's files, and begins under a name and an epoch of its own as soon as it
records something. Processes that are started anew (spawn, torchrun) open a
spool like any other. At exit, or at the end of a child of ``multiprocessing``
(``process_end``), what waits is written and ``producer_end`` said; a process
that is killed leaves its lock free without that end, and whoever drains the
spools says so.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable

from rlhf_audit_producers.batches import EndReason
from rlhf_audit_producers.process_end import SPOOL_PRIORITY, before_child_ends, fatal_error, when_child_begins
from rlhf_audit_producers.spool_queue import SpoolQueue, Submission
from rlhf_audit_producers.spool_routes import Router
from rlhf_audit_producers.spool_writer import SpoolSettings, SpoolWriter, WriterCounts
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.disk import DiskFullError

logger = logging.getLogger(__name__)

LINGER_S = 0.2  # format section 2: small batches are waited for up to 200 ms
CLOSE_TIMEOUT_S = 30.0  # a disk that hangs must not keep a finished training from ending
_OPEN_AGAIN_S, _MAX_OPEN_AGAIN_S = 1.0, 30.0  # each try takes an epoch


class RecordingError(AuditTrailError):
    """Something could not be recorded, and the trail is strict."""


class Spool:
    """One process's door to the spools of a trail. Any thread may use it.

    ``leave`` is called instead of ``close`` where a child of ``multiprocessing`` ends.
    """

    def __init__(
        self,
        settings: SpoolSettings,
        *,
        claim: Callable[[bytes], bool] | None = None,
        every_turn: Callable[[], None] | None = None,
        leave: Callable[[EndReason], None] | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        self._settings, self._claim, self._every_turn, self._linger_s = settings, claim, every_turn, linger_s
        self._leave = self.close if leave is None else leave
        self._guard = threading.RLock()
        self._begin_anew()
        when_child_begins(self, Spool._end_with_child)
        with _fork:  # a spool that begins while another thread forks is not the child's
            _LIVE.add(self)

    def _begin_anew(self) -> None:
        settings = self._settings
        self._router = Router(settings.facts, settings.base_producer)
        self._queue = SpoolQueue(
            max_events=settings.max_queue_events, max_bytes=settings.max_queue_bytes, places=self._router.places
        )
        self._writer = SpoolWriter(settings, self._queue, self._router, self._claim)
        self._thread: threading.Thread | None = None
        self._turned = threading.Condition()
        self._asked = self._answered = 0
        self._closing = threading.Event()
        self._reason: EndReason = "finished"
        self._is_closed = False
        self._is_open = threading.Event()
        self._opening = threading.Lock()
        self._refused = 0
        self._has_warned = False
        self.error: Exception | None = None

    @property
    def producer(self) -> str:
        """Id of this process's producer; the final one only after the first turn."""
        return self._writer.producer

    @property
    def counts(self) -> WriterCounts:
        """What was recorded and lost so far, as far as the writer has come."""
        return self._writer.counts

    @property
    def unrecorded(self) -> int:
        """Events that were put in and, as far as the writer has come, are lost; exact after ``close``."""
        writer = self._writer
        return writer.counts.lost.total() + writer.events_left + self._queue.events_left() + self._refused

    @property
    def is_declared(self) -> bool:
        """Whether the spool says of every loss that it happened."""
        return self._writer.has_ended and not self._refused

    @property
    def dropped(self) -> int:
        """Events that found the queue full."""
        return self._queue.dropped

    @property
    def refusal(self) -> str | None:
        """Why nothing is taken any more; None as long as the spool records."""
        if self.error is not None:
            return "recording has stopped"
        return "the trail is closed" if self._is_closed else None

    @property
    def is_full(self) -> bool:
        """Whether the writer has no room at the moment."""
        return self._writer.is_full

    def start(self, *, wait_s: float = 0.0) -> bool:
        """Begin to write, if that has not happened, and wait for so long. Returns whether the spool is open."""
        if not self._is_started():
            with self._guard:
                if not self._is_started() and not self._is_closed:
                    self._thread = threading.Thread(target=self._run, name="rlhf-audit-spool", daemon=True)
                    self._thread.start()
                    self._end_with_child()
        return self._is_open.wait(wait_s) if wait_s else self._is_open.is_set()

    def _end_with_child(self) -> None:
        before_child_ends(
            lambda: self._leave("finished" if fatal_error() is None else "failed"), priority=SPOOL_PRIORITY
        )

    def _is_started(self) -> bool:
        return self._thread is not None

    def put(self, item: Submission) -> bool:
        """Queue events; returns False if they were dropped. Never waits."""
        if self._thread is None:
            self.start()
        if self._is_closed or self.error is not None:
            self._refused += item.count
            return False
        return self._queue.put(item)

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Wait until everything put in before is durable. Returns False if that did not come to pass."""
        if self._thread is None:
            return len(self._queue) == 0
        with self._turned:
            self._asked += 1
            wanted = self._asked
            self._queue.wake.set()
            self._turned.wait_for(lambda: self._answered >= wanted or self.error is not None, timeout_s)
            return self._answered >= wanted and not self._writer.is_full

    def close(self, reason: EndReason = "finished", *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what waits, say the end. Idempotent."""
        with self._guard:
            if self._is_closed:
                return
            self._is_closed = True
            self._reason = reason
            self._closing.set()
            self._queue.wake.set()
        _LIVE.discard(self)
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.error("spool of %s did not end within %.0f s: it will be called lost", self.producer, timeout_s)

    def _run(self) -> None:
        try:
            pause_s, is_last = _OPEN_AGAIN_S, False
            while not self._try_to_open():
                if is_last:
                    return
                is_last = self._closing.wait(pause_s)  # there may be room by now: one more try before the end
                pause_s = min(2 * pause_s, _MAX_OPEN_AGAIN_S)
            while not self._closing.is_set():
                self._queue.wake.wait(self._linger_s)
                self._queue.wake.clear()
                self._turn()
            self._writer.close(self._reason)
            self._tell_turned(self._asked)
        except Exception as error:  # noqa: BLE001 - the boundary of this thread: training must not die of us
            logger.error("recording stopped: %s: %s", type(error).__name__, _safe(error))
            self.error = error
            self._writer.abandon()
            with self._turned:
                self._turned.notify_all()

    def _turn(self) -> None:
        if self._every_turn is not None:
            try:
                self._every_turn()
            except Exception as error:  # noqa: BLE001 - a convenience beside recording, never its end
                logger.warning("%s %s", type(error).__name__, _safe(error))
        asked = self._asked
        self._writer.turn()
        self._tell_turned(asked)

    def _tell_turned(self, asked: int) -> None:
        with self._turned:
            self._answered = asked
            self._turned.notify_all()

    def _try_to_open(self) -> bool:
        with self._opening:
            try:
                self._writer.open()
            except (DiskFullError, OSError) as error:
                self._queue.reason = "spool_full"
                level = logging.DEBUG if self._has_warned else logging.WARNING
                logger.log(level, "the spool cannot be opened yet: %s", _safe(error))
                self._has_warned = True
                return False
        self._queue.reason = "queue_full"
        self._is_open.set()
        return True

    # Fork: what the parent's threads hold must be whole in the child, and then be let go of there.

    def _before_fork(self) -> None:
        self._opening.acquire()
        self._queue.lock.acquire()

    def _after_fork_in_parent(self) -> None:
        self._queue.lock.release()
        self._opening.release()

    def _after_fork_in_child(self) -> None:
        writer = self._writer
        self._guard = threading.RLock()
        was_closed = self._is_closed
        self._begin_anew()
        self._is_closed = was_closed
        writer.forget_files()


_LIVE: set[Spool] = set()  # not weak: its copy must not fail while another thread opens or closes a spool
_fork = threading.Lock()  # threads fork one at a time: ``_forking`` is of one fork
_forking: list[Spool] = []


def _before_fork() -> None:
    _fork.acquire()
    _forking[:] = _LIVE
    for spool in _forking:
        spool._before_fork()


def _after_fork_in_parent() -> None:
    for spool in reversed(_forking):
        spool._after_fork_in_parent()
    _forking.clear()
    _fork.release()


def _after_fork_in_child() -> None:
    """The lock was taken by the thread that forked, and that is the only one here."""
    for spool in _forking:
        spool._after_fork_in_child()
    _forking.clear()
    _fork.release()


def exit_reason() -> EndReason:
    """How this process is about to end, as far as it knows."""
    return "failed" if getattr(sys, "last_type", None) is not None else "finished"


def _close_all() -> None:
    reason = exit_reason()
    for spool in list(_LIVE):
        spool.close(reason)


def _safe(error: Exception) -> str:
    """Our own messages never hold contents; those of others might."""
    return str(error) if isinstance(error, (AuditTrailError, OSError)) else ""


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_close_all)
