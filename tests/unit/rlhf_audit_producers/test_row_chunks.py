"""Reading rows out of records: JSON objects and cells of tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_producers.records import RawChunk
from rlhf_audit_producers.row_chunks import ColumnPath, JsonChunk, Layout, parse

JSONL = Layout("jsonl")


def read(*raws: bytes, layout: Layout = JSONL) -> Any:
    return parse(RawChunk(list(range(1, len(raws) + 1)), list(raws), []), layout)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": 1, "a": 2}', "the same key twice"),
        (b'{"a" : 1, "a":2}', "the same key twice"),
        (b'{"a"\t:1,"b":{"c":1,"c"  :2}}', "the same key twice"),
        (b'{"a":[{"c":1},{"c":1,"c":2}]}', "the same key twice"),
        (b'{"a":"x\\":","a":1}', "the same key twice"),
        (b'{"a":1,"\\u0061":2}', "the same key twice"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": -Infinity}', "not valid JSON"),
        (b'{"a": 1e999}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
    ],
)
def test_rows_that_readers_would_not_agree_on_are_faults(raw: bytes, reason: str) -> None:
    chunk = read(b'{"good": 1}', raw, b'{"good": 2}')
    assert chunk.lines == [1, 3]
    assert [fault.line for fault in chunk.faults] == [2]
    assert reason in chunk.faults[0].reason


@pytest.mark.parametrize(
    "row", [{"a": 'x":', "b": 'y" : z'}, {"a": {"b": {"c": 1}}, "d": [{"e": 1}, {"e": 2}]}, {}, {"": {"": ""}}]
)
def test_objects_without_a_double_key_are_read_whatever_their_texts_look_like(row: dict[str, Any]) -> None:
    assert read(json.dumps(row).encode()).rows == [row]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("twice")
    return dict(pairs)


keys = st.sampled_from(["a", "b", '":', "é"])
blanks = st.sampled_from(["", " ", "\t", "  "])


@given(
    pairs=st.lists(st.tuples(keys, blanks, st.sampled_from(["1", '"x\\":"', '{"a":1}', '{"b":1,"b":2}'])), max_size=4)
)
def test_double_keys_are_found_exactly_where_a_parser_that_sees_all_keys_finds_them(
    pairs: list[tuple[str, str, str]],
) -> None:
    raw = "{" + ",".join(f"{json.dumps(key)}{blank}:{value}" for key, blank, value in pairs) + "}"
    try:
        expected = [json.loads(raw, object_pairs_hook=_no_duplicates)]
    except ValueError:
        expected = []
    assert read(raw.encode()).rows == expected


@given(raws=st.lists(st.binary(min_size=1, max_size=40), max_size=12))
@pytest.mark.parametrize(
    "layout", [JSONL, Layout("table", ",", True, ("a", "b")), Layout("table", "\t", False, ("a", "b"))]
)
def test_any_bytes_are_a_row_or_a_fault(layout: Layout, raws: list[bytes]) -> None:
    chunk = read(*raws, layout=layout)
    assert sorted([*chunk.lines, *(fault.line for fault in chunk.faults)]) == list(range(1, len(raws) + 1))
    assert len(chunk.rows) == len(chunk.lines) == len(chunk.raws)


def test_a_path_goes_into_objects_lists_and_strings_that_hold_json() -> None:
    chunk = read(
        b'{"m": {"t": 5, "l": [1, {"x": 2}]}}',
        b'{"m": "{\\"t\\": 6, \\"l\\": [7]}"}',
        b"{}",
        b'{"m": "NULL"}',
        b'{"m": "{"}',
    )
    bad: dict[int, str] = {}
    assert isinstance(chunk, JsonChunk)
    assert chunk.column(ColumnPath("m", ("t",)), bad) == [5, 6, None, None, None]
    assert chunk.column(ColumnPath("m", ("l", "0")), bad) == [1, 7, None, None, None]
    assert chunk.column(ColumnPath("m", ("l", "1", "x")), bad) == [2, None, None, None, None]
    assert bad == {4: "column m does not hold JSON"}


def test_a_row_with_quotes_that_do_not_fit_does_not_spoil_its_neighbours() -> None:
    layout = Layout("table", ",", True, ("a", "b"))
    chunk = read(b'1,"x"', b'2,"x"y', b'3,"x', b'4,"a ""b"""', layout=layout)
    assert chunk.rows == [["1", "x"], ["4", 'a "b"']]
    assert [fault.line for fault in chunk.faults] == [2, 3]


def test_cells_may_be_longer_than_the_csv_module_allows_by_itself() -> None:
    long = "x" * 200_000
    assert read(f'1,"{long}"'.encode(), layout=Layout("table", ",", True, ("a", "b"))).rows == [["1", long]]
