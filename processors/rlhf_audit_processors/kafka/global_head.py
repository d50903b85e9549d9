"""What a sealer sees of the global log: size and root of the published head, for its ticks.

Read from the object store at most once a second, and anew whenever partitions
were taken over: a tick must never name a smaller log than the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlhf_audit_ledger.checkpoint import open_checkpoint
from rlhf_audit_ledger.objects import GLOBAL_PREFIX
from rlhf_audit_stores.objects import ObjectStore

READ_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class GlobalHead:
    """Size and root of the global log at one moment."""

    size: int
    root: bytes


class TickSource(Protocol):
    """Where ticks take the global head from."""

    def read(self) -> GlobalHead:
        """The head that is published now."""


class StoredHead:
    """``TickSource`` over the object store."""

    def __init__(self, objects: ObjectStore, log_key: bytes, origin: str) -> None:
        self._objects, self._log_key, self._origin = objects, log_key, origin

    def read(self) -> GlobalHead:
        """Raises NotStoredError without a ledger, the errors of the store, and TamperError on a wrong signature."""
        data, _ = self._objects.get_versioned(f"{GLOBAL_PREFIX}/checkpoint")
        head = open_checkpoint(data, self._log_key, self._origin).checkpoint
        return GlobalHead(head.size, head.root)
