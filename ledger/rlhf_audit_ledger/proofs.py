"""Inclusion and consistency proofs of RFC 9162, sections 2.1.3 and 2.1.4.

Making a proof needs the hashes of complete subtrees only; where they come from
(tiles, memory) is the business of ``hash_at(level, index)``, the root over
leaves ``[index * 2**level, (index + 1) * 2**level)``. Checking a proof needs
nothing but the two roots. Proofs run from the leaf's sibling up to the root.

A proof says that a tree holds an entry or extends another tree. It does not say
who vouches for the root: signatures live in ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf_audit_ledger.merkle import EMPTY_ROOT, HASH_BYTES, node_hash
from rlhf_audit_schemas.errors import ConfigError, TamperError

HashAt = Callable[[int, int], bytes]


class ProofError(TamperError):
    """A proof does not lead from what it should prove to the root."""


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """Proof that leaf ``index`` is in the tree of the first ``size`` leaves; raises ConfigError if it cannot be."""
    if not 0 <= index < size:
        raise ConfigError(f"a log of {size} entries has no entry {index}")
    begin, end, proof = 0, size, list[bytes]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            proof.append(_root_between(middle, end, hash_at))
            end = middle
        else:
            proof.append(_root_between(begin, middle, hash_at))
            begin = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, hash_at: HashAt) -> list[bytes]:
    """Proof that the first ``new`` leaves begin with the first ``old``; raises ConfigError unless 0 <= old <= new.

    Empty when nothing has to be shown: every log extends the empty one and itself.
    """
    if not 0 <= old <= new:
        raise ConfigError(f"a log of {new} entries cannot extend one of {old}")
    if old in (0, new):
        return []
    begin, end, proof = 0, new, list[bytes]()
    while end != old:
        middle = begin + _split(end - begin)
        if old <= middle:
            proof.append(_root_between(middle, end, hash_at))
            end = middle
        else:
            proof.append(_root_between(begin, middle, hash_at))
            begin = middle
    if begin:  # else this subtree is the whole old tree, whose root the checker knows
        proof.append(_root_between(begin, end, hash_at))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162 section 2.1.3.2: raises ProofError unless ``leaf`` (a leaf hash) is leaf ``index`` under ``root``."""
    if not 0 <= index < size:
        raise ProofError(f"a log of {size} entries has no entry {index}")
    _check_lengths(leaf, root, *proof)
    at, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError(f"inclusion proof of entry {index} in {size} has too many hashes: {len(proof)}")
        if at & 1 or at == last:
            computed = node_hash(sibling, computed)
            while at and not at & 1:  # the last subtree had no right sibling on these levels
                at, last = at >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofError(f"inclusion proof of entry {index} in {size} has too few hashes: {len(proof)}")
    if computed != root:
        raise ProofError(f"inclusion proof of entry {index} in {size}: root {root.hex()}, computed {computed.hex()}")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 section 2.1.4.2: raises ProofError unless the new tree begins with the old one."""
    if not 0 <= old_size <= new_size:
        raise ProofError(f"a log of {new_size} entries cannot extend one of {old_size}")
    _check_lengths(old_root, new_root, *proof)
    for size, root in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and root != EMPTY_ROOT:
            raise ProofError(f"a log without entries has root {EMPTY_ROOT.hex()}, found {root.hex()}")
    if old_size in (0, new_size):
        if proof:
            raise ProofError(f"consistency proof from {old_size} to {new_size} must be empty, has {len(proof)} hashes")
        if old_size and old_root != new_root:
            raise ProofError(f"two roots for {old_size} entries: {old_root.hex()} and {new_root.hex()}")
        return
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        raise ProofError(f"consistency proof from {old_size} to {new_size} is empty")
    at, last = old_size - 1, new_size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError(f"consistency proof from {old_size} to {new_size} has too many hashes: {len(proof)}")
        if at & 1 or at == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new_computed = node_hash(new_computed, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofError(f"consistency proof from {old_size} to {new_size} has too few hashes: {len(proof)}")
    for size, root, computed in ((old_size, old_root, old_computed), (new_size, new_root, new_computed)):
        if computed != root:
            raise ProofError(
                f"consistency proof from {old_size} to {new_size}: "
                f"root of {size} is {root.hex()}, computed {computed.hex()}"
            )


def _split(width: int) -> int:
    """Largest power of two below ``width``, which is at least 2."""
    return 1 << (width - 1).bit_length() - 1


def _root_between(begin: int, end: int, hash_at: HashAt) -> bytes:
    """Root over leaves ``[begin, end)``, where ``begin`` is a multiple of the largest power of two in the width."""
    hashes = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        hashes.append(hash_at(level, begin >> level))
        begin += 1 << level
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root


def _check_lengths(*hashes: bytes) -> None:
    """A shorter or longer 'hash' could shift bytes between the two children of a node."""
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise ProofError(f"a hash of a proof is {len(value)} bytes long, not {HASH_BYTES}")
