"""Finding out how a file is laid out, and naming its columns."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from feeding import annotations_of, faults_of
from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.layout import Sniffed, sniff
from rlhf_audit_producers.row_chunks import ColumnPath, Layout
from rlhf_audit_schemas.errors import ConfigError


def look(tmp_path: Path, text: str | bytes, name: str = "rows.txt", **options: Any) -> Sniffed:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with InputFile(path) as source:
        return sniff(source, **options)


@pytest.mark.parametrize(
    ("name", "text", "layout"),
    [
        ("a.csv", "x,y\n1,2\n", Layout("table", ",", True, ("x", "y"))),
        ("a.tsv", "x\ty\n1\t2\n", Layout("table", "\t", False, ("x", "y"))),
        ("a.csv", "x;y\n1;2,5\n", Layout("table", ";", True, ("x", "y"))),
        ("a", "x|y|z\n1|2|3\n", Layout("table", "|", True, ("x", "y", "z"))),
        ("a.csv", "x\ty\n1\t2\n", Layout("table", "\t", False, ("x", "y"))),
        ("a.csv", "x\n1\n", Layout("table", ",", True, ("x",))),
        ("a.csv", '{"x": 1}\n', Layout("jsonl")),
        ("a.tsv", '\ufeff\n{"x": 1}\n', Layout("jsonl")),
    ],
)
def test_contents_decide_and_then_the_name(tmp_path: Path, name: str, text: str, layout: Layout) -> None:
    assert look(tmp_path, text, name).layout == layout


def test_flags_overrule_contents(tmp_path: Path) -> None:
    assert look(tmp_path, "a,b\tc\n", "x.csv", form="tsv").layout.header == ("a,b", "c")
    assert look(tmp_path, "a:b\n", delimiter=":").layout.header == ("a", "b")
    assert look(tmp_path, '"a"\tb\n', quoting="none").layout.header == ('"a"', "b")


def test_a_last_header_cell_without_cells_below_it_is_a_comment(tmp_path: Path) -> None:
    assert look(tmp_path, "a\tb\t# see the manual\n1\t2\n").layout.header == ("a", "b")
    assert look(tmp_path, "a\tb\t#\n1\t2\t3\n").layout.header == ("a", "b", "#")


def test_names_that_stand_twice_are_numbered_and_nameless_ones_named(tmp_path: Path) -> None:
    found = look(tmp_path, ",x,x,y\n1,2,3,4\n")
    assert found.columns == ("column_1", "x#1", "x#2", "y")
    with pytest.raises(ConfigError, match=r"no column 'x', did you mean 'x#[12]'"):
        found.resolve("x")


@pytest.mark.parametrize(
    "body",
    ['1\t"Hello," he said\n2\tx\n', '"quoted"\t2\nx\ty\n', '1\tsay "hi"\n', '1\t"open\n2\t"open\n', 'a"b\t"c""d"\n'],
)
def test_tab_separated_text_that_holds_quotes_by_chance_is_not_quoted(tmp_path: Path, body: str) -> None:
    assert look(tmp_path, "a\tb\n" + body).layout.quoted is False


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_tab_separated_text_of_a_writer_that_quotes_is_quoted(tmp_path: Path, quoting: int) -> None:
    text = io.StringIO()
    rows = [["a", "b"], ["1", 'say "hi"'], ["2", "two\nlines"], ["3", "tab\there"], ["4", "plain"]]
    csv.writer(text, delimiter="\t", quoting=quoting).writerows(rows)  # type: ignore[arg-type]  # one of the constants
    found = look(tmp_path, text.getvalue())
    assert found.layout.quoted is True
    assert found.sample.column(ColumnPath("b"), {}) == [row[1] for row in rows[1:]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1}]', "jq -c"),
        ('{\n "a": 1\n}\n', "jq -c"),
        ("a,b\r1,2\r3,4\r", "bare CR"),
        ("", "holds no rows"),
        (" \n\n", "holds no rows"),
        (b"\xff\xfea\x00", "UTF-16"),
        (gzip.compress(b"", mtime=0)[:8], "holds no rows"),
        (b"caf\xe9,b\n1,2\n", "header line cannot be read"),
    ],
)
def test_what_cannot_be_read_as_rows_says_what_to_do(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        look(tmp_path, text)


def test_an_unknown_column_names_the_nearest_one_and_lists_them_all(tmp_path: Path) -> None:
    found = look(tmp_path, '{"rater": "r", "meta": {"time": {"ms": 1}}, "packed": "{\\"when\\": 5}"}\n')
    with pytest.raises(
        ConfigError, match="no column 'ratr', did you mean 'rater'\\?; its columns: rater, meta, packed"
    ):
        found.resolve("ratr")
    with pytest.raises(ConfigError, match=r"did you mean 'packed\.when'"):
        found.resolve("packed.wen")
    assert found.resolve("meta.time.ms") == ColumnPath("meta", ("time", "ms"))
    assert found.resolve("packed.when") == ColumnPath("packed", ("when",))
    assert found.resolve("later", may_be_absent=True) == ColumnPath("later")


def test_a_column_whose_name_holds_dots_is_found_before_a_path(tmp_path: Path) -> None:
    found = look(tmp_path, '{"a.b": 1, "a": {"b": 2, "c.d": 3}, "x.y": {"z": 4}}\n')
    assert found.resolve("a.b") == ColumnPath("a.b")
    assert found.resolve("x.y.z") == ColumnPath("x.y", ("z",))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("packed", [False, True])
def test_windows_line_ends_marks_and_gzip_change_nothing(tmp_path: Path, end: str, mark: str, packed: bool) -> None:
    lines = ["annotator,label,prompt", "r1,größer,ä", 'r2,"a, b","two' + end + 'lines"', "r3,NULL,"]
    raw = (mark + end.join(lines) + end).encode()
    path = tmp_path / "rows.csv"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    found = annotations_of(path)
    assert [(each["annotator"], each["label"]) for each in found] == [("r1", "größer"), ("r2", "a, b"), ("r3", "NULL")]
    assert [each["input_line"] for each in found] == [2, 3, 5]
    assert found[2]["prompt_sha256"] is None


def test_rows_with_too_few_or_too_many_cells_are_faults_unless_the_rest_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("annotator,label\nr1,a\nr2\nr3,b,c\nr4,d,,\n", encoding="utf-8")
    assert faults_of(path) == [(3, "1 cells, expected 2"), (4, "3 cells, expected 2")]
    assert [each["annotator"] for each in annotations_of(path)] == ["r1", "r4"]
