"""Evidence: the objects to check, read and never written.

``FolderEvidence`` reads a folder directly, unfinished temporary files and all;
``StoreEvidence`` reads any object store. Missing is ``None``; what is there
and cannot be read raises ``UnreadableError``: neither fine nor tampered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rlhf_audit_schemas.errors import CouldNotCheckError, TransportError
from rlhf_audit_stores.objects import BadNameError, NotStoredError, ObjectInfo, ObjectStore

_MISSING = (FileNotFoundError, NotADirectoryError)


class UnreadableError(CouldNotCheckError):
    """An object or folder is there and cannot be read."""


class Evidence(Protocol):
    """A place that holds objects by name."""

    def get(self, name: str) -> bytes | None:
        """The object, None if there is none. Raises UnreadableError if it cannot be read."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Everything below a folder (empty, or ending in ``/``), sorted, without holding all of it."""


class FolderEvidence:
    """A folder. Also lists what a store would hide: what unfinished writes left, and files of impossible names."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)

    def get(self, name: str) -> bytes | None:
        try:
            fd = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except _MISSING:
            return None
        except (OSError, ValueError) as error:
            raise UnreadableError(f"{name}: {_reason(error)}") from error
        try:
            size = os.fstat(fd).st_size
            data = os.read(fd, size + 1)
            while len(data) < size and (part := os.read(fd, size - len(data))):
                data += part
        except OSError as error:
            raise UnreadableError(f"{name}: {_reason(error)}") from error
        finally:
            os.close(fd)
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(f"{self._root}/{prefix}") as found:
                entries = sorted((one.name + "/" * one.is_dir(), one) for one in found)
            for name, entry in entries:
                if name.endswith("/"):
                    yield from self.list(prefix + name)
                else:
                    yield ObjectInfo(prefix + name, entry.stat().st_size)
        except _MISSING:
            return
        except OSError as error:
            raise UnreadableError(f"{prefix or '.'}: {_reason(error)}") from error


class StoreEvidence:
    """An object store, for example a bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, name: str) -> bytes | None:
        try:
            return self._store.get(name)
        except (NotStoredError, BadNameError):
            return None
        except TransportError as error:
            raise UnreadableError(str(error)) from error  # it names the object
        except OSError as error:
            raise UnreadableError(f"{name}: {_reason(error)}") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        try:
            yield from self._store.list(prefix)
        except TransportError as error:
            raise UnreadableError(str(error)) from error
        except OSError as error:
            raise UnreadableError(f"{prefix or '.'}: {_reason(error)}") from error


@dataclass(frozen=True, slots=True)
class Below:
    """A folder of some evidence as evidence of its own; ``fetch`` is what tile readers take."""

    evidence: Evidence
    prefix: str

    def get(self, name: str) -> bytes | None:
        return self.evidence.get(self.prefix + name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for info in self.evidence.list(self.prefix + prefix):
            yield ObjectInfo(info.name[len(self.prefix) :], info.size)


@dataclass(frozen=True, slots=True)
class Trail:
    """What there is to check. ``vault`` None: there are no payloads; ``vault_key`` None: they cannot be opened.

    ``log_key`` is the public key with the name it was given under; ``is_key_own``: it was taken from this trail.
    """

    objects: Evidence
    vault: Evidence | None
    vkey: str | None = None
    is_key_own: bool = True
    vault_key: bytes | None = field(default=None, repr=False)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
