"""Files that are there, whole, after a power cut; or not there at all.

The one order that gives this: write a temporary file in the same folder, sync
it, then rename it (replacing) or link it (put-if-absent) to its name, then
sync the folder. Leftovers of a crash begin with ``.tmp-`` and are nobody's
data; ``sweep`` removes them, and must not run beside a writer.

``FolderLock`` keeps a second process out. It is the operating system's lock:
it ends with its process, so a crash leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rlhf_audit_schemas.errors import AuditTrailError, TamperError
from rlhf_audit_stores.disk import Disk, Handle

TEMPORARY_PREFIX = ".tmp-"
LOCK_FILE = ".lock"


class AlreadyStoredError(TamperError):
    """A name that is written once is taken: a fork, or a second writer."""


class LockedError(AuditTrailError):
    """Another process works on this folder; trying again may help once it has ended."""

    retriable = True

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(
            f"{folder} is in use by process {holder or 'unknown'}: wait until it ends, or stop it and run again "
            "(the lock goes with the process; there is no file to delete)"
        )
        self.folder, self.holder = folder, holder


def write_file_durably(disk: Disk, path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Store ``data`` at ``path``, new or not: after a crash the old or the new contents stand there, never a mix."""
    make_folders_durably(disk, path.parent)
    temporary = write_temporary(disk, path, data, mode)
    disk.rename(temporary, path)
    disk.sync_dir(path.parent)


replace_file_durably = write_file_durably  # the same act, named for callers that expect a file to stand there


def create_file_durably(disk: Disk, path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Store ``data`` at ``path``; of several callers exactly one succeeds.

    Raises AlreadyStoredError if anything stands there, the same bytes too; what stands there is durable then.
    """
    make_folders_durably(disk, path.parent)
    temporary = write_temporary(disk, path, data, mode)
    try:
        disk.link(temporary, path)
    except FileExistsError as error:
        disk.unlink(temporary)
        disk.sync_dir(path.parent)
        raise AlreadyStoredError(f"{path}: already stored") from error
    disk.unlink(temporary)
    disk.sync_dir(path.parent)


def write_temporary(disk: Disk, path: Path, data: bytes, mode: int) -> Path:
    """A synced temporary file in the folder of ``path``; its name is not durable, and need not be."""
    return write_temporaries(disk, [(path, data)], mode)[0]


def write_temporaries(disk: Disk, files: Sequence[tuple[Path, bytes]], mode: int) -> list[Path]:
    """A synced temporary file for each path, in its folder, all synced together. Nothing is left after an error."""
    handles: list[Handle] = []
    try:
        for path, data in files:
            handles.append(disk.create_exclusive(path.with_name(TEMPORARY_PREFIX + secrets.token_hex(8)), mode))
            disk.write(handles[-1], data)
        disk.sync_many(handles)
    except Exception:
        for handle in handles:  # on a full disk the torn files would hold the space that is missing
            _discard(disk, handle)
        raise
    for handle in handles:
        disk.close(handle)
    return [handle.path for handle in handles]


def _discard(disk: Disk, handle: Handle) -> None:
    disk.close(handle)
    disk.unlink(handle.path)


def make_folders_durably(disk: Disk, folder: Path) -> None:
    """Create ``folder`` and what is missing above it, each name synced before anything is put inside.

    The lowest folder that exists is synced again: who made it may have died before that.
    """
    missing = []
    while not disk.exists(folder):
        missing.append(folder)
        folder = folder.parent
    with suppress(PermissionError):  # not ours to read, so not ours to have made
        disk.sync_dir(folder.parent)
    for new in reversed(missing):
        disk.mkdir(new)
        disk.sync_dir(new.parent)


def sweep(disk: Disk, folder: Path) -> int:
    """Remove the temporary files that a crash left in ``folder`` (not below it). Returns how many there were."""
    leftovers = [entry.name for entry in disk.list_dir(folder) if is_temporary(entry.name) and not entry.is_dir]
    for name in leftovers:
        with suppress(FileNotFoundError):  # its writer lives, and was quicker
            disk.unlink(folder / name)
    if leftovers:
        disk.sync_dir(folder)
    return len(leftovers)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of an unfinished write."""
    return name.startswith(TEMPORARY_PREFIX)


def is_locked(path: Path, *, shared_too: bool = False) -> bool:
    """Whether some process holds an exclusive ``flock`` on this file (or a shared one); an absent file is not locked.

    Looks by taking the lock for microseconds, so whoever takes it exclusively tries twice.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # enough for a lock, on a copy that nobody can write to, too
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if shared_too else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class FolderLock:
    """Exclusive use of a folder, as a context manager. Raises LockedError at once if another holds it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock; the folder is created if it is missing."""
        if self._fd is not None:
            raise LockedError(self._folder, str(os.getpid()))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise LockedError(self._folder, holder) from error
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; the lock file stays, because deleting it would let two processes lock two files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
