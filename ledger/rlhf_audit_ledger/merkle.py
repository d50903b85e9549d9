"""RFC 9162 Merkle tree over the entries of a log (section 2.1, SHA-256).

    leaf = SHA-256(0x00 || entry)    node = SHA-256(0x01 || left || right)

The root of no entries is SHA-256 of nothing. A tree splits at the largest power
of two below its size, so hashing level by level and carrying an odd last hash
up unchanged gives the same root. ``CompactRange`` keeps only the roots of the
complete subtrees, at most 64 hashes: enough to append and to know the root,
not enough to prove anything (that is ``proofs``).

No I/O and no clock here: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry as a leaf."""
    return sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Leaf hashes of ``entries``, in order."""
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree over these leaf hashes."""
    nodes = list(leaves)
    if not nodes:
        return EMPTY_ROOT
    while len(nodes) > 1:
        parents = _parents(nodes)
        if len(nodes) & 1:
            parents.append(nodes[-1])
        nodes = parents
    return nodes[0]


@dataclass(frozen=True, slots=True)
class CompactRange:
    """The first ``size`` leaves of a log as roots of complete subtrees, the largest first.

    There is one hash for each bit that is set in ``size``. Raises ValueError if their number is another one.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise ValueError(f"a compact range of size {self.size} cannot have {len(self.hashes)} hashes")
        if any(len(value) != HASH_BYTES for value in self.hashes):
            raise ValueError(f"a hash of a compact range of size {self.size} is not {HASH_BYTES} bytes long")

    def extend(self, leaves: Sequence[bytes]) -> CompactRange:
        """The range after appending these leaf hashes; this range stays as it is."""
        waiting = list(self.hashes)  # subtrees on the left that have found no right sibling yet
        finished: list[bytes] = []  # odd subtrees at the right edge, the smallest first
        nodes = list(leaves)
        width = self.size  # complete subtrees of the present level on the left, their lowest bit: one waits
        while nodes:
            if width & 1:
                nodes.insert(0, waiting.pop())
            if len(nodes) & 1:
                finished.append(nodes[-1])
            nodes = _parents(nodes)
            width >>= 1
        return CompactRange(self.size + len(leaves), (*waiting, *reversed(finished)))

    def root(self) -> bytes:
        """Root of the tree over all leaves so far."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root


def _parents(nodes: list[bytes]) -> list[bytes]:
    """Hashes of the pairs of ``nodes``; an odd last one is left out."""
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=False)]
