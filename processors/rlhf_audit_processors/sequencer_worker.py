"""The global log's one writer in a cluster: new checkpoints of partitions, published at most once a second.

It reads them from the objects, where sinks have put them: what is in the
global log is stored. Nothing comes from Kafka, so nothing can be missed.

One at a time, guarded three times:

1. the lock of the folder in which the stage lies keeps out a second one on this machine;
2. who has no stage, or not the newest, is not the one that published last, and does not begin;
3. what is published is compared before anything is written, and swapped last.

A publication that was cut short is finished first, with the very entries that
were staged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_processors.unpublished import checkpoints_after, close_under, find_unpublished, published_checkpoint
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.objects import ObjectStore, SwapLostError
from rlhf_audit_stores.stored_state import RefusedToGoOnError

logger = logging.getLogger(__name__)

PUBLISH_EVERY_S = 1.0
_POLL_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LAST_TRIES = 3  # of the last publication, before it is said that something is left


class NotTheSequencerError(RefusedToGoOnError):
    """Somebody else publishes this global log, or did so last."""


class SequencerWorker:
    """Publishes what partitions have stored. The caller holds the lock."""

    def __init__(
        self,
        sequencer: Sequencer,
        objects: ObjectStore,
        partitions: Sequence[PartitionSettings],
        *,
        signer: Signer,
        origin: str,
        health: WorkerHealth,
        is_taking_over: bool = False,
    ) -> None:
        """``is_taking_over``: go on without a stage, since the place of the last sequencer is gone for good."""
        self._sequencer = sequencer
        self._objects = objects
        self._partitions = partitions
        self._signer = signer
        self._origin = origin
        self._health = health
        self._is_taking_over = is_taking_over
        self._stored: dict[str, Close] = {}
        self._heads: dict[str, bytes] = {}
        self._is_open = False

    def open(self) -> None:
        """Finish what was staged and publish what was not.

        Raises NotTheSequencerError if this is not the place of the last one, RefusedToGoOnError if stage and log do
        not fit.
        """
        if self._sequencer.read_stage() is None and self._sequencer.has_begun and not self._is_taking_over:
            raise NotTheSequencerError(
                "global log: published, and not from this directory: run `rlhf-audit sequence` where the ledger was "
                "founded, or with --take-over if that place is gone for good"
            )
        self._sequencer.open(self._signer.public_key, self._origin)
        self._heads, self._stored = {}, {}
        self._look()
        stored = [(each, self._stored[each.origin]) for each in self._partitions if each.origin in self._stored]
        self._publish(find_unpublished(self._sequencer, self._objects, stored))
        self._is_open = True
        self._health.ready(True)

    def turn(self) -> int:
        """Publish what is new; returns how many checkpoints that were."""
        if not self._is_open:
            self.open()
        before = dict(self._stored)
        entries: list[bytes] = []
        for settings in self._look():
            size = before[settings.origin].size if settings.origin in before else 0
            entries += checkpoints_after(settings, self._objects, self._stored[settings.origin], size)
        self._publish(entries)
        return len(entries)

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Turn once a second until told to stop; a store that does not answer is asked again, more and more rarely.

        Raises what the last turn raised, if that failed ``_LAST_TRIES`` times: not everything is published then.
        """
        pause_s, tries = PUBLISH_EVERY_S, 0
        while True:
            started = time.monotonic()
            is_last = should_stop()
            failed: AuditTrailError | OSError | None = None
            try:
                self.turn()
                pause_s = PUBLISH_EVERY_S
            except SwapLostError as error:  # it may have been ourselves: the answer was lost, and the swap was not
                logger.warning("%s: looking who it was", error)
                self._is_open, failed = False, error
            except (AuditTrailError, OSError) as error:
                if not (isinstance(error, OSError) or error.retriable):
                    raise
                logger.warning("global log pauses: %s", error)
                self._health.ready(False, f"store does not answer: {type(error).__name__}")
                self._is_open, failed = False, error
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._health.alive()
            if is_last:
                if failed is None:
                    return
                tries += 1
                if tries >= _LAST_TRIES:
                    raise failed
            while time.monotonic() - started < pause_s and not should_stop():
                self._health.alive()
                time.sleep(_POLL_S)

    def _look(self) -> list[PartitionSettings]:
        """Read the partitions' heads; returns those that moved."""
        moved = []
        for settings in self._partitions:
            checkpoint = published_checkpoint(settings, self._objects)
            if checkpoint is None or checkpoint == self._heads.get(settings.origin):
                continue
            close = close_under(settings, self._objects, checkpoint)
            before = self._stored.get(settings.origin)
            if before is not None and close.size <= before.size:
                raise RefusedToGoOnError(
                    f"{settings.name}: its checkpoint went back from {before.size} to {close.size}"
                )
            self._stored[settings.origin], self._heads[settings.origin] = close, checkpoint
            moved.append(settings)
        return moved

    def _publish(self, entries: Sequence[bytes]) -> None:
        if entries:
            if self._objects.get(GLOBAL_CHECKPOINT) != self._sequencer.checkpoint:
                raise NotTheSequencerError(
                    "global log: somebody else has published meanwhile: there must be one sequencer"
                )
            self._sequencer.publish(entries, self._signer, self._origin)
            self._health.global_published_timestamp_seconds.set(time.time())
            logger.info("global log: %d checkpoints, size %d", len(entries), self._sequencer.size)
        self._health.global_size.set(self._sequencer.size)
