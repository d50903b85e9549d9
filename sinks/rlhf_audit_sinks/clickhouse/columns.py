"""From an Avro schema to the columns of a ClickHouse table: the one mapping, for every kind.

A table has the ledger's columns (where the event stands in the record) and
one column per field of the kind's schema:

* ``salt`` has no column: it stands in ``body``, and erasing the body erases it;
* ``ts_us`` is ``ts``; other ``long`` fields named ``..._at_us`` lose the ``_us``: both are DateTime64;
* ``["null", T]`` is Nullable, but ``run_id`` is '' where it is null, so that it can stand in a sorting key;
* an array of records is one array per field, ``lanes.partition``;
* packed numbers (``bytes`` named ``..._f64le``, ``_f32le``, ``_i64le``) stay bytes; an alias without the
  suffix shows them as an array;
* a field whose name the ledger uses gets the prefix ``event_``.

A new kind needs a migration file and nothing else; ``create_table`` writes
its first draft. Knows neither rows nor connections.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER, Kind

DATABASE = "audit_restricted"
TIME = "DateTime64(6, 'UTC')"
_EVENT_PREFIX = "event_"
_PACKED = {"_f64le": "Float64", "_f32le": "Float32", "_i64le": "Int64"}

# Fields that hold few different strings in many rows; a wrong guess costs some memory, never a value.
_FEW_VALUES = frozenset(
    {
        "algorithm",
        "annotator",
        "function",
        "group",
        "hook",
        "label",
        "labeler",
        "method",
        "phase",
        "placement",
        "producer",
        "purpose",
        "reason",
        "run_id",
        "software",
        "status",
        "stream",
        "trainer",
    }
)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its ClickHouse type, the Avro type its values have, and where they come from.

    ``field`` is the event's field, None for a column of the ledger; ``item`` the field of a record in an array.
    """

    name: str
    type: str
    avro: str
    field: str | None = None
    item: str | None = None


LEDGER_COLUMNS: tuple[Column, ...] = (
    Column("stream", "LowCardinality(String)", "string"),
    Column("partition", "UInt32", "uint32"),
    Column("window", "UInt64", "uint64"),
    Column("leaf_index", "UInt64", "uint64"),
    Column("leaf_hash", "FixedString(32)", "fixed32"),
    Column("producer", "LowCardinality(String)", "string"),
    Column("epoch", "UInt32", "uint32"),
    Column("seq", "UInt64", "uint64"),
    Column("schema", "UInt16", "uint16"),
    Column("body", "String", "bytes"),
)
_TAKEN = frozenset(column.name for column in LEDGER_COLUMNS)

_SCALARS: Mapping[str, str] = {
    "boolean": "Bool",
    "int": "Int32",
    "long": "Int64",
    "double": "Float64",
    "bytes": "String",
    "string": "String",
}


@cache
def event_columns(kind: int, version: int) -> tuple[Column, ...]:
    """Columns of a kind's fields in one version of its schema. Raises FormatError on a type without a column."""
    schema = json.loads(schema_bytes(KINDS_BY_NUMBER[kind].path(version)))
    names: dict[str, Any] = {}
    found: list[Column] = []
    for field in schema["fields"]:
        if field["name"] != "salt":
            found += _columns_of(field["name"], field["type"], names)
        else:
            _remember(field["type"], names)
    return tuple(found)


def table_columns(kind: Kind) -> tuple[Column, ...]:
    """All columns of a kind's table, those of older versions included, the ledger's first."""
    found = {column.name: column for column in LEDGER_COLUMNS}
    for version in kind.versions:
        for column in event_columns(kind.number, version):
            if found.setdefault(column.name, column).type != column.type:
                raise FormatError(f"{kind.name}.{column.name}: two versions of the schema need two types")
    return tuple(found.values())


def alias_columns(kind: Kind) -> dict[str, str]:
    """Name -> definition of the columns that show packed numbers as arrays."""
    found = {}
    for column in table_columns(kind):
        for suffix, number in _PACKED.items():
            if column.type == "String" and column.name.endswith(suffix):
                found[column.name.removesuffix(suffix)] = (
                    f"Array({number}) ALIAS reinterpret(`{column.name}`, 'Array({number})')"
                )
    return found


def create_table(kind: Kind, order_by: Iterable[str]) -> str:
    """First draft of the statement for a migration file; ``order_by`` comes before leaf index and hash."""
    lines = [f"    `{column.name}` {column.type}" for column in table_columns(kind)]
    lines += [f"    `{name}` {definition}" for name, definition in alias_columns(kind).items()]
    key = ", ".join((*order_by, "leaf_index", "leaf_hash"))
    return (
        f"CREATE TABLE IF NOT EXISTS {DATABASE}.{kind.name}\n(\n" + ",\n".join(lines) + "\n)\n"
        f"ENGINE = MergeTree\nORDER BY ({key})\n"
        "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;\n"
    )


def _columns_of(name: str, avro: Any, names: dict[str, Any]) -> list[Column]:
    kind = _remember(avro, names)
    if isinstance(kind, dict) and kind["type"] == "array":
        items = _remember(kind["items"], names)
        if isinstance(items, dict) and items["type"] == "record":
            return [_column_of_item(name, item, names) for item in items["fields"]]
        inner, type_name = _scalar(name, items, names)
        return [Column(_free(name), f"Array({inner})", f"array:{type_name}", name)]
    if name == "ts_us" or name.endswith("_at_us"):
        return [_time(name, kind)]
    type_, type_name = _scalar(name, kind, names)
    if name == "run_id":
        return [Column(name, "LowCardinality(String)", "string_or_empty", name)]
    if name in _FEW_VALUES and type_name in ("string", "?string"):
        type_ = f"LowCardinality({type_})"
    return [Column(_free(name), type_, type_name, name)]


def _column_of_item(name: str, item: Mapping[str, Any], names: dict[str, Any]) -> Column:
    inner, type_name = _scalar(name, item["type"], names)
    return Column(f"{_free(name)}.{item['name']}", f"Array({inner})", f"array:{type_name}", name, item["name"])


def _time(name: str, kind: Any) -> Column:
    if kind == "long":
        return Column(_free(name[:-3]), TIME, "time", name)
    if kind == ["null", "long"]:
        return Column(_free(name[:-3]), f"Nullable({TIME})", "?time", name)
    raise FormatError(f"{name}: a time in microseconds is a long")


def _scalar(name: str, avro: Any, names: dict[str, Any]) -> tuple[str, str]:
    """ClickHouse type, and the Avro type's short name: ``long``, ``fixed32``, ``?long`` for one that may be null."""
    kind = _remember(avro, names)
    if isinstance(kind, list) and len(kind) == 2 and kind[0] == "null":
        inner, type_name = _scalar(name, kind[1], names)
        return f"Nullable({inner})", f"?{type_name}"
    if isinstance(kind, str) and kind in _SCALARS:
        return _SCALARS[kind], kind
    if isinstance(kind, dict):
        if kind["type"] == "fixed":
            return f"FixedString({kind['size']})", f"fixed{kind['size']}"
        if isinstance(kind["type"], str) and kind["type"] in _SCALARS:
            return _SCALARS[kind["type"]], kind["type"]
    raise FormatError(f"{name}: this Avro type has no column; keep schemas flat")


def _remember(avro: Any, names: dict[str, Any]) -> Any:
    """The type itself, with names that it declares kept and names that it uses looked up."""
    if isinstance(avro, list):
        return [_remember(branch, names) if isinstance(branch, dict) else branch for branch in avro]
    if isinstance(avro, str):
        return names.get(avro, avro)
    if isinstance(avro, dict) and "name" in avro:
        names[avro["name"]] = avro
    return avro


def _free(name: str) -> str:
    return _EVENT_PREFIX + name if name in _TAKEN else name
