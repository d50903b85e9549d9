"""One spool as those read it who drain it: what comes next and where it goes, how it ended, what may be deleted.

The one-process runtime and the shipper share this. Nothing is remembered
beyond the process: whoever drains knows by other means where to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Final, NamedTuple

from rlhf_audit_producers.spool_files import SpoolRef, unpack_spool_record
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.following import RecordFollower
from rlhf_audit_stores.recordlog import DamagedLogError, segment_offsets, segment_path

logger = logging.getLogger(__name__)

NO_END: Final = "its lock is free without a producer_end"
DAMAGED_END: Final = "its lock is free, and its spool is damaged behind the last record that was read"
Place = tuple[str, int]
NOWHERE: Final[Place] = ("lifecycle", 0)  # a record that names no partition of this ledger is quarantined there


class SpoolItem(NamedTuple):
    """One record: the partition it belongs to and the source value; not ``is_addressed``: the record as it lies."""

    offset: int
    place: Place
    value: bytes
    is_addressed: bool


class SpoolFollower:
    """Reads the records of one epoch of one producer in order, from ``offset`` on."""

    def __init__(self, ref: SpoolRef, partitions: Mapping[str, int], disk: Disk, *, offset: int = 0) -> None:
        self.ref = ref
        self._partitions, self._disk = partitions, disk
        self._follower = RecordFollower(ref.folder, disk, offset)
        self.is_exhausted = False

    @property
    def next_offset(self) -> int:
        """Offset of the record that is read next."""
        return self._follower.next_offset

    def read(self, max_bytes: int) -> list[SpoolItem]:
        """What is new, no more after ``max_bytes``; ``is_exhausted`` if that was all for now."""
        items = [self._item(offset, record) for offset, record in self._follower.read(max_bytes)]
        self.is_exhausted = not items
        return items

    def _item(self, offset: int, record: bytes) -> SpoolItem:
        try:
            stream, partition, value = unpack_spool_record(record)
            if not 0 <= partition < self._partitions.get(stream, 0):
                raise FormatError(f"{stream}/{partition}: no such partition")
        except FormatError as error:
            logger.error("spool of %s epoch %d: %s", self.ref.producer, self.ref.epoch, error)
            return SpoolItem(offset, NOWHERE, record, False)
        return SpoolItem(offset, (stream, partition), value, True)

    def why_it_ends(self) -> str:
        """After its writer has gone, and all was read: the reason that ``producer_lost`` gives."""
        try:
            self._follower.check_end()
        except DamagedLogError as error:
            logger.error("%s", error)
            return DAMAGED_END
        return NO_END

    def release(self, lowest: int, *, is_done: bool) -> bool:
        """Delete the segments that lie wholly below ``lowest``, the last one only if ``is_done``.

        Returns whether nothing is left of a spool that is done.
        """
        folder = self.ref.folder
        if not self._disk.exists(folder):
            return is_done
        firsts = segment_offsets(self._disk, folder)
        for first, end in zip_longest(firsts, firsts[1:]):
            if end is None and not is_done:
                return False  # the last segment belongs to its writer until that is gone
            if (self.next_offset if end is None else end) > lowest:
                return False
            self._disk.unlink(segment_path(folder, first))
            self._disk.sync_dir(folder)
        if is_done:
            with suppress(OSError):
                folder.rmdir()
        return is_done


def remove_spool(disk: Disk, ref: SpoolRef) -> None:
    """Delete what is left of a spool that is done."""
    if not disk.exists(ref.folder):
        return
    for first in segment_offsets(disk, ref.folder):
        disk.unlink(segment_path(ref.folder, first))
        disk.sync_dir(ref.folder)
    with suppress(OSError):
        ref.folder.rmdir()
