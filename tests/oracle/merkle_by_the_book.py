"""RFC 9162 section 2.1 and C2SP tlog-tiles as they are written there: slow, recursive, obvious.

The tests compare the fast code with this. It shares nothing with the code under test, and works on entries, not on
leaf hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence


def split_of(n: int) -> int:
    """The largest power of two smaller than ``n``."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def root_by_the_book(entries: Sequence[bytes]) -> bytes:
    """MTH(D[n])."""
    n = len(entries)
    if n == 0:
        return hashlib.sha256().digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = split_of(n)
    return hashlib.sha256(b"\x01" + root_by_the_book(entries[:k]) + root_by_the_book(entries[k:])).digest()


def inclusion_by_the_book(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    n = len(entries)
    if n == 1:
        return []
    k = split_of(n)
    if m < k:
        return [*inclusion_by_the_book(m, entries[:k]), root_by_the_book(entries[k:])]
    return [*inclusion_by_the_book(m - k, entries[k:]), root_by_the_book(entries[:k])]


def consistency_by_the_book(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n])."""
    return _subproof(m, entries, whole=True)


def _subproof(m: int, entries: Sequence[bytes], *, whole: bool) -> list[bytes]:
    n = len(entries)
    if m == n:
        return [] if whole else [root_by_the_book(entries)]
    k = split_of(n)
    if m <= k:
        return [*_subproof(m, entries[:k], whole=whole), root_by_the_book(entries[k:])]
    return [*_subproof(m - k, entries[k:], whole=False), root_by_the_book(entries[:k])]


def hash_at_over(entries: Sequence[bytes]) -> Callable[[int, int], bytes]:
    """Root over ``[index * 2**level, (index + 1) * 2**level)``, remembered, for making proofs in tests."""
    known: dict[tuple[int, int], bytes] = {}

    def hash_at(level: int, index: int) -> bytes:
        begin, end = index << level, (index + 1) << level
        assert end <= len(entries), "only complete subtrees may be asked for"
        if (level, index) not in known:
            known[level, index] = root_by_the_book(entries[begin:end])
        return known[level, index]

    return hash_at


def tiles_by_the_book(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Every tile and bundle that a log of these entries must have, by path; up to 1,000 tiles a level."""
    size, objects = len(entries), dict[str, bytes]()
    for n in range(0, size, 256):
        bundle = entries[n : n + 256]
        data = b"".join(len(entry).to_bytes(2, "big") + entry for entry in bundle)
        objects[f"tile/entries/{n // 256:03}{_suffix(len(bundle))}"] = data
    level = 0
    while size // 256**level:
        span = 256**level
        hashes = [root_by_the_book(entries[i * span : (i + 1) * span]) for i in range(size // span)]
        for n in range(0, len(hashes), 256):
            tile = hashes[n : n + 256]
            objects[f"tile/{level}/{n // 256:03}{_suffix(len(tile))}"] = b"".join(tile)
        level += 1
    return objects


def _suffix(width: int) -> str:
    return "" if width == 256 else f".p/{width}"
