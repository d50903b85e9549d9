"""Cutting bytes into numbered records."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_producers import records
from rlhf_audit_producers.input_file import DamagedInputError
from rlhf_audit_producers.records import RowFault, raw_chunks
from rlhf_audit_producers.row_chunks import split_cells


def cut(blocks: list[bytes], quoted: bytes | None = None) -> tuple[list[tuple[int, bytes]], list[RowFault]]:
    chunks = list(raw_chunks(blocks, quoted_delimiter=quoted))
    rows = [pair for chunk in chunks for pair in zip(chunk.lines, chunk.raws, strict=True)]
    return rows, [fault for chunk in chunks for fault in chunk.faults]


def blocks_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_lines_are_counted_from_one_and_blank_ones_are_no_rows() -> None:
    rows, faults = cut([b"a\n\n  \nb\r\n\r\nc"])
    assert rows == [(1, b"a"), (4, b"b"), (6, b"c")]
    assert faults == []


def test_a_byte_order_mark_is_no_part_of_the_first_row() -> None:
    assert cut([b"\xef\xbb\xbfa\n"])[0] == [(1, b"a")]


@given(
    lines=st.lists(st.binary(max_size=12).filter(lambda raw: b"\n" not in raw), max_size=30), size=st.integers(1, 40)
)
def test_rows_are_those_of_a_plain_split_however_the_blocks_fall(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    expected = [
        (number, line.removesuffix(b"\r"))
        for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1)
        if line.strip() and not line.removesuffix(b"\r").isspace()
    ]
    if data.startswith(b"\xef\xbb\xbf"[:size]) and size < 3:
        return  # the mark is looked for in the first block, and real blocks are larger
    assert cut(blocks_of(data, size))[0] == expected


cells = st.text(alphabet='ab",\n\r é', max_size=6)


@given(table=st.lists(st.lists(cells, min_size=2, max_size=3), min_size=1, max_size=12), size=st.integers(1, 50))
def test_quoted_records_are_those_of_the_csv_module(table: list[list[str]], size: int) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL).writerows(table)
    rows, faults = cut(blocks_of(text.getvalue().encode(), size), b",")
    assert not faults
    assert split_cells([raw for _, raw in rows], ",", quoted=True) == table


def test_a_record_begins_on_the_line_where_its_first_cell_stands() -> None:
    rows, _ = cut([b'h,t\n1,"a\nb"\n2,c\n3,"d""e\n\n,f"\n4,g\n'], b",")
    assert [line for line, _ in rows] == [1, 2, 4, 5, 8]
    assert rows[3][1] == b'3,"d""e\n\n,f"'


def test_a_quote_in_the_middle_of_a_cell_is_a_character() -> None:
    rows, _ = cut([b'1,5" pipe\n2,say "hi, all\n3,x\n'], b",")
    assert [line for line, _ in rows] == [1, 2, 3]


def test_a_quote_that_is_never_closed_is_one_fault_that_says_how_much_it_took() -> None:
    rows, faults = cut([b'1,a\n2,"b\n3,c\n4,d\n'], b",")
    assert rows == [(1, b"1,a")]
    assert [(fault.line, fault.row_bytes) for fault in faults] == [(2, len(b'2,"b\n3,c\n4,d'))]
    assert "3 lines" in faults[0].reason


def test_a_line_over_the_bound_is_a_fault_with_its_digest_and_the_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    long = b"x" * 1000
    rows, faults = cut(blocks_of(b"a\n" + long + b"\nb\n" + long, 64))
    assert rows == [(1, b"a"), (3, b"b")]
    digest = hashlib.sha256(long).digest()
    found = [(fault.line, fault.row_sha256, fault.row_bytes) for fault in faults]
    assert found == [(2, digest, 1000), (4, digest, 1000)]


def test_broken_compression_is_one_fault_at_the_line_that_was_not_whole() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"a\nb\nhalf"
        raise DamagedInputError("gzip data break off here")

    chunks = list(raw_chunks(blocks()))
    assert [raw for chunk in chunks for raw in chunk.raws] == [b"a", b"b"]
    faults = [fault for chunk in chunks for fault in chunk.faults]
    assert faults == [RowFault(3, "gzip data break off here", hashlib.sha256(b"half").digest(), 4)]


def test_chunks_are_bounded_and_faults_stay_with_the_rows_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK_RECORDS", 3)
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 10)
    data = b"".join(b"%d\n" % number for number in range(1, 8)) + b"y" * 99 + b"\nz\n"
    chunks = list(raw_chunks(blocks_of(data, 4)))
    assert all(len(chunk.raws) <= 3 for chunk in chunks)
    seen = 0
    for chunk in chunks:
        for line in sorted([*chunk.lines, *(fault.line for fault in chunk.faults)]):
            assert line == seen + 1
            seen = line
    assert seen == 9
