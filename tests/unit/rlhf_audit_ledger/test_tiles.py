"""Tiles and bundles: paths, growth in any batches, reading back, and proofs from storage."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle.merkle_by_the_book import tiles_by_the_book
from rlhf_audit_ledger.merkle import EMPTY_ROOT, leaf_hash, leaf_hashes, root_of
from rlhf_audit_ledger.proofs import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion
from rlhf_audit_ledger.tiles import (
    Edge,
    TileError,
    TileReader,
    TileRef,
    bundle_path,
    decode_bundle,
    encode_bundle,
    expected_objects,
    grow,
    load_edge,
    parse_path,
    tile_path,
)
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError, FormatError, TransportError

ENTRIES = [b"entry %d" % number for number in range(66_000)]
LEAVES = leaf_hashes(ENTRIES)
EDGE_SIZES = [0, 1, 2, 8, 15, 255, 256, 257, 511, 512, 700, 65_535, 65_536, 65_537, 66_000]


def stored(size: int, cuts: list[int] | None = None) -> tuple[Edge, dict[str, bytes], list[str]]:
    """A log of the first ``size`` entries, grown in batches that end at ``cuts``."""
    edge, objects, full = Edge.empty(), dict[str, bytes](), list[str]()
    for begin, end in itertools.pairwise([0, *(cuts or []), size]):
        edge, new, completed = grow(edge, ENTRIES[begin:end], LEAVES[begin:end])
        assert all(objects.get(path, data) == data for path, data in new.items()), "an object was written differently"
        objects |= new
        full += completed
    return edge, objects, full


@pytest.mark.parametrize("size", EDGE_SIZES)
def test_a_log_grown_at_once_has_exactly_the_expected_objects(size: int) -> None:
    edge, objects, full = stored(size)
    assert sorted(objects) == sorted(expected_objects(size))
    assert sorted(full) == sorted(path for path in objects if ".p/" not in path)
    assert edge.size == size
    assert edge.root() == root_of(LEAVES[:size])


@pytest.mark.parametrize("size", [1, 256, 257, 700])
def test_objects_are_those_of_the_book(size: int) -> None:
    assert stored(size)[1] == tiles_by_the_book(ENTRIES[:size])


def test_the_examples_of_the_specification_hold() -> None:
    assert {path for path in expected_objects(256) if "entries" not in path} == {"tile/0/000", "tile/1/000.p/1"}
    tiles = [ref for ref in map(parse_path, expected_objects(70_000)) if ref is not None and ref.level is not None]
    assert sum(ref.level == 0 and ref.width == 256 for ref in tiles) == 273
    partial = {ref.path for ref in tiles if ref.width < 256}
    assert partial == {"tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"}
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(63, 0, 255) == "tile/63/000.p/255"
    assert bundle_path(1_000) == "tile/entries/x001/000"


@settings(max_examples=40)
@given(size=st.integers(0, 3_000), data=st.data())
def test_any_split_into_batches_gives_the_same_log(size: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=6)))
    edge, objects, full = stored(size, cuts)
    edge_at_once, objects_at_once, full_at_once = stored(size)
    assert edge == edge_at_once
    assert sorted(full) == sorted(full_at_once)
    assert {path: objects[path] for path in expected_objects(size)} == objects_at_once


@pytest.mark.parametrize("cuts", [[65_535], [65_536], [1, 65_537], [300, 600, 65_800]])
def test_batches_across_a_level_boundary_give_the_same_log(cuts: list[int]) -> None:
    edge, objects, _ = stored(66_000, cuts)
    assert edge == stored(66_000)[0]
    assert set(expected_objects(66_000)) <= set(objects)


@pytest.mark.parametrize("size", EDGE_SIZES)
def test_the_edge_is_read_back_from_storage(size: int) -> None:
    edge, objects, _ = stored(size)
    assert load_edge(size, edge.root(), objects.__getitem__) == edge
    assert load_edge(size, edge.root(), objects.get) == edge


@settings(max_examples=30)
@given(size=st.integers(0, 2_000), later=st.integers(0, 2_000))
def test_an_older_edge_is_read_from_full_objects_when_its_partial_ones_are_gone(size: int, later: int) -> None:
    edge = stored(size)[0]
    _, objects, full = stored(size + later, [size])
    for path in full:
        for partial in [name for name in objects if name.startswith(path + ".p/")]:
            del objects[partial]
    assert load_edge(size, edge.root(), objects.get) == edge
    again = grow(load_edge(size, edge.root(), objects.get), ENTRIES[size : size + 9], LEAVES[size : size + 9])[0]
    assert again.root() == root_of(LEAVES[: size + 9])


@pytest.mark.parametrize("path", ["tile/entries/002.p/188", "tile/0/002.p/188", "tile/1/000.p/2"])
def test_an_edge_with_a_changed_or_lost_object_is_refused(path: str) -> None:
    edge, objects, _ = stored(700)
    for at in (0, len(objects[path]) // 2, len(objects[path]) - 1):
        data = bytearray(objects[path])
        data[at] ^= 1
        with pytest.raises(TileError):
            load_edge(700, edge.root(), {**objects, path: bytes(data)}.get)
    for data_cut in (b"", objects[path][:-1], objects[path] + b"\x00"):
        with pytest.raises(TileError):
            load_edge(700, edge.root(), {**objects, path: data_cut}.get)
    del objects[path]
    with pytest.raises(TileError, match=re.escape(path) + " is lost"):
        load_edge(700, edge.root(), objects.__getitem__)


def test_an_edge_is_refused_under_another_root_or_size() -> None:
    edge, objects, _ = stored(700)
    with pytest.raises(TileError, match="root of 700"):
        load_edge(700, root_of(LEAVES[:699]), objects.get)
    with pytest.raises(TileError):
        load_edge(701, edge.root(), objects.get)
    with pytest.raises(TileError):
        load_edge(0, edge.root(), objects.get)
    assert load_edge(0, EMPTY_ROOT, objects.get) == Edge.empty()


def test_a_store_that_does_not_answer_is_not_a_lost_tile() -> None:
    def silent(path: str) -> bytes:
        raise TransportError(path)

    def gone(path: str) -> bytes:
        raise CouldNotCheckError(path)

    with pytest.raises(TransportError):
        load_edge(5, root_of(LEAVES[:5]), silent)
    with pytest.raises(TileError, match="lost"):
        load_edge(5, root_of(LEAVES[:5]), gone)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700, 65_537])
def test_proofs_made_from_tiles_verify(size: int) -> None:
    edge, objects, _ = stored(size)
    reader = TileReader(size, objects.__getitem__)
    for index in {0, size // 3, size // 2, size - 1}:
        entry = reader.entry(index)
        assert entry == ENTRIES[index]
        verify_inclusion(leaf_hash(entry), index, size, inclusion_proof(index, size, reader.hash_at), edge.root())
        old_root = root_of(LEAVES[: index + 1])
        proof = consistency_proof(index + 1, size, reader.hash_at)
        verify_consistency(index + 1, old_root, size, edge.root(), proof)


def test_a_proof_needs_few_fetches_and_no_tile_twice() -> None:
    _, objects, _ = stored(66_000)
    fetched: list[str] = []

    def fetch(path: str) -> bytes:
        fetched.append(path)
        return objects[path]

    reader = TileReader(66_000, fetch)
    for _ in range(3):
        inclusion_proof(12_345, 66_000, reader.hash_at)
        consistency_proof(12_345, 66_000, reader.hash_at)
    assert len(fetched) == len(set(fetched)) <= 6


def test_a_small_cache_forgets_and_still_reads_right() -> None:
    _, objects, _ = stored(1_500)
    reader = TileReader(1_500, objects.__getitem__, cached_tiles=2)
    assert [reader.entry(index) for index in (0, 300, 600, 1_499, 1)] == [ENTRIES[i] for i in (0, 300, 600, 1_499, 1)]


def test_a_changed_entry_is_not_handed_out() -> None:
    _, objects, _ = stored(700)
    objects["tile/entries/001"] = objects["tile/entries/001"].replace(b"entry 300", b"entry 3O0")
    reader = TileReader(700, objects.__getitem__)
    assert reader.entry(299) == ENTRIES[299]
    with pytest.raises(TileError, match="entry 300"):
        reader.entry(300)


def test_what_the_log_does_not_hold_is_not_read() -> None:
    reader = TileReader(700, stored(700)[1].__getitem__)
    for level, index in ((0, 700), (0, -1), (1, 350), (9, 1), (10, 0), (-1, 0)):
        with pytest.raises(ConfigError):
            reader.hash_at(level, index)
    for index in (-1, 700):
        with pytest.raises(ConfigError):
            reader.entry(index)
    assert reader.hash_at(9, 0) == root_of(LEAVES[:512])


references = st.builds(
    TileRef,
    level=st.one_of(st.none(), st.integers(0, 63)),
    index=st.one_of(st.integers(0, 2_000_000), st.integers(0, 2**56 - 1)),
    width=st.integers(1, 256),
)


@given(ref=references)
def test_paths_are_read_back(ref: TileRef) -> None:
    assert parse_path(ref.path) == ref


@given(path=st.one_of(st.text(max_size=30), st.from_regex(r"tile/(entries|[0-9]{1,2})/[x0-9/]{3,12}(\.p/[0-9]{1,3})?")))
def test_only_the_one_spelling_of_a_path_is_read(path: str) -> None:
    ref = parse_path(path)
    assert ref is None or ref.path == path


@pytest.mark.parametrize(
    "path",
    [
        "", "checkpoint", "tile", "tile/0", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/00/000", "tile/64/000",
        "tile/-1/000", "tile/0/x000/001", "tile/0/001/002", "tile/0/x001", "tile/0/x001/x002", "tile/0/000.p/0",
        "tile/0/000.p/00", "tile/0/000.p/01", "tile/0/000.p/256", "tile/0/000.p/", "tile/0/000.p", "tile/0/000/",
        "/tile/0/000", "tile/0/000\n", "tile/8/0/000", "tile/entry/000", "tile/Entries/000", "tile/0//000",
        "tile/0/../000", "tile/\u0661/000", "tile/0/\u0661\u0661\u0661", "tile/0/000.p/\u0661",
        "tile/0/x072/x057/x594/x037/x927/936",
    ],
)  # fmt: skip
def test_a_path_that_is_not_canonical_names_nothing(path: str) -> None:
    assert parse_path(path) is None


def test_paths_outside_the_format_are_not_made() -> None:
    for level, index, width in ((64, 0, 256), (-1, 0, 256), (0, -1, 256), (0, 2**56, 256), (0, 0, 0), (0, 0, 257)):
        with pytest.raises(ConfigError):
            tile_path(level, index, width)


@given(entries=st.lists(st.binary(max_size=50), max_size=20))
def test_bundles_are_read_back(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


@given(data=st.binary(max_size=60), count=st.integers(0, 5))
def test_any_bytes_are_a_bundle_or_refused(data: bytes, count: int) -> None:
    try:
        entries = decode_bundle(data, count)
    except FormatError:
        return
    assert len(entries) == count
    assert encode_bundle(entries) == data


def test_a_bundle_of_another_count_or_with_a_wrong_length_is_refused() -> None:
    data = encode_bundle([b"a", b"bc", b""])
    assert decode_bundle(data, 3) == [b"a", b"bc", b""]
    for forged, count in ((data, 2), (data, 4), (data[:-1], 3), (data + b"\x00", 3), (b"\x00\x02" + data[2:], 3)):
        with pytest.raises(FormatError):
            decode_bundle(forged, count)


def test_an_entry_may_have_65535_bytes_and_no_more() -> None:
    longest = bytes(65_535)
    assert decode_bundle(encode_bundle([longest]), 1) == [longest]
    with pytest.raises(FormatError, match="longer"):
        encode_bundle([longest + b"\x00"])


def test_entries_and_leaves_must_match_in_number() -> None:
    with pytest.raises(ConfigError):
        grow(Edge.empty(), ENTRIES[:2], LEAVES[:1])


def test_growing_by_nothing_writes_nothing() -> None:
    edge = stored(700)[0]
    assert grow(edge, [], []) == (edge, {}, [])
