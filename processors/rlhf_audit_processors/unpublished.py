"""Checkpoints of partitions that are stored and do not stand in the global log yet.

A window is stored first and published afterwards, so whoever sequences begins
by looking for what came in between. The global log names the newest size of
each partition; the partition's own newest close says how far it is; the
segments in between hold the checkpoints, each signed by the log key.
"""

from __future__ import annotations

from collections.abc import Iterable

from rlhf_audit_ledger.checkpoint import open_checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.fold import decode_close
from rlhf_audit_ledger.objects import SEGMENT, log_prefix, segment_name
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.tiles import TileReader
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.objects import NotStoredError, ObjectStore
from rlhf_audit_stores.stored_state import RefusedToGoOnError


def published_checkpoint(settings: PartitionSettings, objects: ObjectStore) -> bytes | None:
    """The partition's own checkpoint as it is stored, None before the first; not verified."""
    try:
        return objects.get(f"{log_prefix(settings.stream.stream, settings.partition)}/checkpoint")
    except NotStoredError:
        return None


def close_under(settings: PartitionSettings, objects: ObjectStore, checkpoint: bytes) -> Close:
    """The close that a partition's checkpoint stands for. Raises TamperError if it is not what the log key signed."""
    size = open_checkpoint(checkpoint, settings.log_key, settings.origin).checkpoint.size
    prefix = log_prefix(settings.stream.stream, settings.partition)
    last = TileReader(size, lambda path: objects.get(f"{prefix}/{path}")).entry(size - 1)
    close = decode_close(last, f"{settings.name} index {size - 1}")
    if _checkpoint_of(settings, objects, close.window) != checkpoint:
        raise RefusedToGoOnError(
            f"{settings.name} window {close.window}: its segment holds another checkpoint than the one published; run "
            "`rlhf-audit verify`"
        )
    return close


def checkpoints_after(settings: PartitionSettings, objects: ObjectStore, close: Close, size: int) -> list[bytes]:
    """Checkpoints of the stored windows up to ``close`` whose log is larger than ``size``, in order."""
    found: list[bytes] = []
    for window in range(close.window, -1, -1):
        checkpoint = _checkpoint_of(settings, objects, window)
        if open_checkpoint(checkpoint, settings.log_key, settings.origin).checkpoint.size <= size:
            break
        found.append(checkpoint)
    return found[::-1]


def find_unpublished(
    sequencer: Sequencer, objects: ObjectStore, stored: Iterable[tuple[PartitionSettings, Close]]
) -> list[bytes]:
    """What the global log lacks of these partitions, each with the close it is stored up to.

    Raises AuditTrailError if the global log is ahead of a partition.
    """
    partitions = {settings.origin: (settings, close) for settings, close in stored}
    newest = sequencer.newest_sizes(set(partitions))
    missing: list[bytes] = []
    for origin, (settings, close) in partitions.items():
        size = newest.get(origin, 0)
        if size > close.size:
            raise AuditTrailError(
                f"{settings.name}: the global log names size {size}, the partition's own checkpoint {close.size}: the "
                "object store was restored from an older state; run `rlhf-audit verify` and restore the newer objects"
            )
        missing += checkpoints_after(settings, objects, close, size)
    return missing


def _checkpoint_of(settings: PartitionSettings, objects: ObjectStore, window: int) -> bytes:
    name = segment_name(settings.stream.stream, settings.partition, window)
    last = SealedRecord.from_segment(SEGMENT.decode(name, objects.get(name))[-1])
    if last.checkpoint is None:
        raise RefusedToGoOnError(f"{name}: does not end with a checkpoint; run `rlhf-audit verify`")
    return last.checkpoint
