"""The encoder that ``strict_decoder`` mirrors: one value, one spelling.

Strict on types and fields: a missing or unknown field, an integer out of
range, a string with a lone surrogate raise ``FormatError``, which names the
field and never its value. Events of hot paths go through ``codec`` instead.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_audit_schemas.errors import FormatError

Encoder = Callable[[Any, list[bytes]], None]
Names = dict[str, Any]

_ONE_BYTE = [bytes([n]) for n in range(128)]


def zigzag(value: int) -> bytes:
    """Minimal zigzag varint of a signed 64-bit integer."""
    raw = value << 1 if value >= 0 else ~(value << 1)
    if raw < 0x80:
        return _ONE_BYTE[raw]
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def compile_encoder(schema: Any, names: Names) -> Encoder:
    """A function (value, output list) for a parsed JSON schema; strict on types and fields."""
    if isinstance(schema, str):
        return _ENCODERS[schema] if schema in _ENCODERS else compile_encoder(names[schema], names)
    if isinstance(schema, list):
        return _union_encoder(schema, names)
    kind = schema["type"]
    if kind in ("fixed", "enum", "record"):
        names[schema["name"]] = schema
    if kind == "fixed":
        return _fixed_encoder(schema["name"], schema["size"])
    if kind == "enum":
        return _enum_encoder({symbol: zigzag(index) for index, symbol in enumerate(schema["symbols"])})
    if kind == "array" and schema["items"] == "bytes":
        return _encode_bytes_array
    if kind == "array":
        return _array_encoder(compile_encoder(schema["items"], names))
    if kind == "record":
        fields = [(field["name"], compile_encoder(field["type"], names)) for field in schema["fields"]]
        return _record_encoder(schema["name"], fields)
    return compile_encoder(kind, names)


def _encode_integer(bits: int) -> Encoder:
    limit = 1 << bits - 1

    def encode(value: Any, out: list[bytes]) -> None:
        if type(value) is not int or not -limit <= value < limit:
            raise FormatError(f"expected an integer of {bits} bits, found {type(value).__name__}")
        out.append(zigzag(value))

    return encode


def _encode_bytes(value: Any, out: list[bytes]) -> None:
    if not isinstance(value, bytes):
        raise FormatError(f"expected bytes, found {type(value).__name__}")
    out += (zigzag(len(value)), value)


def _encode_bytes_array(value: Any, out: list[bytes]) -> None:
    """The hot one: events of a batch, whose lengths repeat."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, bytes) for item in value):
        raise FormatError("expected an array of bytes")
    if value:
        lengths = {size: zigzag(size) for size in set(map(len, value))}
        out.append(zigzag(len(value)))
        out += [part for item in value for part in (lengths[len(item)], item)]
    out.append(b"\x00")


def _encode_string(value: Any, out: list[bytes]) -> None:
    if not isinstance(value, str):
        raise FormatError(f"expected a string, found {type(value).__name__}")
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("string holds a lone surrogate") from error
    out += (zigzag(len(raw)), raw)


def _encode_boolean(value: Any, out: list[bytes]) -> None:
    if not isinstance(value, bool):
        raise FormatError(f"expected a boolean, found {type(value).__name__}")
    out.append(b"\x01" if value else b"\x00")


def _encode_double(value: Any, out: list[bytes]) -> None:
    if type(value) not in (int, float):
        raise FormatError(f"expected a number, found {type(value).__name__}")
    try:
        out.append(struct.pack("<d", value))
    except struct.error as error:
        raise FormatError("integer is too large for a double") from error


def _encode_null(value: Any, out: list[bytes]) -> None:
    if value is not None:
        raise FormatError(f"expected null, found {type(value).__name__}")


_ENCODERS: dict[str, Encoder] = {
    "int": _encode_integer(32),
    "long": _encode_integer(64),
    "bytes": _encode_bytes,
    "string": _encode_string,
    "boolean": _encode_boolean,
    "double": _encode_double,
    "null": _encode_null,
}


def _fixed_encoder(name: str, size: int) -> Encoder:
    def encode(value: Any, out: list[bytes]) -> None:
        if not isinstance(value, bytes) or len(value) != size:
            raise FormatError(f"{name}: expected {size} bytes")
        out.append(value)

    return encode


def _enum_encoder(indexes: Mapping[str, bytes]) -> Encoder:
    def encode(value: Any, out: list[bytes]) -> None:
        if not isinstance(value, str) or value not in indexes:
            raise FormatError("not a symbol of this enum")
        out.append(indexes[value])

    return encode


def _union_encoder(schema: list[Any], names: Names) -> Encoder:
    """Branches are told apart by Python type: null, then bytes-like, then records."""
    branches = [
        (zigzag(index), _python_type(branch, names), compile_encoder(branch, names))
        for index, branch in enumerate(schema)
    ]

    def encode(value: Any, out: list[bytes]) -> None:
        for index, accepted, write in branches:
            if isinstance(value, accepted) and not (accepted == (int, float) and isinstance(value, bool)):
                out.append(index)
                write(value, out)
                return
        raise FormatError(f"no branch of the union takes {type(value).__name__}")

    return encode


def _python_type(branch: Any, names: Names) -> Any:
    kind = branch["type"] if isinstance(branch, dict) else branch
    if kind in names:
        kind = names[kind]["type"]
    return {
        "null": type(None),
        "bytes": bytes,
        "fixed": bytes,
        "string": str,
        "enum": str,
        "boolean": bool,
        "int": int,
        "long": int,
        "double": (int, float),
        "record": Mapping,
        "array": (list, tuple),
    }[kind]


def _array_encoder(item: Encoder) -> Encoder:
    def encode(value: Any, out: list[bytes]) -> None:
        if not isinstance(value, list | tuple):
            raise FormatError(f"expected an array, found {type(value).__name__}")
        if value:
            out.append(zigzag(len(value)))
            for element in value:
                item(element, out)
        out.append(b"\x00")

    return encode


def _record_encoder(name: str, fields: list[tuple[str, Encoder]]) -> Encoder:
    known = frozenset(field for field, _ in fields)

    def encode(value: Any, out: list[bytes]) -> None:
        if not isinstance(value, Mapping):
            raise FormatError(f"{name}: expected a record, found {type(value).__name__}")
        if value.keys() != known:
            odd = sorted(known.symmetric_difference(value.keys()))
            raise FormatError(f"{name}: fields do not fit the schema: {', '.join(map(str, odd))}")
        for field, write in fields:
            try:
                write(value[field], out)
            except FormatError as error:
                raise FormatError(f"{name}.{field}: {error}") from error

    return encode
