"""A log's tiles and bundles built again from its entries and compared byte for byte with what is stored.

Entries come in order, window by window, with their leaf hashes; every hash is
made once: the parents of a full tile are the next level's tile. Holds one
partial tile per level and one bundle, whatever the size of the log.

Only names and bytes are compared. That the root is the signed one is for the
caller, who asks for ``root`` at each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf_audit_auditor.evidence import Below
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_ledger.entries import EVENT_ENTRY_BYTES
from rlhf_audit_ledger.merkle import HASH_BYTES, CompactRange, root_of
from rlhf_audit_ledger.tiles import TILE_HEIGHT, TILE_WIDTH, bundle_path, encode_bundle, parse_path, tile_path

_EVENT_PREFIX = EVENT_ENTRY_BYTES.to_bytes(2, "big")
_EVENT_LENGTHS = {EVENT_ENTRY_BYTES}


class CountedRange(CompactRange):
    """Only the size of a compact range, for states whose root a ``Rebuild`` makes anyway."""

    __slots__ = ()

    def __post_init__(self) -> None:
        pass

    def extend(self, leaves: Sequence[bytes]) -> CompactRange:
        return CountedRange(self.size + len(leaves))


class Rebuild:
    """Builds a log again. ``limit`` is the size whose objects must all be there; those beyond may be."""

    def __init__(self, log: Below, limit: int, findings: Findings) -> None:
        self._log = log
        self._limit = limit
        self._findings = findings
        self._entries: list[bytes] = []
        self._levels: list[list[bytes]] = [[]]
        self._full = [0]
        self.size = 0

    def append(self, entries: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """Append entries with their leaf hashes; compares what becomes full."""
        first = self.size // TILE_WIDTH
        waiting = self._entries
        waiting += entries
        done = len(waiting) // TILE_WIDTH * TILE_WIDTH
        for at in range(0, done, TILE_WIDTH):
            self._compare(bundle_path(first + at // TILE_WIDTH), bundle_of(waiting[at : at + TILE_WIDTH]))
        del waiting[:done]
        self.size += len(entries)
        self._grow(0, list(leaves))

    def _grow(self, level: int, arrived: list[bytes]) -> None:
        while arrived:
            if level == len(self._levels):
                self._levels.append([])
                self._full.append(0)
            hashes = self._levels[level]
            hashes += arrived
            done = len(hashes) // TILE_WIDTH * TILE_WIDTH
            arrived = []
            for at in range(0, done, TILE_WIDTH):
                tile = hashes[at : at + TILE_WIDTH]
                self._compare(tile_path(level, self._full[level]), b"".join(tile))
                self._full[level] += 1
                arrived.append(root_of(tile))
            del hashes[:done]
            level += 1

    def root(self) -> bytes:
        """Root over everything appended so far."""
        hashes: list[bytes] = []
        for tile in reversed(self._levels):
            hashes += CompactRange().extend(tile).hashes
        return CompactRange(self.size, tuple(hashes)).root()

    def partials(self) -> Iterator[tuple[str, bytes]]:
        """The partial objects that belong to the present size."""
        if self._entries:
            yield bundle_path(self.size // TILE_WIDTH, len(self._entries)), bundle_of(self._entries)
        for level, hashes in enumerate(self._levels):
            if hashes:
                yield tile_path(level, self._full[level], len(hashes)), b"".join(hashes)

    def compare_partials(self) -> None:
        """Compare the partial objects of the present size, each of which must be there."""
        for path, data in self.partials():
            self._compare(path, data)

    def _compare(self, path: str, built: bytes) -> None:
        stored = self._log.get(path)
        if stored == built:
            return
        name = self._log.prefix + path
        if stored is not None:
            self._findings.add("tile", describe_difference(path, stored, built), obj=name)
        elif not is_beyond(path, self._limit):
            self._findings.add("tile", "is missing", obj=name)


def is_beyond(path: str, size: int) -> bool:
    """Whether a tile or bundle holds anything that a log of ``size`` entries does not have."""
    ref = parse_path(path)
    return ref is None or ref.index * TILE_WIDTH + ref.width > size >> TILE_HEIGHT * (ref.level or 0)


def bundle_of(entries: Sequence[bytes]) -> bytes:
    """As ``encode_bundle``; several times faster where all entries are events."""
    if set(map(len, entries)) == _EVENT_LENGTHS:
        return _EVENT_PREFIX + _EVENT_PREFIX.join(entries)
    return encode_bundle(entries)


def describe_difference(path: str, stored: bytes, built: bytes) -> str:
    """Where stored bytes differ from those that the entries give."""
    if len(stored) != len(built):
        return f"{len(stored)} bytes, built from the log {len(built)}"
    at = next(index for index, (left, right) in enumerate(zip(stored, built, strict=True)) if left != right)
    if not path.startswith("tile/entries/"):
        return f"hash {at // HASH_BYTES} differs from the one that the entries give"
    return f"byte {at} differs from the bundle that the log gives"
