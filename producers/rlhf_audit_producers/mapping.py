"""Which column says what: the mapping of a file to the fields of an event, as a value.

Everything that shapes the events of a file is in it (its layout too), so its
digest together with the file's digest says whether the same was ingested
before. The producer id is made of the two::

    mapping digest = H(D("ingest-mapping") || canonical JSON)
    producer       = "ingest/" || hex(H(D("ingest-producer") || SHA-256 of the file || mapping digest)[:16])

Flags and files that people write are read in ``mapping_text``; rows are mapped in ``rows``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlhf_audit_ledger.domain import domain, sha256
from rlhf_audit_producers.cells import NULLS
from rlhf_audit_producers.layout import Sniffed, listed
from rlhf_audit_producers.nearest import nearest
from rlhf_audit_producers.scoring import OneHot, ScoreRule
from rlhf_audit_schemas.errors import ConfigError

AXIS = "axis."
KindName = Literal["annotation", "correction", "withdrawal"]

FIELDS: dict[str, tuple[str, ...]] = {
    "annotation": (
        "annotation_id", "annotator", "judged_at", "item", "group", "prompt", "response", "chosen", "rejected",
        "score", "label", "labeler",
    ),
    "correction": ("annotation_id", "annotator", "corrected_at", "score", "label", "chosen", "rejected", "reason"),
    "withdrawal": ("annotation_id", "annotator", "withdrawn_at", "reason"),
}  # fmt: skip
JOINABLE = frozenset({"annotation_id", "annotator", "item", "group"})
_NEVER_CONSTANT = frozenset({"annotation_id"})

# Column names that mean a field of another name when nothing is mapped by hand.
_OTHER_NAMES = {
    "id": "annotation_id",
    "annotator_id": "annotator",
    "rater": "annotator",
    "rater_id": "annotator",
    "worker_id": "annotator",
    "timestamp": "judged_at",
    "created_at": "judged_at",
    "item_id": "item",
    "rating": "score",
    "completion": "response",
}


@dataclass(frozen=True, slots=True)
class FieldSource:
    """Where one field comes from: columns (joined where several) or a constant."""

    field: str
    columns: tuple[str, ...] = ()
    constant: str | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a file's rows become."""

    kind: KindName = "annotation"
    sources: tuple[FieldSource, ...] = ()
    scores: tuple[ScoreRule, ...] = ()
    one_hot: tuple[OneHot, ...] = ()
    store_text: bool = False
    more_nulls: tuple[str, ...] = ()
    missing_columns_allowed: bool = False

    @property
    def nulls(self) -> frozenset[str | None]:
        """Strings that mean: no value."""
        return frozenset({None, *NULLS, *self.more_nulls})

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column it reads, in the order in which it names them."""
        named = [column for source in self.sources for column in source.columns]
        named += [condition.column for rule in self.scores for condition in rule.conditions]
        named += [column for one_hot in self.one_hot for column, _ in one_hot.columns]
        return tuple(dict.fromkeys(named))

    def source(self, field: str) -> FieldSource | None:
        """Where a field comes from, if it is mapped."""
        return next((source for source in self.sources if source.field == field), None)

    def has(self, field: str) -> bool:
        """Whether anything gives this field a value."""
        by_table = field == "score" and bool(self.scores)
        return by_table or self.source(field) is not None or any(one.field == field for one in self.one_hot)

    def canonical(self, sniffed: Sniffed) -> bytes:
        """The same mapping of the same layout gives the same bytes, in whatever order it was written."""
        layout = sniffed.layout
        plain = {
            "kind": self.kind,
            "fields": {
                source.field: {"constant": source.constant} if not source.columns else {"columns": source.columns}
                for source in self.sources
            },
            "scores": [
                [[[c.column, c.value, c.is_prefix] for c in rule.conditions], rule.score] for rule in self.scores
            ],
            "one_hot": {one.field: one.columns for one in self.one_hot},
            "store_text": self.store_text,
            "nulls": sorted(set(self.more_nulls) - set(NULLS)),
            "layout": [layout.format, layout.delimiter, layout.quoted],
        }
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def digest(self, sniffed: Sniffed) -> bytes:
        """SHA-256 over the canonical form, 32 bytes."""
        return sha256(domain("ingest-mapping"), self.canonical(sniffed))


def producer_id(file_sha256: bytes, mapping_sha256: bytes) -> str:
    """The producer that this file under this mapping is, here and wherever it is ingested."""
    return f"ingest/{sha256(domain('ingest-producer'), file_sha256, mapping_sha256).hex()[:32]}"


def check(mapping: Mapping, sniffed: Sniffed) -> None:
    """Raises ConfigError if a field or column is unknown or contradicts another, naming the nearest known one."""
    known = FIELDS[mapping.kind]
    fields = [source.field for source in mapping.sources] + [one.field for one in mapping.one_hot]
    for field in fields:
        is_axis = mapping.kind == "annotation" and field.startswith(AXIS) and len(field) > len(AXIS)
        if field not in known and not is_axis:
            axes = f", {AXIS}NAME" if mapping.kind == "annotation" else ""
            raise ConfigError(
                f"unknown field {field!r} of kind {mapping.kind}{nearest(field, known)}; fields: "
                f"{', '.join(known)}{axes}"
            )
        if fields.count(field) > 1:
            raise ConfigError(f"field {field!r} is mapped twice; several columns of one field are joined with +")
    for source in mapping.sources:
        if len(source.columns) > 1 and source.field not in JOINABLE:
            raise ConfigError(
                f"field {source.field!r} cannot be joined from columns; {', '.join(sorted(JOINABLE))} can"
            )
        if source.constant is not None and source.field in _NEVER_CONSTANT:
            raise ConfigError(f"field {source.field!r} cannot be the same in every row")
    if mapping.scores and "score" not in known:
        raise ConfigError(f"kind {mapping.kind} has no score, so --scores says nothing")
    if mapping.scores and "score" in fields:
        raise ConfigError("score comes from a column and from --scores; only one of them can give it")
    if mapping.kind != "annotation" and not mapping.has("annotation_id"):
        raise ConfigError(f"kind {mapping.kind} needs annotation_id: which annotation it is about")
    if not mapping.columns:
        raise ConfigError(
            f"{sniffed.path}: no column is mapped to a field; say what is what, for example "
            f"--map annotator=COLUMN --map score=COLUMN; its columns: {listed(sniffed.columns)}"
        )
    for column in mapping.columns:
        sniffed.resolve(column, may_be_absent=mapping.missing_columns_allowed)


def by_names(mapping: Mapping, sniffed: Sniffed) -> Mapping:
    """The mapping that a file's own column names suggest; what is given already stays."""
    known = FIELDS[mapping.kind]
    found: dict[str, str] = {}
    for column in sniffed.columns:
        if column in known or (mapping.kind == "annotation" and column.startswith(AXIS) and len(column) > len(AXIS)):
            found[column] = column
    for column in sniffed.columns:
        field = _OTHER_NAMES.get(column)
        if field in known and field not in found and field is not None:
            found[field] = column
    given = {source.field for source in mapping.sources} | {one.field for one in mapping.one_hot}
    if mapping.scores:
        given.add("score")
    sources = [FieldSource(field, (column,)) for field, column in found.items() if field not in given]
    return replace(mapping, sources=(*mapping.sources, *sources))


def is_given(mapping: Mapping) -> bool:
    """Whether a person mapped any column by hand."""
    return bool(mapping.columns)


def unused(mapping: Mapping, columns: Sequence[str]) -> list[str]:
    """Columns that nothing reads; a dotted path uses its column."""
    used = set(mapping.columns)
    return [column for column in columns if not any(name == column or name.startswith(f"{column}.") for name in used)]
