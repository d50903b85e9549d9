"""Batches that no broker took, kept beside the spools: ``spool/refused/<spool id>-<offset>``, the value as it was.

The shipper puts them there, durably, before their lane goes on; the ledger has
a fault for each. Sent again once the topic takes them (``rlhf-audit spool
resend``) they fill their gap, and leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rlhf_audit_ledger.batch import BatchHead, batch_head
from rlhf_audit_stores.disk import Disk

REFUSED_FOLDER: Final = "refused"


@dataclass(frozen=True, slots=True)
class RefusedBatch:
    """One of them."""

    path: Path
    value: bytes
    head: BatchHead


def refused_batches(disk: Disk, spool: Path) -> Iterator[RefusedBatch]:
    """All that are kept, in the order in which they were recorded. Raises FormatError for what is none."""
    folder = spool / REFUSED_FOLDER
    if not disk.exists(folder):
        return
    names = [entry.name for entry in disk.list_dir(folder) if not entry.name.startswith(".")]
    for name in sorted(names, key=_place):
        value = disk.read(folder / name)
        yield RefusedBatch(folder / name, value, batch_head(value))


def _place(name: str) -> tuple[str, int]:
    spool_id, _, offset = name.partition("-")
    return spool_id, int(offset) if offset.isdecimal() else -1
