"""Trees: against the definition, against known roots, and the laws of appending."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.merkle_by_the_book import root_by_the_book
from rlhf_audit_ledger.merkle import EMPTY_ROOT, CompactRange, leaf_hash, leaf_hashes, node_hash, root_of

# The entries and roots (first and last digits) that Certificate Transparency implementations have always shared.
CLASSIC_ENTRIES = [
    bytes.fromhex(entry)
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CLASSIC_ROOTS = [
    ("e3b0c442", "b855"),
    ("6e340b9c", "a01d"),
    ("fac54203", "c125"),
    ("aeb6bcfe", "6e77"),
    ("d37ee418", "14b7"),
    ("4e3bbb1f", "64d4"),
    ("76e67dad", "87ef"),
    ("ddb89be4", "4c8c"),
    ("5dc9da79", "4328"),
]
entry_lists = st.lists(st.binary(max_size=40), max_size=70)


def test_classic_entries_have_their_classic_roots() -> None:
    for size, (first, last) in enumerate(CLASSIC_ROOTS):
        root = root_of(leaf_hashes(CLASSIC_ENTRIES[:size]))
        assert root == root_by_the_book(CLASSIC_ENTRIES[:size])
        assert root.hex().startswith(first)
        assert root.hex().endswith(last)


def test_every_small_size_has_the_root_of_the_book() -> None:
    entries = [b"entry %d" % number for number in range(300)]
    leaves = leaf_hashes(entries)
    compact = CompactRange()
    for size in range(301):
        expected = root_by_the_book(entries[:size])
        assert root_of(leaves[:size]) == expected
        assert compact.root() == expected
        compact = compact.extend(leaves[size : size + 1])


@given(entries=entry_lists)
def test_the_root_is_the_root_of_the_book(entries: list[bytes]) -> None:
    assert root_of(leaf_hashes(entries)) == root_by_the_book(entries)


@given(entries=entry_lists, data=st.data())
def test_any_split_into_batches_gives_the_same_compact_range(entries: list[bytes], data: st.DataObject) -> None:
    leaves = leaf_hashes(entries)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(leaves)), max_size=6)))
    compact = CompactRange()
    for begin, end in itertools.pairwise([0, *cuts, len(leaves)]):
        compact = compact.extend(leaves[begin:end])
        assert compact.root() == root_by_the_book(entries[:end])
    assert compact == CompactRange().extend(leaves)


@given(entries=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=40), data=st.data())
def test_flipping_any_bit_of_any_entry_moves_the_root(entries: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries) - 1))
    bit = data.draw(st.integers(0, 8 * len(entries[at]) - 1))
    forged = bytearray(entries[at])
    forged[bit // 8] ^= 1 << bit % 8
    assert root_of(leaf_hashes([*entries[:at], bytes(forged), *entries[at + 1 :]])) != root_of(leaf_hashes(entries))


def test_leaves_and_nodes_are_hashed_apart() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert leaf_hashes([b"a", b"b"]) == [left, right]


def test_extending_leaves_the_old_range_as_it_was() -> None:
    before = CompactRange().extend(leaf_hashes([b"a", b"b", b"c"]))
    assert before.extend(leaf_hashes([b"d"])) != before
    assert before == CompactRange().extend(leaf_hashes([b"a", b"b", b"c"]))
    assert before.extend([]) == before


def test_the_empty_range_has_the_root_of_nothing() -> None:
    assert CompactRange().root() == EMPTY_ROOT == root_of([])


@pytest.mark.parametrize(
    ("size", "hashes"), [(-1, ()), (0, (bytes(32),)), (3, (bytes(32),)), (2, ()), (1, (bytes(31),))]
)
def test_a_range_with_another_number_of_hashes_is_refused(size: int, hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="compact range"):
        CompactRange(size, hashes)
