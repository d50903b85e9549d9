"""One spool as the runtime takes it: what comes next, what is stored, whether it is done.

Where to go on after any crash is not remembered here: each partition's source
log knows which record of which spool it took last (``SourceLog.taken``), and
order is decided there. Records are read again from the first that is kept;
those that a partition has are passed over.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from contextlib import suppress
from itertools import zip_longest

from rlhf_audit_producers.spool_files import SpoolRef, unpack_spool_record
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.following import RecordFollower
from rlhf_audit_stores.recordlog import segment_offsets, segment_path
from rlhf_audit_stores.sourcelog import Origin
from rlhf_audit_trail.local import LocalTrail

logger = logging.getLogger(__name__)

TAKE_BYTES = 8 << 20  # of one spool, before the next one has its turn
_NOWHERE = ("lifecycle", 0)  # a record that names no partition of this ledger is quarantined there
Place = tuple[str, int]


class SpoolReader:
    """Takes the records of one epoch of one producer, in order."""

    def __init__(self, ref: SpoolRef, trail: LocalTrail, disk: Disk) -> None:
        self.ref = ref
        self._trail, self._disk = trail, disk
        self._follower = RecordFollower(ref.folder, disk)
        self._waiting: dict[Place, deque[tuple[int, int]]] = defaultdict(deque)  # (source offset, spool offset)
        self.is_exhausted = False

    def take(self) -> int:
        """Append what is new to the source logs. Returns how many records; ``is_exhausted`` if that was all for now."""
        records = self._follower.read(TAKE_BYTES)
        self.is_exhausted = not records
        by_place: dict[Place, tuple[list[bytes], list[Origin]]] = defaultdict(lambda: ([], []))
        taken = 0
        for offset, payload in records:
            place, value = self._unpacked(payload)
            part = self._trail.part(*place)
            if offset < part.taken(self.ref.spool_id):
                self._waiting[place].append((part.next_source_offset - 1, offset))
                continue
            values, origins = by_place[place]
            values.append(value)
            origins.append(Origin(self.ref.spool_id, offset))
            taken += 1
        for place, (values, origins) in sorted(by_place.items()):
            first = self._trail.part(*place).next_source_offset
            self._trail.take(*place, values, origins)
            self._waiting[place].extend((first + at, origin.offset) for at, origin in enumerate(origins))
        return taken

    def _unpacked(self, payload: bytes) -> tuple[Place, bytes]:
        try:
            stream, partition, value = unpack_spool_record(payload)
            self._trail.part(stream, partition)
        except FormatError as error:
            logger.error("spool of %s epoch %d: %s", self.ref.producer, self.ref.epoch, error)
            return _NOWHERE, payload
        return (stream, partition), value

    def check_end(self) -> None:
        """After its writer has gone. Raises DamagedLogError if records follow that cannot be read."""
        self._follower.check_end()

    def release(self, *, is_done: bool) -> bool:
        """Delete the segments whose records are all stored. Returns whether nothing is left; only if ``is_done``."""
        lowest = self._follower.next_offset
        for place, waiting in self._waiting.items():
            stored = self._trail.part(*place).stored_source_offset
            while waiting and waiting[0][0] < stored:
                waiting.popleft()
            if waiting:
                lowest = min(lowest, waiting[0][1])
        if not self._disk.exists(self.ref.folder):
            return is_done
        firsts = segment_offsets(self._disk, self.ref.folder)
        for first, end in zip_longest(firsts, firsts[1:]):
            if end is None and not is_done:
                return False  # the last segment belongs to its writer until that is gone
            if (self._follower.next_offset if end is None else end) > lowest:
                return False
            self._disk.unlink(segment_path(self.ref.folder, first))
            self._disk.sync_dir(self.ref.folder)
        if is_done and not any(self._waiting.values()):
            with suppress(OSError):
                self.ref.folder.rmdir()
            return True
        return False
