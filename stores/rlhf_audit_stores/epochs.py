"""Epochs of producers: numbers that are taken exclusively and for good (``docs/format.md`` section 1).

One empty name per epoch, ``epochs/<producer, hashed>/<number, 10 digits>``,
created exclusively and synced before it counts: no two processes ever write
one lane, whatever dies in between. Names are hashed because a producer id may
hold slashes. Nothing here ever deletes a number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.ids import MAX_EPOCH
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import AlreadyStoredError, create_file_durably

EPOCHS_FOLDER = "epochs"


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch that was taken, and the one this producer used here before."""

    number: int
    previous: int | None


def producer_folder_name(producer: str) -> str:
    """Name of the folder that belongs to a producer: 32 hex digits."""
    return hashlib.sha256(producer.encode("utf-8")).hexdigest()[:32]


def take_epoch(disk: Disk, spool: Path, producer: str) -> Epoch:
    """Take the next epoch of a producer; exclusive and durable when it returns."""
    last = last_epoch(disk, spool, producer)
    number = 0 if last is None else last + 1
    folder = _folder(spool, producer)
    while number <= MAX_EPOCH:
        try:
            create_file_durably(disk, folder / f"{number:010d}", producer.encode("utf-8"))
        except AlreadyStoredError:
            number += 1
            continue
        return Epoch(number, last)
    raise ConfigError(f"producer {producer} has used up its epochs")


def last_epoch(disk: Disk, spool: Path, producer: str) -> int | None:
    """Highest epoch a producer ever took here, None if it is new."""
    folder = _folder(spool, producer)
    if not disk.exists(folder):
        return None
    return max((int(entry.name) for entry in disk.list_dir(folder) if entry.name.isdigit()), default=None)


def _folder(spool: Path, producer: str) -> Path:
    return spool / EPOCHS_FOLDER / producer_folder_name(producer)
