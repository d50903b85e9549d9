"""Inclusion and consistency proofs: against the definition, and refused after any change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.merkle_by_the_book import (
    consistency_by_the_book,
    hash_at_over,
    inclusion_by_the_book,
    root_by_the_book,
)
from rlhf_audit_ledger.merkle import EMPTY_ROOT, leaf_hash, leaf_hashes
from rlhf_audit_ledger.proofs import (
    ProofError,
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from rlhf_audit_schemas.errors import ConfigError

LARGEST = 200
ENTRIES = [b"entry %d" % number for number in range(LARGEST)]
LEAVES = leaf_hashes(ENTRIES)
ROOTS = [root_by_the_book(ENTRIES[:size]) for size in range(LARGEST + 1)]
HASH_AT = hash_at_over(ENTRIES)
sizes = st.integers(1, LARGEST)


def test_every_pair_of_sizes_is_consistent_and_never_with_another_root() -> None:
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new, HASH_AT)
            verify_consistency(old, ROOTS[old], new, ROOTS[new], proof)
            if old:
                with pytest.raises(ProofError):
                    verify_consistency(old, ROOTS[old - 1], new, ROOTS[new], proof)


def test_every_entry_of_every_size_up_to_70_is_included() -> None:
    for size in range(1, 71):
        for index in range(size):
            proof = inclusion_proof(index, size, HASH_AT)
            verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])
            for other in {(index + 1) % size, size - 1, index ^ 1} - {index}:
                with pytest.raises(ProofError):
                    verify_inclusion(LEAVES[index], other, size, proof, ROOTS[size])


def test_proofs_are_those_of_the_book() -> None:
    for size in range(1, 34):
        for index in range(size):
            assert inclusion_proof(index, size, HASH_AT) == inclusion_by_the_book(index, ENTRIES[:size])
            assert consistency_proof(index + 1, size, HASH_AT) == consistency_by_the_book(index + 1, ENTRIES[:size])


@given(size=sizes, data=st.data())
def test_flipping_any_bit_breaks_an_inclusion_proof(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    parts = [LEAVES[index], ROOTS[size], *inclusion_proof(index, size, HASH_AT)]
    forged = flipped(parts, data)
    with pytest.raises(ProofError):
        verify_inclusion(forged[0], index, size, forged[2:], forged[1])


@given(new=sizes, data=st.data())
def test_flipping_any_bit_breaks_a_consistency_proof(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    parts = [ROOTS[old], ROOTS[new], *consistency_proof(old, new, HASH_AT)]
    forged = flipped(parts, data)
    with pytest.raises(ProofError):
        verify_consistency(old, forged[0], new, forged[1], forged[2:])


@given(size=sizes, data=st.data(), extra=st.sampled_from([bytes(32), EMPTY_ROOT, LEAVES[0]]))
def test_a_proof_with_a_hash_too_many_or_too_few_is_refused(size: int, data: st.DataObject, extra: bytes) -> None:
    index = data.draw(st.integers(0, size - 1))
    inclusion = inclusion_proof(index, size, HASH_AT)
    consistency = consistency_proof(index + 1, size, HASH_AT)
    at = data.draw(st.integers(0, len(inclusion)))
    with pytest.raises(ProofError):
        verify_inclusion(LEAVES[index], index, size, [*inclusion[:at], extra, *inclusion[at:]], ROOTS[size])
    if inclusion:
        at = data.draw(st.integers(0, len(inclusion) - 1))
        with pytest.raises(ProofError):
            verify_inclusion(LEAVES[index], index, size, inclusion[:at] + inclusion[at + 1 :], ROOTS[size])
    at = data.draw(st.integers(0, len(consistency)))
    longer = [*consistency[:at], extra, *consistency[at:]]
    with pytest.raises(ProofError):
        verify_consistency(index + 1, ROOTS[index + 1], size, ROOTS[size], longer)
    if consistency:
        at = data.draw(st.integers(0, len(consistency) - 1))
        shorter = consistency[:at] + consistency[at + 1 :]
        with pytest.raises(ProofError):
            verify_consistency(index + 1, ROOTS[index + 1], size, ROOTS[size], shorter)


@given(size=st.integers(2, LARGEST), data=st.data())
def test_a_proof_does_not_hold_for_another_size(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, HASH_AT)
    other = data.draw(st.integers(index + 1, LARGEST).filter(lambda value: value != size))
    with pytest.raises(ProofError):
        verify_inclusion(LEAVES[index], index, other, proof, ROOTS[other])


def test_another_history_of_the_same_size_is_no_extension() -> None:
    other = [*ENTRIES[:3], b"forged", *ENTRIES[4:20]]
    hash_at = hash_at_over(other)
    for old in range(4, 20):
        proof = consistency_proof(old, 20, hash_at)
        with pytest.raises(ProofError):
            verify_consistency(old, ROOTS[old], 20, root_by_the_book(other), proof)
    verify_consistency(3, ROOTS[3], 20, root_by_the_book(other), consistency_proof(3, 20, hash_at))


def test_bytes_shifted_between_two_hashes_are_refused() -> None:
    """The concatenation is the same, so only the lengths give it away."""
    first, *rest = inclusion_proof(0, 4, HASH_AT)
    with pytest.raises(ProofError, match="31 bytes"):
        verify_inclusion(LEAVES[0][:31], 0, 4, [LEAVES[0][31:] + first, *rest], ROOTS[4])
    with pytest.raises(ProofError, match="33 bytes"):
        verify_inclusion(LEAVES[0], 0, 4, [first + rest[0][:1], rest[0][1:]], ROOTS[4])
    with pytest.raises(ProofError, match="0 bytes"):
        verify_consistency(2, ROOTS[2], 4, ROOTS[4], [b"", *consistency_proof(2, 4, HASH_AT)])


def test_no_hashes_prove_growth_of_a_log_with_entries() -> None:
    for old, new in ((1, 2), (3, 5), (4, 5), (199, 200)):
        with pytest.raises(ProofError):
            verify_consistency(old, ROOTS[old], new, ROOTS[new], [])


def test_the_empty_log_has_one_root_and_no_entry() -> None:
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    verify_consistency(0, EMPTY_ROOT, 5, ROOTS[5], [])
    for old_size, old_root, new_size, new_root in (
        (0, ROOTS[1], 0, ROOTS[1]),
        (0, EMPTY_ROOT, 0, ROOTS[1]),
        (0, ROOTS[1], 5, ROOTS[5]),
    ):
        with pytest.raises(ProofError, match="without entries"):
            verify_consistency(old_size, old_root, new_size, new_root, [])
    with pytest.raises(ProofError, match="must be empty"):
        verify_consistency(0, EMPTY_ROOT, 5, ROOTS[5], [ROOTS[5]])
    with pytest.raises(ProofError, match="no entry 0"):
        verify_inclusion(leaf_hash(b""), 0, 0, [], EMPTY_ROOT)


@pytest.mark.parametrize(("old", "new"), [(3, 2), (-1, 2)])
def test_a_log_never_shrinks(old: int, new: int) -> None:
    with pytest.raises(ProofError, match="cannot extend"):
        verify_consistency(old, ROOTS[2], new, ROOTS[2], [])
    with pytest.raises(ConfigError, match="cannot extend"):
        consistency_proof(old, new, HASH_AT)


@pytest.mark.parametrize("index", [-1, 4])
def test_no_proof_is_made_for_an_entry_past_the_end(index: int) -> None:
    with pytest.raises(ConfigError, match="no entry"):
        inclusion_proof(index, 4, HASH_AT)
    with pytest.raises(ProofError, match="no entry"):
        verify_inclusion(LEAVES[0], index, 4, inclusion_proof(0, 4, HASH_AT), ROOTS[4])


def test_leaf_order_matters_in_the_smallest_tree() -> None:
    with pytest.raises(ProofError, match="computed"):
        verify_inclusion(LEAVES[1], 0, 2, [LEAVES[0]], ROOTS[2])
    verify_inclusion(LEAVES[0], 0, 2, [LEAVES[1]], ROOTS[2])


def flipped(parts: list[bytes], data: st.DataObject) -> list[bytes]:
    at = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, 255))
    forged = bytearray(parts[at])
    forged[bit // 8] ^= 1 << bit % 8
    return [*parts[:at], bytes(forged), *parts[at + 1 :]]
