"""Event bodies to columns of values: exact, and a whole window at once.

One Avro value has one encoding here, as for envelopes: minimal varints, one
block per array, UTF-8, booleans 0 or 1, nothing left over. A body that is
anything else gives no value at all, so nothing an event holds can shift the
row of another one.

Fields are read one after the other, each from all bodies at the same time
(``body_cursors``), in numpy. Only arrays that are not empty are read event by
event. ``AvroCodec`` and ``StrictCodec`` are the oracles in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_schemas.strict_decoder import compile_decoder
from rlhf_audit_sinks.clickhouse.arrow import array_of, arrow_type, encode_words
from rlhf_audit_sinks.clickhouse.body_cursors import ALL, WIDEST_FIXED, BodyCursors, Rows
from rlhf_audit_sinks.clickhouse.columns import Column

UNDECODABLE = "undecodable"
_SALT_BYTES = 16
# Reads one field of the rows: an Arrow array, or for arrays a list of lists (None where all are empty).
_Reader = Callable[[BodyCursors, Rows], Any]


def decode_events(
    kind: int, version: int, columns: Sequence[Column], bodies: Sequence[bytes]
) -> tuple[dict[str, Any], dict[int, str]]:
    """Arrow array of each column for the bodies that decode, in order; position -> reason for those that do not."""
    readers, kept = _readers(kind, version), np.arange(len(bodies))
    arrays, accepted = _decode(readers, columns, bodies)
    while not accepted.all():  # at most twice: first what is cut wrong, then what is not UTF-8
        kept = kept[accepted]
        arrays, accepted = _decode(readers, columns, [bodies[n] for n in kept])
    return arrays, dict.fromkeys(np.setdiff1d(np.arange(len(bodies)), kept).tolist(), UNDECODABLE)


def _decode(
    readers: dict[str, _Reader], columns: Sequence[Column], bodies: Sequence[bytes]
) -> tuple[dict[str, Any], Any]:
    """Columns, and which bodies are accepted. The columns hold only if all are."""
    cursors = BodyCursors(bodies)
    cursors.skip(_SALT_BYTES)
    fields = {name: read(cursors, ALL) for name, read in readers.items()}
    cursors.end()
    if not cursors.accepted.all():
        return {}, cursors.accepted
    arrays = {}
    for column in columns:
        values = fields[column.field or column.name]
        try:
            arrays[column.name] = _column(column, values, len(bodies))
        except pa.ArrowInvalid:
            cursors.accepted[list(_not_utf8(values))] = False
    return arrays, cursors.accepted


def _column(column: Column, values: Any, count: int) -> Any:
    """A field's values in the column's type. Raises ArrowInvalid for a string that is not UTF-8."""
    if values is None:
        return pa.ListArray.from_arrays(np.zeros(count + 1, np.int32), pa.nulls(0, arrow_type(column.avro).value_type))
    if isinstance(values, list):
        if column.item is not None:
            values = [[item[column.item] for item in value] for value in values]
        return array_of(column, values)
    if column.type.startswith("LowCardinality"):
        return encode_words(values.fill_null(b"") if column.avro == "string_or_empty" else values)
    return values.cast(arrow_type(column.avro))


def _not_utf8(values: Any) -> Iterator[int]:
    for row, value in enumerate(values.to_pylist()):
        try:
            str(value or b"", "utf-8")
        except UnicodeDecodeError:
            yield row


@cache
def _readers(kind: int, version: int) -> dict[str, _Reader]:
    """Field -> its reader, in the order of the schema, salt excluded."""
    schema = json.loads(schema_bytes(KINDS_BY_NUMBER[kind].path(version)))
    names: dict[str, Any] = {}
    found = {field["name"]: _reader(field["type"], names) for field in schema["fields"]}
    del found["salt"]
    return found


def _reader(avro: Any, names: dict[str, Any]) -> _Reader:
    """Reader of an Avro type. Raises FormatError for one that is not flat."""
    kind = names.get(avro, avro) if isinstance(avro, str) else avro
    if isinstance(kind, list):
        if len(kind) != 2 or kind[0] != "null":
            raise FormatError("a union is null and one type")
        return _nullable(_reader(kind[1], names))
    if isinstance(kind, dict):
        if "name" in kind:
            names[kind["name"]] = kind
        if kind["type"] == "array":
            decode = compile_decoder(kind, names)
            return lambda cursors, _: cursors.read_lists(decode)
        if kind["type"] == "fixed" and kind["size"] <= WIDEST_FIXED:
            return lambda cursors, rows: cursors.read_fixed(rows, kind["size"])
        kind = kind["type"]
    if kind not in _SCALARS:
        raise FormatError(f"Avro type {kind}: keep schemas flat")
    return _SCALARS[kind]


_SCALARS: dict[str, _Reader] = {
    "long": lambda cursors, rows: pa.array(cursors.read_integers(rows, 64)),
    "int": lambda cursors, rows: pa.array(cursors.read_integers(rows, 32)),
    "double": lambda cursors, rows: pa.array(cursors.read_doubles(rows)),
    "boolean": lambda cursors, rows: pa.array(cursors.read_booleans(rows)),
    "bytes": lambda cursors, rows: cursors.read_bytes(rows),
    "string": lambda cursors, rows: cursors.read_bytes(rows),
}


def _nullable(read: _Reader) -> _Reader:
    def read_nullable(cursors: BodyCursors, rows: Rows) -> Any:
        present = cursors.read_branch(rows)
        values = read(cursors, present)
        return values if isinstance(present, slice) else _spread(values, present, cursors.count)

    return read_nullable


def _spread(values: Any, rows: Any, count: int) -> Any:
    """Values at their rows, null elsewhere."""
    if not len(rows):
        return pa.nulls(count, values.type)
    index = np.zeros(count, np.int64)
    index[rows] = np.arange(len(rows))
    missing = np.ones(count, np.bool_)
    missing[rows] = False
    return values.take(pa.array(index, mask=missing))
