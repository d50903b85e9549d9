"""What a sealer sees of the global log: size and root of the published head, for its ticks.

Read from the object store at most once a second, and anew whenever partitions
were taken over: a tick must never name a smaller log than the one before it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rlhf_audit_ledger.checkpoint import open_checkpoint
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.objects import ObjectStore

logger = logging.getLogger(__name__)

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
        data, _ = self._objects.get_versioned(GLOBAL_CHECKPOINT)
        head = open_checkpoint(data, self._log_key, self._origin).checkpoint
        return GlobalHead(head.size, head.root)


class WatchedHead:
    """The head as read last, read on in the background: a store that hangs holds nobody up."""

    def __init__(self, source: TickSource, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._source, self._in_thread = source, in_thread
        self._head: GlobalHead | None = None
        self._reading: asyncio.Future[None] | None = None
        self._read_at = 0.0
        self._renewals = 0

    def renew(self) -> None:
        """Partitions were taken over: what was read before is not good enough for their ticks."""
        self._head, self._read_at, self._renewals = None, 0.0, self._renewals + 1

    def now(self) -> GlobalHead | None:
        """None until the first answer since ``renew``; an older one while the store does not answer."""
        now = time.monotonic()
        if self._reading is None and (self._head is None or now - self._read_at >= READ_EVERY_S):
            self._read_at = now
            self._reading = asyncio.ensure_future(self._read(self._renewals))
        return self._head

    async def _read(self, renewals: int) -> None:
        try:
            head: GlobalHead = await self._in_thread(self._source.read)
            if renewals == self._renewals:
                self._head = head
        except (AuditTrailError, OSError) as error:
            logger.warning("global log: not read: %s; ticks go on with what was read before", type(error).__name__)
            await asyncio.sleep(READ_EVERY_S)
        finally:
            self._reading = None
