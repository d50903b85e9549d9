"""The two codecs of the project, both compiled once from the ``.avsc`` files in ``avro/``.

``StrictCodec`` is for envelopes (batch, header, close, genesis): slow and
exact in both directions. ``AvroCodec`` is for events: fastavro on plain dicts
and a column encoder that makes thousands of event bodies at once. Both work on
Avro *bodies*: headers and registry ids belong to the transport, so no digest
depends on a registry.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import repeat
from struct import Struct
from struct import error as StructError
from typing import Any

import fastavro

from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.strict_decoder import StrictDecodeError, compile_decoder
from rlhf_audit_schemas.strict_encoder import compile_encoder, zigzag
from rlhf_audit_schemas.varints import zigzag_column

_DOUBLE = Struct("<d").pack
_NUMPY_PAYS = 64  # values in a column; below it the call itself costs more than the loop


def schema_bytes(path: str) -> bytes:
    """The bytes of a schema file, for example ``annotation/v1.avsc``; its SHA-256 stands in the genesis."""
    return files(__package__).joinpath("avro", path).read_bytes()


def schema_sha256(path: str) -> bytes:
    """SHA-256 of the schema file, 32 bytes."""
    return hashlib.sha256(schema_bytes(path)).digest()


class StrictCodec:
    """Exact codec of one envelope: ``encode(decode(x)) == x`` for every accepted ``x``."""

    def __init__(self, path: str) -> None:
        schema = json.loads(schema_bytes(path))
        self.path = path
        self.name: str = schema["name"]
        self._decode = compile_decoder(schema, {})
        self._encode = compile_encoder(schema, {})

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Raises FormatError if the record does not fit the schema."""
        out: list[bytes] = []
        self._encode(record, out)
        return b"".join(out)

    def decode(self, data: bytes) -> dict[str, Any]:
        """Raises StrictDecodeError on any bytes that ``encode`` would not make."""
        record, end = self._decode(data, 0)
        if end != len(data):
            raise StrictDecodeError(f"{self.name}: {len(data) - end} bytes left over")
        return dict(record)

    def decode_all(self, data: bytes, count: int) -> list[dict[str, Any]]:
        """``count`` records that fill ``data`` exactly. Raises StrictDecodeError otherwise."""
        records: list[dict[str, Any]] = []
        at = 0
        for _ in range(count):
            if at >= len(data):
                raise StrictDecodeError(f"{self.name}: fewer records than announced")
            record, at = self._decode(data, at)
            records.append(record)
        if at != len(data):
            raise StrictDecodeError(f"{self.name}: {len(data) - at} bytes left over")
        return records


@dataclass(frozen=True, slots=True)
class Constant:
    """A column that holds the same value in every row; encoded once."""

    value: object


Column = Sequence[Any] | Constant


class AvroCodec:
    """Codec of one event schema."""

    def __init__(self, path: str, *, raw_schema: bytes | None = None) -> None:
        source = schema_bytes(path) if raw_schema is None else raw_schema
        schema = json.loads(source)
        self.path = path
        self.sha256 = hashlib.sha256(source).digest()
        self.name: str = schema["name"]
        self.fields: tuple[str, ...] = tuple(field["name"] for field in schema["fields"])
        self._parsed = fastavro.parse_schema(json.loads(source))
        names: dict[str, Any] = {}
        self._columns = [(field["name"], _column_encoder(field["type"], names)) for field in schema["fields"]]

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """One event body. Raises FormatError on missing, unknown or ill-typed fields, naming no value."""
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, self._parsed, dict(record), strict=True, strict_allow_default=False)
        except Exception as error:  # noqa: BLE001 - the library raises what it likes on records that do not fit
            raise FormatError(f"{self.name}: record does not fit the schema ({type(error).__name__})") from None
        return out.getvalue()

    def decode(self, data: bytes) -> dict[str, Any]:
        """Raises FormatError on bytes that are no such record or go on after it."""
        source = io.BytesIO(data)
        try:
            record = fastavro.schemaless_reader(source, self._parsed, None)
        except Exception as error:  # noqa: BLE001 - the library raises what it likes on hostile bytes
            raise FormatError(f"{self.name}: not decodable ({type(error).__name__})") from None
        if source.tell() != len(data) or not isinstance(record, dict):
            raise FormatError(f"{self.name}: bytes left over")
        return record

    def encode_columns(self, columns: Mapping[str, Column], count: int) -> list[bytes]:
        """``count`` event bodies from one column per field; several times faster than ``encode`` in a loop.

        Values are those of ``encode``. Raises FormatError if a column is missing, unknown, of another length or
        holds a value that does not fit.
        """
        if columns.keys() != set(self.fields):
            odd = sorted(set(self.fields).symmetric_difference(columns.keys()))
            raise FormatError(f"{self.name}: columns do not fit the schema: {', '.join(odd)}")
        parts: list[Iterable[bytes]] = []
        run = b""
        for name, encode in self._columns:
            column = columns[name]
            try:
                if isinstance(column, Constant):
                    run += encode([column.value])[0]
                    continue
                if len(column) != count:
                    raise FormatError(f"{len(column)} values for {count} rows")
                encoded = encode(column)
            except (FormatError, TypeError, AttributeError, ValueError, OverflowError) as error:
                raise FormatError(f"{self.name}.{name}: column does not fit ({type(error).__name__})") from None
            if run:
                parts.append(repeat(run, count))
                run = b""
            parts.append(encoded)
        if run:
            parts.append(repeat(run, count))
        return [b"".join(row) for row in zip(*parts, strict=True)]


ColumnEncoder = Callable[[Sequence[Any]], list[bytes]]


def _column_encoder(schema: Any, names: dict[str, Any]) -> ColumnEncoder:
    """Encoder of one column; falls back to the strict encoder value by value for types that are not hot."""
    scalar = compile_encoder(schema, names)
    if isinstance(schema, list) and len(schema) == 2 and schema[0] == "null":
        inner = _hot_encoder(schema[1], names)
        if inner is not None:
            return _optional(inner)
    hot = _hot_encoder(schema, names)
    if hot is not None:
        return hot

    def generic(values: Sequence[Any]) -> list[bytes]:
        encoded = []
        for value in values:
            if not value and isinstance(value, list | tuple):
                encoded.append(b"\x00")
                continue
            out: list[bytes] = []
            scalar(value, out)
            encoded.append(b"".join(out))
        return encoded

    return generic


def _hot_encoder(schema: Any, names: Mapping[str, Any]) -> ColumnEncoder | None:
    kind = names.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(kind, dict) and kind["type"] == "fixed":
        return _fixed_column(kind["size"])
    if isinstance(kind, str):
        return _HOT.get(kind)
    return None


def _fixed_column(size: int) -> ColumnEncoder:
    def encode(values: Sequence[Any]) -> list[bytes]:
        if not {bytes} >= set(map(type, values)) or not {size} >= set(map(len, values)):
            raise FormatError(f"expected {size} bytes")
        return list(values)

    return encode


def _string_column(values: Sequence[Any]) -> list[bytes]:
    """Few distinct strings (annotators, labels) are encoded once each."""
    known: dict[str, bytes] = {}
    for value in set(values):
        raw = value.encode("utf-8")
        known[value] = zigzag(len(raw)) + raw
    return [known[value] for value in values]


def _long_column(values: Sequence[Any]) -> list[bytes]:
    if not {int} >= set(map(type, values)) or (values and not (min(values) >= -1 << 63 and max(values) < 1 << 63)):
        raise FormatError("expected 64-bit integers")
    return zigzag_column(values) if len(values) >= _NUMPY_PAYS else [zigzag(value) for value in values]


def _double_column(values: Sequence[Any]) -> list[bytes]:
    if not {float, int} >= set(map(type, values)):
        raise FormatError("expected numbers")
    try:
        return [_DOUBLE(value) for value in values]
    except StructError as error:
        raise FormatError("integer is too large for a double") from error


_HOT: dict[str, ColumnEncoder] = {"string": _string_column, "long": _long_column, "double": _double_column}


def _optional(inner: ColumnEncoder) -> ColumnEncoder:
    def encode(values: Sequence[Any]) -> list[bytes]:
        present = inner([value for value in values if value is not None])
        if len(present) == len(values):
            return [b"\x02" + value for value in present]
        if not present:
            return [b"\x00"] * len(values)
        rest = iter(present)
        return [b"\x00" if value is None else b"\x02" + next(rest) for value in values]

    return encode
