"""Rows become columns of event fields, whole chunks at a time.

``RowMapper`` is a mapping made ready for one file. ``map`` turns a chunk into
columns for the column encoder (all fields but salt and time of recording),
where each row goes, and the faults of rows that do not fit. Every row of the
chunk is either an event or a fault. Texts leave here as SHA-256 and, only if
the mapping says so, as texts.

A score that is no number becomes the label (unless a label is mapped), with
score null. Nothing here writes, draws random bytes or knows the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_audit_producers.cells import MAX_LABEL_CHARS, Bad, digests, numbers, strings, times
from rlhf_audit_producers.layout import Sniffed
from rlhf_audit_producers.mapping import AXIS, FieldSource, Mapping
from rlhf_audit_producers.records import RowFault, fault_of
from rlhf_audit_producers.row_chunks import RowChunk
from rlhf_audit_producers.scoring import ScoreTable, one_hot_values
from rlhf_audit_schemas.codec import Column, Constant
from rlhf_audit_schemas.kinds import KINDS

WarningCode = Literal["score_as_label", "time_without_zone", "score_not_in_table", "one_hot_unset"]
WARNINGS: dict[WarningCode, str] = {
    "score_as_label": "scores are no number: score is null, the value became the label unless a label is mapped",
    "time_without_zone": "times name no zone and were taken as UTC",
    "score_not_in_table": "rows fit no rule of the score table and have score null",
    "one_hot_unset": "rows have none of their 0/1 columns set",
}

_TEXTS = ("prompt", "response", "chosen", "rejected")
_TIMES = {"judged_at": "judged_at_us", "corrected_at": "corrected_at_us", "withdrawn_at": "withdrawn_at_us"}
_LISTS = ("ranking_sha256", "ranking_texts", "axis_names", "axis_values", "axis_labels")
_NO_VALUE = "none of the mapped columns has a value"


@dataclass(slots=True)
class MappedChunk:
    """Events in the making."""

    count: int
    columns: dict[str, Column]
    lines: list[int]
    raws: list[bytes]
    annotators: list[str | None] | None
    """None if no column names an annotator."""
    faults: list[RowFault]
    """In the order of lines."""

    @property
    def rows(self) -> int:
        return self.count + len(self.faults)


class RowMapper:
    """A mapping, ready for the rows of one file; ``warnings`` counts what was odd but recorded."""

    def __init__(self, mapping: Mapping, sniffed: Sniffed, input_sha256: bytes) -> None:
        self.mapping = mapping
        self.kind = KINDS[mapping.kind]
        self.warnings: Counter[WarningCode] = Counter()
        self._nulls = mapping.nulls
        self._paths = {
            column: sniffed.resolve(column, may_be_absent=mapping.missing_columns_allowed) for column in mapping.columns
        }
        self._is_table = sniffed.layout.format == "table"
        self._scores = ScoreTable(mapping.scores) if mapping.scores else None
        self._axes = sorted(
            {source.field for source in mapping.sources if source.field.startswith(AXIS)}
            | {one.field for one in mapping.one_hot if one.field.startswith(AXIS)}
        )
        self._blank: dict[str, Column] = {
            field: Constant([] if field in _LISTS else None)
            for field in self.kind.codec.fields
            if field not in ("salt", "ts_us")
        }
        self._blank["input_sha256"] = Constant(input_sha256)
        if self._axes:
            self._blank["axis_names"] = Constant([axis.removeprefix(AXIS) for axis in self._axes])

    def map(self, chunk: RowChunk) -> MappedChunk:
        """Columns of the good rows and faults of the others."""
        bad: Bad = {}
        columns = dict(self._blank)
        columns["input_line"] = chunk.lines
        given: list[Sequence[Any]] = []
        if chunk.lines:
            self._fill(chunk, columns, bad)
            given = [
                column for name, column in columns.items() if name != "input_line" and not isinstance(column, Constant)
            ]
            if self.kind.name != "annotation":
                self._require_id(columns, bad)
            if all(None in column for column in given):
                for at, values in enumerate(zip(*given, strict=True)):
                    if not any(_is_value(value) for value in values):
                        bad.setdefault(at, _NO_VALUE)
        return self._without_bad(chunk, columns, bad)

    def _fill(self, chunk: RowChunk, columns: dict[str, Column], bad: Bad) -> None:
        for source in self.mapping.sources:
            field = source.field
            if field in _TEXTS:
                self._fill_text(chunk, columns, bad, source)
            elif field in _TIMES:
                values, without_zone = times(self._cells(chunk, bad, source), self._nulls, bad, field)
                self.warnings["time_without_zone"] += without_zone
                columns[_TIMES[field]] = values
            elif field not in ("score", "label") and not field.startswith(AXIS):
                columns[field] = self._strings(chunk, bad, source)
        if self.mapping.has("label"):
            columns["label"] = self._labels(chunk, bad)
        self._fill_score(chunk, columns, bad)
        if self._axes:
            self._fill_axes(chunk, columns, bad)

    def _cells(self, chunk: RowChunk, bad: Bad, source: FieldSource) -> Sequence[Any]:
        if source.constant is not None:
            return [source.constant] * len(chunk.lines)
        return chunk.column(self._paths[source.columns[0]], bad)

    def _strings(self, chunk: RowChunk, bad: Bad, source: FieldSource) -> Column:
        if source.constant is not None:
            return Constant(source.constant)
        parts = [
            strings(chunk.column(self._paths[column], bad), self._nulls, bad, source.field) for column in source.columns
        ]
        return parts[0] if len(parts) == 1 else _joined_column(parts)

    def _fill_text(self, chunk: RowChunk, columns: dict[str, Column], bad: Bad, source: FieldSource) -> None:
        sha256s, texts = digests(
            self._cells(chunk, bad, source), empty_is_missing=self._is_table, with_text=self.mapping.store_text
        )
        columns[f"{source.field}_sha256"] = sha256s
        if texts is not None and f"{source.field}_text" in columns:
            columns[f"{source.field}_text"] = texts

    def _labels(self, chunk: RowChunk, bad: Bad) -> Column:
        one = next((one for one in self.mapping.one_hot if one.field == "label"), None)
        if one is not None:
            return self._one_hot(chunk, bad, "label")
        source = self.mapping.source("label")
        assert source is not None  # noqa: S101 - the caller asked has("label")
        if source.constant is not None:
            return Constant(source.constant)
        labels = strings(chunk.column(self._paths[source.columns[0]], bad), frozenset({None, ""}), bad, "label")
        _refuse_texts(labels, bad, "label")
        return labels

    def _one_hot(self, chunk: RowChunk, bad: Bad, field: str) -> list[str | None]:
        one = next(one for one in self.mapping.one_hot if one.field == field)
        cells = [chunk.column(self._paths[column], bad) for column, _ in one.columns]
        values, unset = one_hot_values(one, cells, bad)
        self.warnings["one_hot_unset"] += unset
        return values

    def _fill_score(self, chunk: RowChunk, columns: dict[str, Column], bad: Bad) -> None:
        if self._scores is not None:
            cells = [
                strings(chunk.column(self._paths[column], bad), frozenset({None}), bad, column)
                for column in self._scores.columns
            ]
            columns["score"], unmatched = self._scores.scores(cells)
            self.warnings["score_not_in_table"] += sum(at not in bad for at in unmatched)
        elif any(one.field == "score" for one in self.mapping.one_hot):
            columns["score"] = [None if value is None else float(value) for value in self._one_hot(chunk, bad, "score")]
        elif (source := self.mapping.source("score")) is not None:
            values, labels = self._numbers(chunk, bad, source)
            columns["score"] = values
            if labels:
                self.warnings["score_as_label"] += sum(at not in bad for at in labels)
                if not self.mapping.has("label"):
                    columns["label"] = [labels.get(at) for at in range(len(values))]

    def _numbers(self, chunk: RowChunk, bad: Bad, source: FieldSource) -> tuple[list[float | None], dict[int, str]]:
        """Numbers, and as strings the values that are none."""
        values, others = numbers(self._cells(chunk, bad, source), self._nulls)
        labels: dict[int, str] = {}
        for at, value in others.items():
            if type(value) is not str:
                bad.setdefault(at, f"{source.field}: an object or list where one value is expected")
            elif len(value) > MAX_LABEL_CHARS:
                bad.setdefault(at, f"{source.field}: {_too_long(value)}")
            else:
                labels[at] = value
        return values, labels

    def _fill_axes(self, chunk: RowChunk, columns: dict[str, Column], bad: Bad) -> None:
        values: list[Sequence[float | None]] = []
        labels: list[Sequence[str | None]] = []
        for axis in self._axes:
            source = self.mapping.source(axis)
            if source is None:
                cells = self._one_hot(chunk, bad, axis)
                numeric, others = numbers(cells, self._nulls)
            else:
                numeric, others = self._numbers(chunk, bad, source)
            values.append(numeric)
            labels.append([others.get(at) for at in range(len(numeric))] if others else [None] * len(numeric))
        columns["axis_values"] = [list(row) for row in zip(*values, strict=True)]
        columns["axis_labels"] = [list(row) for row in zip(*labels, strict=True)]

    def _require_id(self, columns: dict[str, Column], bad: Bad) -> None:
        ids = columns["annotation_id"]
        if not isinstance(ids, Constant):
            for at, value in enumerate(ids):
                if value is None:
                    bad.setdefault(at, f"a {self.kind.name} without annotation_id")

    def _without_bad(self, chunk: RowChunk, columns: dict[str, Column], bad: Bad) -> MappedChunk:
        faults = list(chunk.faults)
        lines, raws = chunk.lines, chunk.raws
        if bad:
            faults.extend(fault_of(lines[at], reason, raws[at]) for at, reason in bad.items())
            keep = [at for at in range(len(lines)) if at not in bad]
            lines, raws = [lines[at] for at in keep], [raws[at] for at in keep]
            columns = {
                name: column if isinstance(column, Constant) else [column[at] for at in keep]
                for name, column in columns.items()
            }
        faults.sort(key=lambda fault: fault.line)
        return MappedChunk(len(lines), columns, lines, raws, _names(columns["annotator"], len(lines)), faults)


def _names(column: Column, count: int) -> list[str | None] | None:
    if isinstance(column, Constant):
        return None if column.value is None else [str(column.value)] * count
    return list(column)


def _joined_column(parts: Sequence[Sequence[str | None]]) -> list[str | None]:
    bars = len(parts) - 1
    try:
        plain = ["|".join(cells) for cells in zip(*parts, strict=True)]
    except TypeError:
        plain = []
    if plain and not any("\\" in text or text.count("|") != bars for text in plain):
        return list(plain)
    return [_joined(cells) for cells in zip(*parts, strict=True)]


def _joined(cells: Sequence[str | None]) -> str | None:
    """Joined so that different cells never give one name: ``|`` and backslash inside a cell are escaped."""
    if not any(cells):
        return None
    return "|".join((cell or "").replace("\\", "\\\\").replace("|", "\\|") for cell in cells)


def _is_value(value: Any) -> bool:
    return any(each is not None for each in value) if type(value) is list else value is not None


def _refuse_texts(labels: Sequence[str | None], bad: Bad, what: str) -> None:
    for value in set(labels):
        if value is not None and len(value) > MAX_LABEL_CHARS:
            for at, each in enumerate(labels):
                if each == value:
                    bad.setdefault(at, f"{what}: {_too_long(value)}")


def _too_long(value: str) -> str:
    return f"{len(value)} characters are a text, not a label (texts are recorded by digest, map them to a text field)"
