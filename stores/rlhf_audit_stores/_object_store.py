"""The Protocol of an object store, its errors, and the store in memory.

An object is written once; the same bytes again are a no-op and other bytes a
fork alarm. Only a ``checkpoint`` is replaced, by compare-and-swap
(``docs/format.md`` section 7). A store knows names and bytes, not meanings.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.durable import TEMPORARY_PREFIX, AlreadyStoredError

# What needs no escaping in any store, so that a name is the same string in all of them.
_PART = re.compile(r"[A-Za-z0-9._=-]+")


class NotStoredError(AuditTrailError, LookupError):
    """The store holds no object of this name."""


class SwapLostError(AuditTrailError):
    """The object is not the one that was to be replaced: somebody else wrote it meanwhile."""


class BadNameError(AuditTrailError):
    """A name that no store may hold."""


@dataclass(frozen=True, slots=True)
class Version:
    """Which contents an object has, as its store tells it; only good for ``swap`` in the same store."""

    e_tag: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing shows it; ``size`` in bytes."""

    name: str
    size: int


class ObjectStore(Protocol):
    """Objects by name (``a/b/c``). Raises BadNameError for names with empty parts, ``.``, ``..`` or ``.tmp-``."""

    def put(self, name: str, data: bytes) -> None:
        """Store durably. The same bytes again MUST be a no-op. Raises AlreadyStoredError if other bytes stand there."""

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        """``put`` of each item, in order; all are durable when this returns, and after an error any of them may be."""

    def get(self, name: str) -> bytes:
        """Raises NotStoredError if there is no such object."""

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    def get_versioned(self, name: str) -> tuple[bytes, Version]:
        """Contents and the version to give to ``swap``. Raises NotStoredError if there is no such object."""

    def swap(self, name: str, data: bytes, expected: Version | None) -> Version:
        """Replace the object durably if it still is ``expected`` (None: if it does not exist), else SwapLostError.

        Of several writers with one expectation exactly one MUST succeed. Writing the bytes that already stand there
        MUST be refused: where a version is a digest of the contents, two writers would both win.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below a folder (empty, or ending in ``/``), sorted by name, without holding all of them."""

    def delete(self, name: str) -> None:
        """Remove an object; it may be missing."""

    def delete_many(self, names: Iterable[str]) -> None:
        """``delete`` of each."""


def check_name(name: str) -> str:
    """The name itself. Raises BadNameError unless every store would take it as it is."""
    for part in name.split("/"):
        if not _PART.fullmatch(part) or part in (".", "..") or part.startswith(TEMPORARY_PREFIX):
            raise BadNameError(f"{name!r} is no object name: parts are of letters, digits, '.', '_', '=' and '-'")
    return name


def check_prefix(prefix: str) -> str:
    """The prefix itself. Raises BadNameError unless it is empty or a folder's name with its slash."""
    if prefix:
        if not prefix.endswith("/"):
            raise BadNameError(f"{prefix!r} is no prefix: a prefix is a folder and ends in '/'")
        check_name(prefix[:-1])
    return prefix


def refuse_identical(name: str) -> SwapLostError:
    """For ``swap`` with the bytes that already stand there."""
    return SwapLostError(f"{name}: exactly these contents stand there already")


def lost(name: str, expected: Version | None) -> SwapLostError:
    """For ``swap`` that came second."""
    what = "it exists already" if expected is None else "it is gone or was replaced by another writer"
    return SwapLostError(f"{name}: {what}")


def digest_version(data: bytes) -> Version:
    """A version made from the contents, for stores that number nothing."""
    return Version(hashlib.sha256(data).hexdigest())


class MemoryStore:
    """Objects in memory; safe between threads, gone with the process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> None:
        check_name(name)
        with self._lock:
            if self._objects.setdefault(name, data) != data:
                raise AlreadyStoredError(f"{name}: already stored with other contents")

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        for name, data in items:
            self.put(name, data)

    def get(self, name: str) -> bytes:
        try:
            return self._objects[check_name(name)]
        except KeyError:
            raise NotStoredError(f"{name}: not stored") from None

    def exists(self, name: str) -> bool:
        return check_name(name) in self._objects

    def get_versioned(self, name: str) -> tuple[bytes, Version]:
        data = self.get(name)
        return data, digest_version(data)

    def swap(self, name: str, data: bytes, expected: Version | None) -> Version:
        check_name(name)
        with self._lock:
            current = self._objects.get(name)
            if expected != (None if current is None else digest_version(current)):
                raise lost(name, expected)
            if current == data:
                raise refuse_identical(name)
            self._objects[name] = data
        return digest_version(data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            names = sorted(name for name in self._objects if name.startswith(prefix))
        for name in names:
            if (data := self._objects.get(name)) is not None:
                yield ObjectInfo(name, len(data))

    def delete(self, name: str) -> None:
        with self._lock:
            self._objects.pop(check_name(name), None)

    def delete_many(self, names: Iterable[str]) -> None:
        for name in names:
            self.delete(name)
