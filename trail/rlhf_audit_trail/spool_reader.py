"""One spool as the runtime takes it: what comes next, what is stored, whether it is done.

Where to go on after any crash is not remembered here: each partition's source
log knows which record of which spool it took last (``SourceLog.taken``), and
order is decided there. Records are read again from the first that is kept;
those that a partition has are passed over.
"""

from __future__ import annotations

from collections import defaultdict, deque

from rlhf_audit_producers.spool_files import SpoolRef
from rlhf_audit_producers.spool_following import Place, SpoolFollower
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.sourcelog import Origin
from rlhf_audit_trail.local import LocalTrail

TAKE_BYTES = 8 << 20  # of one spool, before the next one has its turn


class SpoolReader:
    """Takes the records of one epoch of one producer, in order."""

    def __init__(self, ref: SpoolRef, trail: LocalTrail, disk: Disk) -> None:
        self.ref = ref
        self._trail = trail
        self._follower = SpoolFollower(ref, trail.partitions, disk)
        self._waiting: dict[Place, deque[tuple[int, int]]] = defaultdict(deque)  # (source offset, spool offset)

    @property
    def is_exhausted(self) -> bool:
        """Whether the last ``take`` found nothing."""
        return self._follower.is_exhausted

    def take(self) -> int:
        """Append what is new to the source logs. Returns how many records; ``is_exhausted`` if that was all for now."""
        by_place: dict[Place, tuple[list[bytes], list[Origin]]] = defaultdict(lambda: ([], []))
        taken = 0
        for item in self._follower.read(TAKE_BYTES):
            part = self._trail.part(*item.place)
            if item.offset < part.taken(self.ref.spool_id):
                self._waiting[item.place].append((part.next_source_offset - 1, item.offset))
                continue
            values, origins = by_place[item.place]
            values.append(item.value)
            origins.append(Origin(self.ref.spool_id, item.offset))
            taken += 1
        for place, (values, origins) in sorted(by_place.items()):
            first = self._trail.part(*place).next_source_offset
            self._trail.take(*place, values, origins)
            self._waiting[place].extend((first + at, origin.offset) for at, origin in enumerate(origins))
        return taken

    def why_it_ends(self) -> str:
        """After its writer has gone, and all was taken."""
        return self._follower.why_it_ends()

    def release(self, *, is_done: bool) -> bool:
        """Delete the segments whose records are all stored. Returns whether nothing is left; only if ``is_done``."""
        lowest = self._follower.next_offset
        for place, waiting in self._waiting.items():
            stored = self._trail.part(*place).stored_source_offset
            while waiting and waiting[0][0] < stored:
                waiting.popleft()
            if waiting:
                lowest = min(lowest, waiting[0][1])
        return self._follower.release(lowest, is_done=is_done)
