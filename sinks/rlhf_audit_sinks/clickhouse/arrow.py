"""Blocks as Arrow streams, the exact format in which they are inserted.

Column by column, with lengths and offsets in front: no value can be read as
part of another one. Measured against Avro with one container per event in
``benchmarks/clickhouse_sink.py``. Needs pyarrow, of the ``[sinks]`` extra.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pyarrow as pa

from rlhf_audit_sinks.clickhouse.blocks import Block
from rlhf_audit_sinks.clickhouse.columns import Column

_TYPES = {
    "boolean": pa.bool_(),
    "bytes": pa.binary(),
    "double": pa.float64(),
    "float": pa.float32(),
    "int": pa.int32(),
    "long": pa.int64(),
    "string": pa.string(),
    "string_or_empty": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
}
_INDEXES = pa.int32()


def encode(block: Block) -> bytes:
    """An Arrow stream with one batch, columns in the block's order."""
    arrays = [_array(column, block.values[column.name]) for column in block.columns]
    batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in block.columns])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _array(column: Column, values: list[Any]) -> Any:
    type_ = _type(column.avro)
    if column.type.startswith("LowCardinality") and pa.types.is_string(type_):
        return _dictionary(values)
    if not any(values) and all(value is None for value in values):
        return pa.nulls(len(values), type_)
    return pa.array(values, type=type_)


def _dictionary(values: list[Any]) -> Any:
    """Few distinct strings: each is encoded once."""
    known: dict[Any, int | None] = {
        value: n for n, value in enumerate(dict.fromkeys(v for v in values if v is not None))
    }
    words = pa.array(list(known), type=pa.string())
    known[None] = None
    return pa.DictionaryArray.from_arrays(pa.array([known[value] for value in values], type=_INDEXES), words)


@cache
def _type(avro: str) -> Any:
    """Arrow type of a column's values."""
    if avro.startswith("array:"):
        return pa.list_(_type(avro.removeprefix("array:")))
    name = avro.removeprefix("?")
    return pa.binary(int(name.removeprefix("fixed"))) if name.startswith("fixed") else _TYPES[name]
