"""The evidence sink: one partition's windows as objects that anyone can re-check.

Per window, in this order: vault object, segment, tiles and bundles, then the
partition's checkpoint. Everything but the checkpoint is put-if-absent and a
pure function of the window, so a retry writes the same bytes; another
content under a name is a fork alarm. The checkpoint is replaced by
compare-and-swap and only grows. When a call returns, all of it is durable.

The sink signs nothing and decides nothing: the checkpoint comes with the
sealed record, and it refuses one that is not the root of what it stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_audit_ledger.checkpoint import open_checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.merkle import leaf_hash
from rlhf_audit_ledger.objects import SEGMENT, log_prefix, segment_name, vault_name
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import genesis_entry
from rlhf_audit_ledger.tiles import Edge, grow
from rlhf_audit_ledger.vault import VaultRecord, seal_vault
from rlhf_audit_schemas.errors import TamperError, TransportError
from rlhf_audit_stores.objects import ObjectStore, Version

logger = logging.getLogger(__name__)


class RootMismatchError(TamperError):
    """A window's checkpoint is not the root of the log that the sink holds."""


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A window whose objects and checkpoint are durable."""

    close: Close
    checkpoint: bytes


class EvidenceSink:
    """Writes the windows of one partition, in order, from the right edge that the store already holds."""

    def __init__(
        self,
        settings: PartitionSettings,
        *,
        objects: ObjectStore,
        vault: ObjectStore,
        vault_key: bytes,
        edge: Edge,
        version: Version | None,
    ) -> None:
        self._settings = settings
        self._objects = objects
        self._vault = vault
        self._vault_key = vault_key
        self._edge = edge
        self._version = version
        self._prefix = log_prefix(settings.stream.stream, settings.partition)

    def store(self, window: Sequence[Sealed]) -> StoredWindow:
        """Store all records since the last close, the last of which closes the window.

        Raises AlreadyStoredError if an object of this name holds other bytes, SwapLostError if somebody else moved
        the checkpoint, RootMismatchError if the window does not extend what is stored.
        """
        last = window[-1]
        close, checkpoint = last.close, last.record.checkpoint
        if close is None or checkpoint is None or last.record.close is None:
            raise ValueError("a window ends with its close")
        entries, leaves = self._entries(window)
        edge, tiles, completed = grow(self._edge, entries, leaves)
        signed = open_checkpoint(checkpoint, self._settings.log_key, self._settings.origin).checkpoint
        if (signed.size, signed.root) != (edge.size, edge.root()):
            raise RootMismatchError(
                f"{self._settings.name} window {close.window}: signed size {signed.size} root {signed.root.hex()}, "
                f"stored log has size {edge.size} root {edge.root().hex()}"
            )
        self._vault.put_many([self._vault_object(close.window, window)])
        segment = segment_name(close.stream, close.partition, close.window)
        records = [one.record.encode_for_segment() for one in window]
        self._objects.put(segment, SEGMENT.encode(segment, records))  # durable before any tile: no tile unexplained
        self._objects.put_many((f"{self._prefix}/{path}", data) for path, data in tiles.items())
        self._version = self._objects.swap(f"{self._prefix}/checkpoint", checkpoint, self._version)
        self._edge = edge
        try:
            delete_partials(self._objects, self._prefix, completed)
        except (OSError, TransportError) as error:  # the window is stored: failing now would store it again on top
            logger.warning("%s: partial tiles stay for now (%s)", self._settings.name, type(error).__name__)
        return StoredWindow(close, checkpoint)

    def _entries(self, window: Sequence[Sealed]) -> tuple[list[bytes], list[bytes]]:
        """Log entries of the window in order, with their leaf hashes; leaf 0 comes with the first window."""
        entries: list[bytes] = []
        leaves: list[bytes] = []
        if self._edge.size == 0:
            first = genesis_entry(self._settings)
            entries.append(first)
            leaves.append(leaf_hash(first))
        for one in window:
            entries += one.record.entries
            entries += one.event_entries
            leaves += one.leaves
            if one.record.close is not None:
                entries.append(one.record.close)
                leaves.append(leaf_hash(one.record.close))
        return entries, leaves

    def _vault_object(self, window_id: int, window: Sequence[Sealed]) -> tuple[str, bytes]:
        settings = self._settings
        name = vault_name(settings.stream.stream, settings.partition, window_id)
        records = [VaultRecord(one.salt, one.header.offset, one.record.value) for one in window]
        return name, seal_vault(f"vault/{name}", records, self._vault_key)


def delete_partials(objects: ObjectStore, prefix: str, completed: Sequence[str]) -> None:
    """Delete the partial forms of tiles and bundles whose full one is durable (tlog-tiles allows it then)."""
    objects.delete_many(list(_partials(objects, prefix, completed)))


def _partials(objects: ObjectStore, prefix: str, completed: Sequence[str]) -> Iterator[str]:
    for path in completed:
        for info in objects.list(f"{prefix}/{path}.p/"):
            yield info.name
