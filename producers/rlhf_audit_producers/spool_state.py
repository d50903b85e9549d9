"""What lies in a directory's spools and how far it is shipped, for people and for whoever decides. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_producers.shipper_positions import Shipped, read_positions
from rlhf_audit_producers.spool_files import SpoolRef, done_epoch, is_alive, producers, unpack_spool_record
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.following import RecordFollower
from rlhf_audit_stores.recordlog import segment_offsets, segment_path

_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class SpoolState:
    """One epoch of one producer. ``records`` and ``bytes_left`` are what no shipper has noted as acknowledged."""

    producer: str
    epoch: int
    is_alive: bool
    is_done: bool
    shipped: int
    records: int
    bytes_left: int
    bytes_on_disk: int


def spool_states(disk: Disk, spool: Path) -> Iterator[SpoolState]:
    """Every spool that is there; reads what is left of each to its end."""
    try:
        positions = read_positions(disk, spool)
    except FormatError:
        positions = {}
    for folder, refs in producers(disk, spool):
        alive, done = is_alive(folder), done_epoch(disk, folder)
        for at, ref in enumerate(refs):
            is_done = ref.epoch <= done
            offset = positions.get(ref.spool_id, Shipped()).offset
            records, size = (0, 0) if is_done else _left(disk, ref, offset)
            yield SpoolState(
                ref.producer, ref.epoch, alive and at == len(refs) - 1, is_done, offset, records, size, _size(disk, ref)
            )


def ledgers(disk: Disk, spool: Path) -> dict[bytes, str]:
    """Ledger ids that the spools' batches name, each with a producer that does; the first batch of each is asked."""
    found: dict[bytes, str] = {}
    for _, refs in producers(disk, spool):
        for ref in refs:
            for _, record in RecordFollower(ref.folder, disk).read(1):
                with suppress(FormatError):
                    body = BatchBody.decode(open_envelope(unpack_spool_record(record)[2])[0])
                    found.setdefault(body.ledger_id, ref.producer)
    return found


def spool_bytes(disk: Disk, spool: Path) -> int:
    """Bytes of all spools on disk."""
    return sum(_size(disk, ref) for _, refs in producers(disk, spool) for ref in refs)


def _left(disk: Disk, ref: SpoolRef, offset: int) -> tuple[int, int]:
    follower = RecordFollower(ref.folder, disk, offset)
    records = size = 0
    while found := follower.read(_READ_BYTES):
        records += len(found)
        size += sum(len(record) for _, record in found)
    return records, size


def _size(disk: Disk, ref: SpoolRef) -> int:
    total = 0
    with suppress(FileNotFoundError):  # whoever drains deletes beside us
        for first in segment_offsets(disk, ref.folder):
            total += disk.size(segment_path(ref.folder, first))
    return total
