"""Objects as files in a folder, durable when a call returns.

Put is put-if-absent: temporary file, write, sync, ``link`` to the name (taken:
compare), unlink the temporary, sync the folder and every folder above it that
is new. obstore's folder store syncs nothing and has no compare-and-swap, so
this is our own. ``swap`` is for several processes on one machine: it locks
the folder, not a file, because nothing else may lie beside the evidence.

Two names on one disk only: a network file system without hard links or
without ``flock`` does not keep this contract.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rlhf_audit_stores._object_store import (
    NotStoredError,
    ObjectInfo,
    Version,
    check_name,
    check_prefix,
    digest_version,
    lost,
    refuse_identical,
)
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import (
    AlreadyStoredError,
    is_temporary,
    make_folders_durably,
    sweep,
    write_temporaries,
    write_temporary,
)

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_REMEMBERED_FOLDERS = (
    4096  # above this the memory is emptied: forgetting costs a sync, growing without bound costs more
)


_SYNCED_TOGETHER = 64  # open files at a time, far below any process's limit


class FolderStore:
    """An object store in ``root``, which is created when the first object comes."""

    def __init__(self, root: Path, disk: Disk | None = None, *, mode: int = 0o644) -> None:
        self._root = root
        self._disk: Disk = RealDisk() if disk is None else disk
        self._mode = mode
        self._durable: set[Path] = set()  # folders whose own names are known to be durable

    def put(self, name: str, data: bytes) -> None:
        self.put_many([(name, data)])

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        touched: dict[Path, None] = {}
        written: list[tuple[str, Path, Path]] = []
        try:
            for batch in _batches(items, _SYNCED_TOGETHER):
                missing = []
                for name, data in batch:
                    path = self._path(name)
                    self._make_folders(path.parent)
                    touched[path.parent] = None
                    if not self._is_stored(name, path, data):
                        missing.append((name, path, data))
                made = write_temporaries(self._disk, [(path, data) for _, path, data in missing], self._mode)
                written += [(name, path, temporary) for (name, path, _), temporary in zip(missing, made, strict=True)]
        except Exception:
            for _, _, temporary in written:  # on a full disk they would hold the space that is missing
                self._disk.unlink(temporary)
            raise
        for name, path, temporary in written:
            self._link(name, path, temporary)
        for folder in touched:
            self._disk.sync_dir(folder)

    def _is_stored(self, name: str, path: Path, data: bytes) -> bool:
        try:
            stored = self._disk.read(path)
        except FileNotFoundError:
            return False
        except _MISSING as error:
            raise AlreadyStoredError(f"{name}: a folder stands there") from error
        if stored != data:
            raise AlreadyStoredError(f"{name}: already stored with other contents")
        return True

    def _link(self, name: str, path: Path, temporary: Path) -> None:
        try:
            self._disk.link(temporary, path)
        except FileExistsError as error:  # another writer, or the same name twice in one batch
            if self._disk.read(temporary) != self._disk.read(path):
                self._disk.unlink(temporary)
                raise AlreadyStoredError(f"{name}: already stored with other contents") from error
        self._disk.unlink(temporary)

    def get(self, name: str) -> bytes:
        try:
            return self._disk.read(self._path(name))
        except _MISSING:
            raise NotStoredError(f"{name}: not stored") from None

    def exists(self, name: str) -> bool:
        try:
            self._disk.read_range(self._path(name), 0, 0)
        except _MISSING:
            return False
        return True

    def get_versioned(self, name: str) -> tuple[bytes, Version]:
        data = self.get(name)
        return data, digest_version(data)

    def swap(self, name: str, data: bytes, expected: Version | None) -> Version:
        path = self._path(name)
        self._make_folders(path.parent)
        with _locked(path.parent):
            current = self._disk.read(path) if self._disk.exists(path) else None
            if expected != (None if current is None else digest_version(current)):
                raise lost(name, expected)
            if current == data:
                raise refuse_identical(name)
            self._disk.rename(write_temporary(self._disk, path, data, self._mode), path)
            self._disk.sync_dir(path.parent)
        return digest_version(data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self._root / check_prefix(prefix)
        if self._disk.exists(folder):
            yield from self._walk(folder, prefix)

    def _walk(self, folder: Path, prefix: str) -> Iterator[ObjectInfo]:
        """One folder in memory at a time; a folder sorts as its name with the slash, as in a sorted bucket."""
        for name in sorted(entry.name + "/" * entry.is_dir for entry in self._disk.list_dir(folder)):
            if name.endswith("/"):
                yield from self._walk(folder / name, prefix + name)
            elif not is_temporary(name):
                yield ObjectInfo(prefix + name, self._disk.size(folder / name))

    def delete(self, name: str) -> None:
        self.delete_many([name])

    def delete_many(self, names: Iterable[str]) -> None:
        touched: dict[Path, None] = {}
        for name in names:
            path = self._path(name)
            try:
                self._disk.unlink(path)
            except _MISSING:
                continue
            touched[path.parent] = None
        for folder in touched:
            self._disk.sync_dir(folder)

    def sweep(self) -> int:
        """Remove what unfinished writes left; only while nobody writes. Returns how many files there were."""
        return self._sweep(self._root) if self._disk.exists(self._root) else 0

    def _sweep(self, folder: Path) -> int:
        below = [folder / entry.name for entry in self._disk.list_dir(folder) if entry.is_dir]
        return sweep(self._disk, folder) + sum(self._sweep(child) for child in below)

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    def _make_folders(self, folder: Path) -> None:
        if folder in self._durable:
            return
        if len(self._durable) >= _REMEMBERED_FOLDERS:
            self._durable.clear()
        make_folders_durably(self._disk, folder)
        self._durable.add(folder)


def _batches(items: Iterable[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
