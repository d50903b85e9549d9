"""Values as Arrow arrays, and blocks as Arrow streams, the exact format in which they are inserted.

Column by column, with lengths and offsets in front: no value can be read as
part of another one. Measured against Avro with one container per event in
``benchmarks/clickhouse_sink.py``. Needs pyarrow, of the ``[sinks]`` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pyarrow as pa

from rlhf_audit_sinks.clickhouse.columns import Column

_TYPES = {
    "boolean": pa.bool_(),
    "bytes": pa.binary(),
    "double": pa.float64(),
    "int": pa.int32(),
    "long": pa.int64(),
    "string": pa.string(),
    "string_or_empty": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
}


def encode(batch: Any) -> bytes:
    """An Arrow stream with one record batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def batch_of(columns: Sequence[Column], values: dict[str, Any]) -> Any:
    """A record batch of lists, columns in their order."""
    arrays = [array_of(column, values[column.name]) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def array_of(column: Column, values: Any) -> Any:
    """Values, a list or numpy's, as an array of the column's type."""
    array = pa.array(values, type=arrow_type(column.avro))
    return encode_words(array) if column.type.startswith("LowCardinality") else array


def encode_words(strings: Any) -> Any:
    """Few distinct strings, or their bytes: each is kept once. Raises ArrowInvalid if one is not UTF-8."""
    found = strings.dictionary_encode()
    return pa.DictionaryArray.from_arrays(found.indices, found.dictionary.cast(pa.string()))


@cache
def arrow_type(avro: str) -> Any:
    """Arrow type of a column's values."""
    if avro.startswith("array:"):
        return pa.list_(arrow_type(avro.removeprefix("array:")))
    name = avro.removeprefix("?")
    return pa.binary(int(name.removeprefix("fixed"))) if name.startswith("fixed") else _TYPES[name]
