"""Finding out how a file is laid out, from its first 4 MiB, and naming its columns.

Contents decide, then the name, and flags overrule both:

- the first character ``{`` means JSON lines; ``[`` is a JSON array, refused with the command that converts it;
- otherwise a table; its delimiter is that of the name (``.tsv``, ``.csv``) if the header has it, else the one of
  tab, comma, semicolon and bar that the header has most often;
- CSV is quoted (RFC 4180). TSV is not, since texts begin with quotes by chance, unless *every* cell that begins
  with a quote is a well-formed quoted cell, no other cell holds a quote, and some quoted cell needed it (it holds a
  quote, a tab or a line end) or the header is quoted.

A last header cell that begins with ``#`` and has no cells below it is a comment. Names that stand twice become
``name#1`` and ``name#2``, a nameless column ``column_3``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.nearest import nearest
from rlhf_audit_producers.records import RawChunk, raw_chunks
from rlhf_audit_producers.row_chunks import ColumnPath, JsonChunk, Layout, RowChunk, parse, split_cells
from rlhf_audit_schemas.errors import ConfigError

SAMPLE_BYTES = 4 * 1024 * 1024
_DELIMITERS = "\t,;|"
_SHOWN_COLUMNS = 60

Quoting = Literal["auto", "none", "quoted"]
FormatChoice = Literal["auto", "jsonl", "csv", "tsv"]


@dataclass(frozen=True, slots=True)
class Sniffed:
    """A layout and the first rows under it."""

    path: Path
    layout: Layout
    columns: tuple[str, ...]
    sample: RowChunk

    def resolve(self, name: str, *, may_be_absent: bool = False) -> ColumnPath:
        """The column called ``name``, which may be a dotted path. Raises ConfigError that names what there is."""
        if name in self.columns:
            return ColumnPath(name)
        head, *keys = name.split(".")
        for end in range(1, len(keys) + 1):
            if head in self.columns:
                path = ColumnPath(head, tuple(keys[end - 1 :]))
                if may_be_absent or any(value is not None for value in self.sample.column(path, {})):
                    return path
            head = f"{head}.{keys[end - 1]}"
        if may_be_absent and self.layout.format == "jsonl":
            return ColumnPath(name)
        known = [*self.columns, *self._nested(name)]
        raise ConfigError(f"{self.path}: no column {name!r}{nearest(name, known)}; its columns: {listed(self.columns)}")

    def _nested(self, name: str) -> list[str]:
        """Dotted names below the column that ``name`` begins with, for a better suggestion."""
        head = name.partition(".")[0]
        if head not in self.columns or "." not in name:
            return []
        found: set[str] = set()
        for value in self.sample.column(ColumnPath(head), {})[:100]:
            inner: Any = value
            if isinstance(value, str):
                with contextlib.suppress(orjson.JSONDecodeError):
                    inner = orjson.loads(value)
            if isinstance(inner, dict):
                found.update(f"{head}.{key}" for key in inner)
        return sorted(found)


def listed(names: Sequence[str]) -> str:
    """Names for a person, cut where they are too many."""
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return ", ".join(names[:_SHOWN_COLUMNS]) + more


def sniff(
    source: InputFile, *, form: FormatChoice = "auto", quoting: Quoting = "auto", delimiter: str | None = None
) -> Sniffed:
    """Look at the beginning of a file. Raises ConfigError if it cannot be read as rows."""
    sample = source.sample(SAMPLE_BYTES)
    text = sample.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise ConfigError(f"{source.path}: holds no rows")
    if b"\n" not in sample and sample.count(b"\r") > 1 and len(sample) < SAMPLE_BYTES:
        raise ConfigError(f"{source.path}: its line ends are bare CR; convert them, for example with: tr '\\r' '\\n'")
    if len(sample) == SAMPLE_BYTES and b"\n" in sample:
        sample = sample[: sample.rindex(b"\n") + 1]
    if form == "jsonl" or (form == "auto" and text[:1] in b"{["):
        return _sniff_json(source.path, sample, text)
    return _sniff_table(source.path, sample, form, quoting, delimiter)


def _sniff_json(path: Path, sample: bytes, text: bytes) -> Sniffed:
    first = text.split(b"\n", 1)[0].strip()
    if text[:1] == b"[" or first == b"{":
        filter_ = "'.[]'" if text[:1] == b"[" else "."
        raise ConfigError(
            f"{path}: is one JSON document, not one object per line; convert it, for example with: "
            f"jq -c {filter_} {path.name} > rows.jsonl"
        )
    layout = Layout("jsonl")
    chunk = _sample_rows(sample, layout)
    assert isinstance(chunk, JsonChunk)  # noqa: S101 - for the type checker: the layout says so
    columns: dict[str, None] = {}
    for row in chunk.rows:
        columns.update(dict.fromkeys(row))
    return Sniffed(path, layout, tuple(columns), chunk)


def _sniff_table(path: Path, sample: bytes, form: FormatChoice, quoting: Quoting, delimiter: str | None) -> Sniffed:
    header_raw = next((raw for chunk in raw_chunks([sample]) for raw in chunk.raws), b"")
    header_text = header_raw.decode("utf-8", errors="replace")
    cut = delimiter or _delimiter(path, header_text, form)
    if len(cut) != 1 or cut in '"\r\n':
        raise ConfigError(f"--delimiter: expected one character, found {cut!r}")
    quoted = quoting == "quoted" or (quoting == "auto" and (cut != "\t" or _is_quoted(sample, cut)))
    names, widths = _header(path, sample, cut, quoted=quoted)
    if len(names) > 1 and names[-1].startswith("#") and (not widths or widths[0] == len(names) - 1):
        names.pop()
    layout = Layout("table", cut, quoted, tuple(_unique_names(names)))
    return Sniffed(path, layout, layout.header, _sample_rows(sample, layout))


def _delimiter(path: Path, header: str, form: FormatChoice) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    named = {"tsv": "\t", "csv": ","}.get(form) or ("\t" if {".tsv", ".tab"} & {*suffixes} else None)
    if named is None and ".csv" in suffixes:
        named = ","
    if named is not None and (named in header or form != "auto"):
        return named
    best = max(_DELIMITERS, key=header.count)
    return best if best in header else (named or ",")


def _is_quoted(sample: bytes, delimiter: str) -> bool:
    """Whether a tab-separated sample clearly uses quotes (rule in the module's docstring)."""
    needed = sample.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b'"')  # the header
    for chunk in raw_chunks([sample], quoted_delimiter=delimiter.encode()):
        if any(fault.row_bytes for fault in chunk.faults):
            return False
        for raw, cells in zip(chunk.raws, split_cells(chunk.raws, delimiter, quoted=True), strict=True):
            if b'"' not in raw:
                continue
            if isinstance(cells, str):
                return False
            special = [cell for cell in cells if '"' in cell or delimiter in cell or "\n" in cell]
            # A writer that quotes puts every cell with a quote in quotes and doubles it: re-made, the row is the same.
            if raw.count(b'"') != sum(2 * cell.count('"') for cell in special) + 2 * _quoted_cells(raw, delimiter):
                return False
            needed = needed or bool(special)
    return needed


def _quoted_cells(raw: bytes, delimiter: str) -> int:
    """Cells that begin with a quote, counted outside of quoted cells."""
    count, at, cut = 0, 0, delimiter.encode()
    while at <= len(raw):
        if raw.startswith(b'"', at):
            count += 1
            at += 1
            while at < len(raw) and not (raw.startswith(b'"', at) and not raw.startswith(b'""', at)):
                at += 2 if raw.startswith(b'""', at) else 1
        end = raw.find(cut, at)
        if end < 0:
            break
        at = end + 1
    return count


def _header(path: Path, sample: bytes, delimiter: str, *, quoted: bool) -> tuple[list[str], list[int]]:
    """Cells of the header, and numbers of cells of the first rows."""
    widths: list[int] = []
    names: list[str] | None = None
    for chunk in raw_chunks([sample], quoted_delimiter=delimiter.encode() if quoted else None):
        for cells in split_cells(chunk.raws[:50], delimiter, quoted=quoted):
            if names is None:
                if isinstance(cells, str):
                    raise ConfigError(f"{path}: its header line cannot be read: {cells}")
                names = cells
            elif isinstance(cells, list):
                widths.append(len(cells))
        break
    if not names:
        raise ConfigError(f"{path}: has no readable header line")
    return names, widths


def _unique_names(names: Iterable[str]) -> list[str]:
    given = [name.strip() or f"column_{at}" for at, name in enumerate(names, 1)]
    seen: dict[str, int] = {}
    unique = []
    for name in given:
        if given.count(name) == 1:
            unique.append(name)
            continue
        seen[name] = seen.get(name, 0) + 1
        unique.append(f"{name}#{seen[name]}")
    return unique


def _sample_rows(sample: bytes, layout: Layout) -> RowChunk:
    quoted = layout.delimiter.encode() if layout.quoted else None
    all_rows = RawChunk([], [], [])
    for chunk in raw_chunks([sample], quoted_delimiter=quoted):
        all_rows.lines.extend(chunk.lines)
        all_rows.raws.extend(chunk.raws)
    return parse(all_rows if layout.format == "jsonl" else without_header(all_rows), layout)


def without_header(chunk: RawChunk) -> RawChunk:
    """The chunk less its first record."""
    return RawChunk(chunk.lines[1:], chunk.raws[1:], chunk.faults)
