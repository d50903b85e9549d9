"""Disks that die, forget, or are full; for every test of what survives.

``CountingDisk`` tells how many effects a run has, ``CrashingDisk`` dies at one
of them, ``VolatileDisk`` forgets at a power cut what was not synced, and
``FullDisk`` has no space left. They nest: a process that dies on a machine
that loses power is ``CrashingDisk(volatile, at=n)``, then ``volatile.power_cut()``.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rlhf_audit_stores.disk import DirEntry, Disk, DiskFullError, Handle, RealDisk

T = TypeVar("T")
SECTOR_BYTES = 512


class Crash(BaseException):
    """A dead process: not an Exception, so no handler in the code under test survives it."""


class PassingDisk:
    """Hands every call on; subclasses override ``effect``, through which each call with an effect goes."""

    def __init__(self, inner: Disk) -> None:
        self.inner = inner

    def effect(self, name: str, path: Path, action: Callable[[], T]) -> T:
        return action()

    def create_exclusive(self, path: Path, mode: int = 0o600) -> Handle:
        return self.effect("create", path, lambda: self.inner.create_exclusive(path, mode))

    def open_append(self, path: Path) -> Handle:
        return self.effect("open", path, lambda: self.inner.open_append(path))

    def write(self, handle: Handle, data: bytes) -> None:
        self.effect("write", handle.path, lambda: self.inner.write(handle, data))

    def sync(self, handle: Handle) -> None:
        self.effect("sync", handle.path, lambda: self.inner.sync(handle))

    def reserve(self, handle: Handle, size: int) -> None:
        self.effect("reserve", handle.path, lambda: self.inner.reserve(handle, size))

    def sync_many(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            self.sync(handle)

    def close(self, handle: Handle) -> None:
        self.effect("close", handle.path, lambda: self.inner.close(handle))

    def link(self, source: Path, target: Path) -> None:
        self.effect("link", target, lambda: self.inner.link(source, target))

    def rename(self, source: Path, target: Path) -> None:
        self.effect("rename", target, lambda: self.inner.rename(source, target))

    def unlink(self, path: Path) -> None:
        self.effect("unlink", path, lambda: self.inner.unlink(path))

    def mkdir(self, path: Path) -> None:
        self.effect("mkdir", path, lambda: self.inner.mkdir(path))

    def sync_dir(self, path: Path) -> None:
        self.effect("sync_dir", path, lambda: self.inner.sync_dir(path))

    def truncate(self, path: Path, size: int) -> None:
        self.effect("truncate", path, lambda: self.inner.truncate(path, size))

    def read(self, path: Path) -> bytes:
        return self.inner.read(path)

    def read_range(self, path: Path, offset: int, length: int) -> bytes:
        return self.inner.read_range(path, offset, length)

    def list_dir(self, path: Path) -> list[DirEntry]:
        return self.inner.list_dir(path)

    def exists(self, path: Path) -> bool:
        return self.inner.exists(path)

    def size(self, path: Path) -> int:
        return self.inner.size(path)


class CountingDisk(PassingDisk):
    """Remembers every effect in order, as (name of the call, path)."""

    def __init__(self, inner: Disk) -> None:
        super().__init__(inner)
        self.calls: list[tuple[str, Path]] = []

    def effect(self, name: str, path: Path, action: Callable[[], T]) -> T:
        self.calls.append((name, path))
        return action()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class CrashingDisk(PassingDisk):
    """Dies at the ``at``-th effect, before or after it happens; a write may also die half-way (``torn``).

    A dead process does nothing more: every later call raises Crash too, and its open files are closed.
    """

    def __init__(self, inner: Disk, *, at: int, after: bool = False, torn: bool = False) -> None:
        super().__init__(inner)
        self.died_in: str | None = None
        self._left = at
        self._after = after
        self._torn = torn
        self._open: dict[int, Handle] = {}

    def effect(self, name: str, path: Path, action: Callable[[], T]) -> T:
        if self.died_in is not None:
            raise Crash(f"already dead since {self.died_in}")
        self._left -= 1
        if self._left == 0 and not self._after:
            self._die(f"before {name} {path.name}")
        result = action()
        if isinstance(result, Handle):
            self._open[result.fd] = result
        if self._left == 0:
            self._die(f"after {name} {path.name}")
        return result

    def write(self, handle: Handle, data: bytes) -> None:
        if self._torn and self._left == 1 and len(data) > 1:
            self.inner.write(handle, data[: len(data) // 2])
            self._die(f"half-way in write {handle.path.name}")
        super().write(handle, data)

    def close(self, handle: Handle) -> None:
        super().close(handle)
        self._open.pop(handle.fd, None)

    def _die(self, where: str) -> None:
        self.died_in = where
        for handle in self._open.values():
            with suppress(OSError):
                self.inner.close(handle)
        raise Crash(where)

    def read(self, path: Path) -> bytes:
        self._check_alive()
        return super().read(path)

    def list_dir(self, path: Path) -> list[DirEntry]:
        self._check_alive()
        return super().list_dir(path)

    def exists(self, path: Path) -> bool:
        self._check_alive()
        return super().exists(path)

    def _check_alive(self) -> None:
        if self.died_in is not None:
            raise Crash(f"already dead since {self.died_in}")


class FullDisk(PassingDisk):
    """Takes ``after_bytes`` more bytes, then is full: the write that hits the end is torn, as on a real disk."""

    def __init__(self, inner: Disk, *, after_bytes: int) -> None:
        super().__init__(inner)
        self._free = after_bytes
        self._reserved: dict[Path, int] = {}

    def free(self, more_bytes: int) -> None:
        """Somebody made space."""
        self._free += more_bytes

    def write(self, handle: Handle, data: bytes) -> None:
        size = self.inner.size(handle.path)
        reserved = max(0, self._reserved.get(handle.path, 0) - size)
        fits = data[: self._free + reserved]
        self._free -= max(0, len(fits) - reserved)
        if fits:
            self.inner.write(handle, fits)
        if len(fits) < len(data):
            raise DiskFullError(handle.path)

    def reserve(self, handle: Handle, size: int) -> None:
        more = size - max(self._reserved.get(handle.path, 0), self.inner.size(handle.path))
        if more > self._free:
            raise DiskFullError(handle.path)
        if more > 0:
            self._free -= more
            self._reserved[handle.path] = size


@dataclass(eq=False, slots=True)
class _File:
    synced: bytes = b""


@dataclass(eq=False, slots=True)
class _Folder:
    names: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)


class VolatileDisk:
    """A real folder, and the memory of what of it is durable. Nothing is really synced: that keeps tests quick.

    What stands in ``root`` at the beginning is durable. A file's bytes become durable by ``sync``, a name by
    ``sync_dir`` of its folder; the strictest reading of POSIX, and file systems exist that use it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._disk = RealDisk()
        self._tree = _Folder()
        self._files: dict[int, _File] = {}
        self._adopt(root, self._tree)

    def _adopt(self, path: Path, folder: _Folder) -> None:
        for child in path.iterdir():
            node: _File | _Folder
            if child.is_dir():
                node = _Folder()
                self._adopt(child, node)
            else:
                node = _File(child.read_bytes())
            folder.names[child.name] = folder.synced[child.name] = node

    def _folder(self, path: Path) -> _Folder:
        node = self._tree
        for part in path.relative_to(self._root).parts:
            child = node.names[part]
            assert isinstance(child, _Folder)
            node = child
        return node

    def power_cut(self, chance: random.Random | None = None) -> None:
        """Lose what is not durable. With ``chance``, lose only some of it: any mix of names, torn file ends."""
        kept = self._kept_folder(self._tree, self._root, chance)
        for child in self._root.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
        self._restore(kept, self._root)
        self._tree, self._files = _Folder(), {}
        self._adopt(self._root, self._tree)

    def _kept_folder(self, folder: _Folder, path: Path | None, chance: random.Random | None) -> dict[str, object]:
        kept: dict[str, object] = {}
        for name in {**folder.synced, **folder.names}:
            choices = [folder.synced.get(name)]
            if chance is not None:
                choices.append(folder.names.get(name))
            node = choices[0] if chance is None else chance.choice(choices)
            if isinstance(node, _Folder):
                kept[name] = self._kept_folder(node, None, chance)
            elif node is not None:
                kept[name] = self._kept_bytes(node, chance)
        return kept

    def _kept_bytes(self, file: _File, chance: random.Random | None) -> bytes:
        path = self._find(file, self._tree, self._root)
        if chance is None or path is None:
            return file.synced
        live = path.read_bytes()
        if not live.startswith(file.synced):  # it was truncated
            return chance.choice([live, file.synced])
        kept = bytearray(live[: chance.randint(len(file.synced), len(live))])
        sectors = range(len(file.synced) // SECTOR_BYTES, len(kept) // SECTOR_BYTES + 1)
        if chance.random() < 0.3:  # the size came through, one sector did not
            start = max(chance.choice(sectors) * SECTOR_BYTES, len(file.synced))
            end = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, len(kept))
            kept[start:end] = bytes(max(0, end - start))
        return bytes(kept)

    def _find(self, file: _File, folder: _Folder, path: Path) -> Path | None:
        for name, node in folder.names.items():
            if node is file:
                return path / name
            if isinstance(node, _Folder) and (found := self._find(file, node, path / name)) is not None:
                return found
        return None

    def _restore(self, kept: dict[str, object], path: Path) -> None:
        for name, node in kept.items():
            if isinstance(node, dict):
                (path / name).mkdir(mode=0o700)
                self._restore(node, path / name)
            else:
                assert isinstance(node, bytes)
                (path / name).write_bytes(node)
                (path / name).chmod(0o600)

    def create_exclusive(self, path: Path, mode: int = 0o600) -> Handle:
        handle = self._disk.create_exclusive(path, mode)
        self._files[handle.fd] = self._folder(path.parent).names[path.name] = _File()
        return handle

    def open_append(self, path: Path) -> Handle:
        handle = self._disk.open_append(path)
        node = self._folder(path.parent).names[path.name]
        assert isinstance(node, _File)
        self._files[handle.fd] = node
        return handle

    def write(self, handle: Handle, data: bytes) -> None:
        self._disk.write(handle, data)

    def sync(self, handle: Handle) -> None:
        file = self._files[handle.fd]
        path = self._find(file, self._tree, self._root)
        if path is not None:
            file.synced = path.read_bytes()

    def reserve(self, handle: Handle, size: int) -> None:
        pass

    def sync_many(self, handles: Sequence[Handle]) -> None:
        for handle in handles:
            self.sync(handle)

    def close(self, handle: Handle) -> None:
        self._disk.close(handle)
        self._files.pop(handle.fd, None)

    def link(self, source: Path, target: Path) -> None:
        self._disk.link(source, target)
        self._folder(target.parent).names[target.name] = self._folder(source.parent).names[source.name]

    def rename(self, source: Path, target: Path) -> None:
        self._disk.rename(source, target)
        self._folder(target.parent).names[target.name] = self._folder(source.parent).names.pop(source.name)

    def unlink(self, path: Path) -> None:
        self._disk.unlink(path)
        del self._folder(path.parent).names[path.name]

    def mkdir(self, path: Path) -> None:
        existed = path.exists()
        self._disk.mkdir(path)
        if not existed:
            self._folder(path.parent).names[path.name] = _Folder()

    def sync_dir(self, path: Path) -> None:
        if path == self._root.parent:
            return  # outside of what can be lost
        folder = self._folder(path)
        folder.synced = dict(folder.names)

    def truncate(self, path: Path, size: int) -> None:
        self._disk.truncate(path, size)

    def read(self, path: Path) -> bytes:
        return self._disk.read(path)

    def read_range(self, path: Path, offset: int, length: int) -> bytes:
        return self._disk.read_range(path, offset, length)

    def list_dir(self, path: Path) -> list[DirEntry]:
        return self._disk.list_dir(path)

    def exists(self, path: Path) -> bool:
        return self._disk.exists(path)

    def size(self, path: Path) -> int:
        return self._disk.size(path)


def open_files() -> int:
    """How many files this process has open; a test that leaks one per death soon runs out of them."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path is wanted
