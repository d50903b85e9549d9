"""From records to rows whose columns can be asked for by name, for JSON lines and for tables.

JSON: one object per line. Duplicate keys, NaN, Infinity and numbers beyond a
double are refused: readers would disagree on what such a row says. A cheap
count of ``":`` finds the lines that could hold a key twice; only those are read
again by a parser that sees every key.

Tables: every row needs the cells of the header. Fewer is a fault; more is one
too unless the additional cells are empty, since it cannot be known which value
belongs where.

A column is addressed by its name or by a dotted path into it (keys, or numbers
from 0 in a list); a string on that path is read as JSON. Values come out as they stand; ``cells`` gives them types.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from rlhf_audit_producers.records import MAX_RECORD_BYTES, RawChunk, RowFault, fault_of

_KEY_END = re.compile(rb'"[ \t\r\n]*:')
NOT_UTF8 = "not UTF-8 text"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the bytes of a file are to be read as rows."""

    format: Literal["jsonl", "table"]
    delimiter: str = ""
    quoted: bool = False
    header: tuple[str, ...] = ()
    """Names of a table's cells in order; its length is the number of cells of a row."""


@dataclass(frozen=True, slots=True)
class ColumnPath:
    """A column, and keys into its value."""

    column: str
    keys: tuple[str, ...] = ()


class RowChunk:
    """Rows that were readable, in file order, and faults of those that were not."""

    def __init__(self, lines: list[int], raws: list[bytes], faults: list[RowFault]) -> None:
        self.lines, self.raws, self.faults = lines, raws, faults
        self._parsed: dict[str, list[Any]] = {}

    def column(self, path: ColumnPath, bad: dict[int, str]) -> list[Any]:
        """One value per row, None where the row has no such column; unreadable rows are entered in ``bad``."""
        values = self._top(path.column)
        if not path.keys:
            return values
        parsed = self._parsed.get(path.column)
        if parsed is None:
            parsed = self._parsed[path.column] = [
                _from_json(value, path.column, at, bad) if type(value) is str else value
                for at, value in enumerate(values)
            ]
        return [_walk(value, path.keys) for value in parsed]

    def _top(self, column: str) -> list[Any]:
        raise NotImplementedError


class JsonChunk(RowChunk):
    """Rows of a JSON lines file."""

    def __init__(self, lines: list[int], raws: list[bytes], faults: list[RowFault], rows: list[dict[str, Any]]) -> None:
        super().__init__(lines, raws, faults)
        self.rows = rows

    def _top(self, column: str) -> list[Any]:
        try:
            return [row[column] for row in self.rows]
        except KeyError:
            return [row.get(column) for row in self.rows]


class TableChunk(RowChunk):
    """Rows of a CSV or TSV file."""

    def __init__(
        self,
        lines: list[int],
        raws: list[bytes],
        faults: list[RowFault],
        rows: list[list[str]],
        index: dict[str, int],
    ) -> None:
        super().__init__(lines, raws, faults)
        self.rows, self._index = rows, index

    def _top(self, column: str) -> list[Any]:
        at = self._index[column]
        return [row[at] for row in self.rows]


def parse(chunk: RawChunk, layout: Layout) -> RowChunk:
    """Rows of a chunk; nothing raises, what cannot be read is among the faults."""
    faults = list(chunk.faults)
    lines, raws = chunk.lines, chunk.raws
    if layout.format == "jsonl":
        objects: list[Any] = _objects(raws)
        lines, raws, objects = _good(lines, raws, objects, faults)
        return JsonChunk(lines, raws, faults, objects)
    rows: list[Any] = split_cells(raws, layout.delimiter, quoted=layout.quoted)
    width = len(layout.header)
    if any(type(row) is not list or len(row) != width for row in rows):
        rows = [_fitted(row, width) for row in rows]
        lines, raws, rows = _good(lines, raws, rows, faults)
    return TableChunk(lines, raws, faults, rows, {name: at for at, name in enumerate(layout.header)})


def split_cells(raws: Sequence[bytes], delimiter: str, *, quoted: bool) -> list[list[str] | str]:
    """Cells of each record, or the reason why there are none."""
    if not quoted:
        try:
            return [raw.decode("utf-8").split(delimiter) for raw in raws]
        except UnicodeDecodeError:
            return [_cells_unquoted(raw, delimiter) for raw in raws]
    try:
        texts = [raw.decode("utf-8") for raw in raws]
        rows = list(_reader(texts, delimiter))
    except (UnicodeDecodeError, csv.Error):
        return [_cells_quoted(raw, delimiter) for raw in raws]
    if len(rows) != len(texts):  # some record took in the next one
        return [_cells_quoted(raw, delimiter) for raw in raws]
    return list(rows)


def _cells_unquoted(raw: bytes, delimiter: str) -> list[str] | str:
    try:
        return raw.decode("utf-8").split(delimiter)
    except UnicodeDecodeError:
        return NOT_UTF8


def _cells_quoted(raw: bytes, delimiter: str) -> list[str] | str:
    try:
        rows = list(_reader([raw.decode("utf-8")], delimiter))
    except UnicodeDecodeError:
        return NOT_UTF8
    except csv.Error:
        return "quotes in this row do not fit together"
    return rows[0] if len(rows) == 1 else "quotes in this row do not fit together"


def _reader(texts: Iterable[str], delimiter: str) -> Iterable[list[str]]:
    csv.field_size_limit(2 * MAX_RECORD_BYTES)  # the module's own limit of 128 KiB is below real prompts
    return csv.reader(texts, delimiter=delimiter, strict=True)


def _fitted(row: list[str] | str, width: int) -> list[str] | str:
    if isinstance(row, str) or len(row) == width:
        return row
    if len(row) > width and not any(row[width:]):
        return row[:width]
    return f"{len(row)} cells, expected {width}"


def _good(
    lines: list[int], raws: list[bytes], rows: list[Any], faults: list[RowFault]
) -> tuple[list[int], list[bytes], list[Any]]:
    """What is no reason (a string) stays; reasons become faults."""
    if all(type(row) is not str for row in rows):
        return lines, raws, rows
    faults.extend(
        fault_of(line, row, raw) for line, raw, row in zip(lines, raws, rows, strict=True) if type(row) is str
    )
    keep = [at for at, row in enumerate(rows) if type(row) is not str]
    return [lines[at] for at in keep], [raws[at] for at in keep], [rows[at] for at in keep]


def _objects(raws: Sequence[bytes]) -> list[dict[str, Any] | str]:
    """The object on each line, or the reason why there is none."""
    found: list[dict[str, Any] | str] = []
    loads, error = orjson.loads, orjson.JSONDecodeError
    for raw in raws:
        try:
            row = loads(raw)
        except error:
            found.append(_why_not_json(raw))
            continue
        if type(row) is not dict:
            row = "not a JSON object"
        # Each key ends in ":, perhaps with blanks before the colon; so does some text. As many ends as keys of the
        # outer object, and no blank that could hide another end: no key can stand there twice.
        elif (
            (raw.count(b'":') != len(row) or b" :" in raw or b"\t" in raw or b"\r" in raw)
            and len(_KEY_END.findall(raw)) != _keys_in(row)
            and _has_duplicate_key(raw)
        ):
            row = "an object holds the same key twice"
        found.append(row)
    return found


def _why_not_json(raw: bytes) -> str:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return NOT_UTF8
    return "not valid JSON"


def _keys_in(value: Any) -> int:
    if type(value) is dict:
        return len(value) + sum(_keys_in(inner) for inner in value.values() if type(inner) in (dict, list))
    if type(value) is list:
        return sum(_keys_in(inner) for inner in value if type(inner) in (dict, list))
    return 0


class _TwiceError(Exception):
    """A key stands twice in one object."""


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _TwiceError


def _has_duplicate_key(raw: bytes) -> bool:
    try:
        json.loads(raw, object_pairs_hook=_unique)
    except _TwiceError:
        return True
    except (ValueError, RecursionError):
        return True  # two parsers disagree on this line: nobody should rely on it
    return False


def _from_json(value: str, column: str, at: int, bad: dict[int, str]) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        if value.strip() and value.strip().lower() not in ("null", "none", "nan"):
            bad.setdefault(at, f"column {column} does not hold JSON")
        return None


def _walk(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if type(value) is str:
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                return None
        if type(value) is dict:
            value = value.get(key)
        elif type(value) is list and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value
