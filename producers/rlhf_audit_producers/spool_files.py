"""Where spools lie, what a record of one holds, and who still writes.

::

    spool/producers/<producer, hashed>/lock       held (flock) as long as the producer lives
                                      /name       its id
                                      /heads      the last epoch that was taken to its end, with the heads of its lanes
                                      /<epoch>/   record log: one record = one batch

    record = u8 1 | u8 length | stream | u32 partition | source value

The lock belongs to the operating system: it goes with its process, however
that dies. Processes that share a name never write at once: whoever finds
``<run>/<rank>`` held takes ``<run>/<rank>/1`` and so on. So the lane rules
hold (a newer epoch supersedes an older one), and the list of producers stays
short however many loader workers come and go.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.domain import lp, u32
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_schemas.errors import AuditTrailError, FormatError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import (
    AlreadyStoredError,
    create_file_durably,
    is_locked,
    make_folders_durably,
    replace_file_durably,
)
from rlhf_audit_stores.epochs import producer_folder_name

SPOOLS_FOLDER = "producers"
_LOCK, _NAME, _HEADS = "lock", "name", "heads"
_VERSION = 1
_MAX_NAMES = 4096  # processes of one rank that record at once; far beyond any loader
_ACQUIRE_TRIES, _ACQUIRE_PAUSE_S = 5, 0.004  # whoever only looks holds a lock for microseconds


class NoFreeNameError(AuditTrailError):
    """All names of a producer are held by living processes."""


@dataclass(frozen=True, slots=True)
class SpoolRef:
    """One epoch of a producer, as found on disk."""

    producer: str
    epoch: int
    folder: Path

    @property
    def spool_id(self) -> bytes:
        """16 bytes that name this spool for good."""
        return spool_id(self.producer, self.epoch)


def spool_id(producer: str, epoch: int) -> bytes:
    """Names a spool: an epoch is taken once, so no other spool ever has the same."""
    return hashlib.sha256(lp(producer.encode("utf-8")) + u32(epoch)).digest()[:16]


def pack_spool_record(stream: str, partition: int, value: bytes) -> bytes:
    """A record of a spool."""
    name = stream.encode("utf-8")
    return bytes((_VERSION, len(name))) + name + u32(partition) + value


def unpack_spool_record(record: bytes) -> tuple[str, int, bytes]:
    """(stream, partition, source value). Raises FormatError on anything else."""
    try:
        version, length = record[0], record[1]
        start = 2 + length
        (partition,) = struct.unpack_from(">I", record, start)
        stream = record[2:start].decode("utf-8")
    except (IndexError, struct.error, UnicodeDecodeError):
        raise FormatError("spool record: too short or not text") from None
    if version != _VERSION:
        raise FormatError(f"spool record: version {version}, known is {_VERSION}")
    return stream, partition, record[start + 4 :]


class ProducerLock:
    """A producer's name, held by this process until ``release`` or its death."""

    def __init__(self, producer: str, folder: Path, fd: int) -> None:
        """For ``acquire_name``."""
        self.producer, self.folder = producer, folder
        self._fd: int | None = fd

    def release(self) -> None:
        """Let others take the name. In a forked child this lets go of the copy only: the parent keeps the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def acquire_name(disk: Disk, spool: Path, base: str) -> ProducerLock:
    """Take ``base``, or the first free ``base/n``."""
    for n in range(_MAX_NAMES):
        producer = base if n == 0 else f"{base}/{n}"
        folder = spool / SPOOLS_FOLDER / producer_folder_name(producer)
        make_folders_durably(disk, folder)
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _lock(fd):
            return ProducerLock(producer, folder, fd)
        os.close(fd)
    raise NoFreeNameError(f"producer {base}: {_MAX_NAMES} processes record under this name already")


def _lock(fd: int) -> bool:
    for attempt in range(_ACQUIRE_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if attempt + 1 < _ACQUIRE_TRIES:
            time.sleep(_ACQUIRE_PAUSE_S)
    return False


def is_alive(folder: Path) -> bool:
    """Whether a process holds the lock of this producer."""
    return is_locked(folder / _LOCK)


def write_name(disk: Disk, folder: Path, producer: str) -> None:
    """Say whose folder this is."""
    with suppress(AlreadyStoredError):
        create_file_durably(disk, folder / _NAME, producer.encode("utf-8"))


def epoch_folder(folder: Path, epoch: int) -> Path:
    """Folder of one epoch's records."""
    return folder / f"{epoch:010d}"


def producers(disk: Disk, spool: Path) -> Iterator[tuple[Path, list[SpoolRef]]]:
    """Every producer's folder with the epochs that still have records, ascending."""
    root = spool / SPOOLS_FOLDER
    if not disk.exists(root):
        return
    for entry in sorted(disk.list_dir(root), key=lambda one: one.name):
        folder = root / entry.name
        if not entry.is_dir or not disk.exists(folder / _NAME):
            continue
        producer = disk.read(folder / _NAME).decode("utf-8")
        epochs = sorted(int(one.name) for one in disk.list_dir(folder) if one.is_dir and one.name.isdigit())
        yield folder, [SpoolRef(producer, epoch, epoch_folder(folder, epoch)) for epoch in epochs]


def write_heads(disk: Disk, folder: Path, epoch: int, lanes: Sequence[LaneView]) -> None:
    """Note that an epoch, and each before it, was taken to its end; its records may be deleted from then on."""
    rows = [[lane.stream, lane.partition, lane.next_seq, lane.ended] for lane in lanes]
    replace_file_durably(disk, folder / _HEADS, json.dumps({"epoch": epoch, "lanes": rows}).encode("ascii"))


def done_epoch(disk: Disk, folder: Path) -> int:
    """Highest epoch of a producer that was taken to its end, -1 if none was."""
    path = folder / _HEADS
    if not disk.exists(path):
        return -1
    try:
        return int(json.loads(disk.read(path))["epoch"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the heads of an epoch") from error


def read_heads(disk: Disk, folder: Path, epoch: int | None) -> list[LaneView]:
    """Heads of that epoch as far as known: empty if it is another one that was kept."""
    path = folder / _HEADS
    if epoch is None or not disk.exists(path):
        return []
    try:
        kept = json.loads(disk.read(path))
        if kept["epoch"] != epoch:
            return []
        return [LaneView(stream, partition, epoch, head, ended) for stream, partition, head, ended in kept["lanes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the heads of an epoch") from error
