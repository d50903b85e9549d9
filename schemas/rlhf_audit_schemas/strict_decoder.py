"""Strict Avro: one value has exactly one encoding, anything else is refused.

Library decoders accept more than one spelling of a value (padded varints,
arrays in several blocks) and differ in which. An envelope that two readers
read differently is a forgery waiting to happen, so envelopes are decoded here
(``docs/format.md`` section 0): minimal varints, arrays as one block with a
positive count, valid union index, UTF-8 strings, booleans 0 or 1, nothing
left over. What ``decode`` accepts re-encodes to the same bytes.

Functions are compiled once per schema. Maps and recursive types are not
supported: no envelope has one. The other direction is ``strict_encoder``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from rlhf_audit_schemas.errors import FormatError

Decoder = Callable[[bytes, int], tuple[Any, int]]
Names = dict[str, Any]

_INT_BITS = 32
_LONG_BITS = 64


class StrictDecodeError(FormatError):
    """The bytes are not the one encoding of a value of this schema."""


def read_varint(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """A zigzag varint: (value, next position). Raises StrictDecodeError unless it is minimal and fits."""
    raw = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift >= bits + 7:
                raise StrictDecodeError("varint is too long")
    except IndexError as error:
        raise StrictDecodeError("input ends inside a varint") from error
    if byte == 0 and shift:
        raise StrictDecodeError("varint is not minimal")
    if raw >> bits:
        raise StrictDecodeError(f"number does not fit {bits} bits")
    return raw >> 1 ^ -(raw & 1), at


def _decode_int(data: bytes, at: int) -> tuple[int, int]:
    return read_varint(data, at, _INT_BITS)


def _decode_long(data: bytes, at: int) -> tuple[int, int]:
    return read_varint(data, at, _LONG_BITS)


def _decode_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_varint(data, at, _LONG_BITS)
    end = at + size
    if size < 0 or end > len(data):
        raise StrictDecodeError("length runs past the end")
    return data[at:end], end


def _decode_string(data: bytes, at: int) -> tuple[str, int]:
    raw, at = _decode_bytes(data, at)
    try:
        return raw.decode("utf-8"), at
    except UnicodeDecodeError as error:
        raise StrictDecodeError("string is not UTF-8") from error


def _decode_boolean(data: bytes, at: int) -> tuple[bool, int]:
    if at >= len(data) or data[at] > 1:
        raise StrictDecodeError("boolean is neither 0 nor 1")
    return data[at] == 1, at + 1


def _decode_double(data: bytes, at: int) -> tuple[float, int]:
    if at + 8 > len(data):
        raise StrictDecodeError("input ends inside a double")
    return struct.unpack_from("<d", data, at)[0], at + 8


def _decode_null(data: bytes, at: int) -> tuple[None, int]:
    return None, at


_DECODERS: dict[str, Decoder] = {
    "int": _decode_int,
    "long": _decode_long,
    "bytes": _decode_bytes,
    "string": _decode_string,
    "boolean": _decode_boolean,
    "double": _decode_double,
    "null": _decode_null,
}


def compile_decoder(schema: Any, names: Names) -> Decoder:
    """A function (data, position) -> (value, next position) for a parsed JSON schema."""
    if isinstance(schema, str):
        return _DECODERS[schema] if schema in _DECODERS else compile_decoder(names[schema], names)
    if isinstance(schema, list):
        return _union_decoder([compile_decoder(branch, names) for branch in schema])
    kind = schema["type"]
    if kind in ("fixed", "enum", "record"):
        names[schema["name"]] = schema
    if kind == "fixed":
        return _fixed_decoder(schema["size"])
    if kind == "enum":
        return _enum_decoder(tuple(schema["symbols"]))
    if kind == "array":
        if schema["items"] == "bytes":
            return _decode_bytes_array
        return _array_decoder(compile_decoder(schema["items"], names))
    if kind == "record":
        return _record_decoder([(field["name"], compile_decoder(field["type"], names)) for field in schema["fields"]])
    return compile_decoder(kind, names)


def _fixed_decoder(size: int) -> Decoder:
    def decode(data: bytes, at: int) -> tuple[bytes, int]:
        end = at + size
        if end > len(data):
            raise StrictDecodeError("input ends inside a fixed value")
        return data[at:end], end

    return decode


def _enum_decoder(symbols: tuple[str, ...]) -> Decoder:
    def decode(data: bytes, at: int) -> tuple[str, int]:
        index, at = read_varint(data, at, _INT_BITS)
        if not 0 <= index < len(symbols):
            raise StrictDecodeError("enum index out of range")
        return symbols[index], at

    return decode


def _union_decoder(branches: list[Decoder]) -> Decoder:
    def decode(data: bytes, at: int) -> tuple[Any, int]:
        index, at = read_varint(data, at, _LONG_BITS)
        if not 0 <= index < len(branches):
            raise StrictDecodeError("union index out of range")
        return branches[index](data, at)

    return decode


def _decode_bytes_array(data: bytes, at: int) -> tuple[list[bytes], int]:
    """The hot one: events of a batch. Short lengths are read inline."""
    count, at = read_varint(data, at, _LONG_BITS)
    if count == 0:
        return [], at
    if count < 0 or count > len(data):
        raise StrictDecodeError("array is not one plain block")
    items: list[bytes] = []
    size_of = len(data)
    append = items.append
    try:
        for _ in range(count):
            low = data[at]
            if low < 0x80:
                size, at = low >> 1, at + 1
                if low & 1:
                    raise StrictDecodeError("negative length")
            else:
                high = data[at + 1]
                if high and high < 0x80:
                    raw = low & 0x7F | high << 7
                    size, at = raw >> 1, at + 2
                    if raw & 1:
                        raise StrictDecodeError("negative length")
                else:
                    size, at = read_varint(data, at, _LONG_BITS)
                    if size < 0:
                        raise StrictDecodeError("negative length")
            end = at + size
            if end > size_of:
                raise StrictDecodeError("length runs past the end")
            append(data[at:end])
            at = end
        if data[at] != 0:
            raise StrictDecodeError("array has more than one block")
    except IndexError as error:
        raise StrictDecodeError("input ends inside an array") from error
    return items, at + 1


def _array_decoder(item: Decoder) -> Decoder:
    def decode(data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = read_varint(data, at, _LONG_BITS)
        if count == 0:
            return [], at
        if count < 0 or count > len(data):
            raise StrictDecodeError("array is not one plain block")
        items: list[Any] = []
        for _ in range(count):
            value, at = item(data, at)
            items.append(value)
        end, at = read_varint(data, at, _LONG_BITS)
        if end != 0:
            raise StrictDecodeError("array has more than one block")
        return items, at

    return decode


def _record_decoder(fields: list[tuple[str, Decoder]]) -> Decoder:
    def decode(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        record = {}
        for name, read in fields:
            record[name], at = read(data, at)
        return record, at

    return decode
