"""The way of events from a training program into its spool, and what is said of those that do not arrive.

Unless the trail is ``strict``, nothing that goes wrong here reaches the
training: it is logged once, and declared in the ledger as a loss. A strict
trail raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rlhf_audit_producers.spool import RecordingError, Spool
from rlhf_audit_producers.spool_queue import Submission
from rlhf_audit_schemas.errors import AuditTrailError, FormatError
from rlhf_audit_schemas.kinds import Kind
from rlhf_audit_trail.counting import counted

logger = logging.getLogger(__name__)


class Intake:
    """Takes what is to be recorded. ``spool`` is None where none could be opened: then everything is lost."""

    def __init__(self, *, strict: bool) -> None:
        self.spool: Spool | None = None
        self._strict = strict
        self._is_warned = self._has_raised = False
        self._failed_kinds: set[str] = set()
        self._unrecorded = 0

    def guarded(self, kind: Kind, count: int, submit: Callable[[], None]) -> None:
        """A defect of ours, or of an object we were given, stops no training: the events are declared as lost."""
        try:
            submit()
        except AuditTrailError:  # columns that do not fit each other; a strict trail
            raise
        except Exception as error:
            if self._strict:
                raise
            if kind.name not in self._failed_kinds:
                self._failed_kinds.add(kind.name)
                logger.error("%s events could not be recorded: %s", kind.name, type(error).__name__)
            self.declare(kind, count)

    def declare(self, kind: Kind, count: int) -> None:
        """Have the ledger say that ``count`` events could not be made."""
        if self.spool is None:
            self._unrecorded += count
        else:
            self.spool.put(Submission(kind, count, _never))

    def submit(self, item: Submission) -> None:
        """Put it into the spool's queue. Raises RecordingError if ``strict`` and any event was lost by now."""
        spool = self.spool
        if spool is None:
            self._unrecorded += item.count
            return
        is_kept = spool.put(item)
        refusal = spool.refusal
        if self._strict and not (is_kept and refusal is None and not spool.counts.lost):
            self._has_raised = True
            raise RecordingError(f"{item.kind.name} events were lost: {self._why_lost()}")
        if not is_kept and not self._is_warned:
            self._is_warned = True
            how = "the queue is full; the ledger declares how many"
            logger.warning("events are being lost: %s", how if refusal is None else refusal)

    def raise_losses(self, producer: str) -> None:
        """Raises RecordingError if events were lost, unless a call has raised that before."""
        if not self._has_raised and (lost := self._lost):
            raise RecordingError(f"{counted(lost, 'event')} of {producer} lost: {self._why_lost()}")

    @property
    def _lost(self) -> int:
        """Events that are not in the spool, as far as is known; exact once it is closed."""
        return self._unrecorded if self.spool is None else self.spool.unrecorded

    def _why_lost(self) -> str:
        spool = self.spool
        if spool is None:
            return "nothing could be opened"
        return str(spool.error or dict(spool.counts.lost) or spool.refusal or "the queue is full")

    def tell_losses(self, producer: str) -> None:
        """A run that ends well must not look as if everything of it was recorded."""
        lost = self._lost
        if not lost:
            return
        is_declared = self.spool is not None and self.spool.is_declared
        how = "the ledger declares them" if is_declared else "the ledger does not tell how many"
        logger.error("%s of %s %s lost: %s", counted(lost, "event"), producer, "was" if lost == 1 else "were", how)


def _never() -> list[bytes]:
    raise FormatError("it could not even be queued")
