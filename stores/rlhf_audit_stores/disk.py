"""Every effect on a file system that this project relies on, one call each.

The tests replace the disk by one that dies at the n-th call, is full, or
forgets what was not synced; so whoever needs a file to survive goes through
here. ``write`` makes bytes visible, ``sync`` makes a file's bytes durable,
``sync_dir`` makes names durable (created, linked, renamed, unlinked): a name
may be lost although the file's bytes were synced.

No rule about what is written stands here, and no locks: those live as long
as a process and need not survive (``durable.FolderLock``).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from rlhf_audit_schemas.errors import TransportError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_PRIVATE_FOLDER = 0o700
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_SYNC_THREADS = 4  # a journal commits what waits together: half the time per file of one after the other


class DiskFullError(TransportError):
    """No space or no quota left; the same call works again once there is."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"disk full at {path}: free space and run again")
        self.path = path


@dataclass(frozen=True, slots=True)
class Handle:
    """A file opened for writing."""

    path: Path
    fd: int


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One name in a folder; symbolic links are not followed."""

    name: str
    is_dir: bool


class Disk(Protocol):
    """A file system. Raises DiskFullError where there is no space, and OSError (FileNotFoundError, ...) otherwise."""

    def create_exclusive(self, path: Path, mode: int = 0o600) -> Handle:
        """Create and open an empty file. MUST raise FileExistsError if the name is taken. Readable as ``mode`` says."""

    def open_append(self, path: Path) -> Handle:
        """Open an existing file; every write MUST go to its end."""

    def write(self, handle: Handle, data: bytes) -> None:
        """Write all of ``data``. After an error any prefix of it may have been written."""

    def sync(self, handle: Handle) -> None:
        """MUST return only when the file's bytes and size are durable."""

    def reserve(self, handle: Handle, size: int) -> None:
        """Make sure that writing up to ``size`` bytes finds space; what is visible stays as it is.

        Raises DiskFullError; does nothing on file systems that cannot.
        """

    def sync_many(self, handles: Sequence[Handle]) -> None:
        """``sync`` of several files, in any order. MUST return only when all are durable."""

    def close(self, handle: Handle) -> None:
        """Close without syncing."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, atomically. MUST raise FileExistsError if the name is taken."""

    def rename(self, source: Path, target: Path) -> None:
        """Move a name, atomically, replacing what stands there."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def mkdir(self, path: Path) -> None:
        """Create one folder that only its owner may enter; one that stands there is left as it is."""

    def sync_dir(self, path: Path) -> None:
        """MUST return only when the folder's names are durable."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to ``size`` bytes; durable after the next ``sync`` of it."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""

    def read_range(self, path: Path, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset`` on; fewer only at the end of the file."""

    def list_dir(self, path: Path) -> list[DirEntry]:
        """Names in a folder, unordered."""

    def exists(self, path: Path) -> bool:
        """Whether the name stands for anything."""

    def size(self, path: Path) -> int:
        """Size of a file in bytes."""


class RealDisk:
    """The operating system's file system."""

    def create_exclusive(self, path: Path, mode: int = 0o600) -> Handle:
        with _naming_full_disks(path):
            return Handle(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, mode))

    def open_append(self, path: Path) -> Handle:
        return Handle(path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))

    def write(self, handle: Handle, data: bytes) -> None:
        with _naming_full_disks(handle.path):
            written = os.write(handle.fd, data)
            while written < len(data):  # a nearly full disk or a signal cuts a write short
                written += os.write(handle.fd, memoryview(data)[written:])

    def sync(self, handle: Handle) -> None:
        with _naming_full_disks(handle.path):
            os.fdatasync(handle.fd)

    def reserve(self, handle: Handle, size: int) -> None:
        with _naming_full_disks(handle.path):
            _fallocate(handle.fd, size)

    def sync_many(self, handles: Sequence[Handle]) -> None:
        if len(handles) < _SYNC_THREADS:
            for handle in handles:
                self.sync(handle)
            return
        with ThreadPoolExecutor(_SYNC_THREADS) as pool:
            for _ in pool.map(self.sync, handles):  # the first failure is raised here, after all have ended
                pass

    def close(self, handle: Handle) -> None:
        with _naming_full_disks(handle.path):  # network file systems report a full disk here
            os.close(handle.fd)

    def link(self, source: Path, target: Path) -> None:
        with _naming_full_disks(target):
            os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        with _naming_full_disks(target):
            os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        with _naming_full_disks(path):
            try:
                os.mkdir(path, _PRIVATE_FOLDER)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise

    def sync_dir(self, path: Path) -> None:
        with _naming_full_disks(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def read(self, path: Path) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def read_range(self, path: Path, offset: int, length: int) -> bytes:
        with open(path, "rb", buffering=0) as file:
            parts = []
            while length > 0 and (part := os.pread(file.fileno(), length, offset)):
                parts.append(part)
                offset += len(part)
                length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def list_dir(self, path: Path) -> list[DirEntry]:
        with os.scandir(path) as entries:
            return [DirEntry(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def size(self, path: Path) -> int:
        return os.stat(path, follow_symlinks=False).st_size


def _fallocate(fd: int, size: int) -> None:
    """fallocate(2) with KEEP_SIZE, which ``os`` does not have: its ``posix_fallocate`` makes the file longer."""
    call = getattr(_libc(), "fallocate", None)
    if call is None:
        return
    if call(fd, _KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(size)) != 0:
        number = ctypes.get_errno()
        if number in _FULL:
            raise OSError(number, os.strerror(number))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@contextmanager
def _naming_full_disks(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(path) from error
        raise
