"""Event bodies to column values: exact, one event at a time, and several times faster than a general decoder.

One Avro value has one encoding here, as for envelopes: minimal varints, one
block per array, UTF-8, booleans 0 or 1, nothing left over. A body that is
anything else gives no value at all, so nothing an event holds can shift the
row of another one.

The loop is Python source made from the kind's schema file (never from data)
and compiled once: with the fields written out it needs no call per field.
``AvroCodec`` is its oracle in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from struct import Struct
from struct import error as struct_error
from typing import Any

from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_schemas.strict_decoder import StrictDecodeError, read_varint
from rlhf_audit_sinks.clickhouse.columns import Column

UNDECODABLE = "undecodable"
_REFUSED = (IndexError, UnicodeDecodeError, StrictDecodeError, struct_error)
_FieldDecoder = Callable[[Sequence[bytes], Sequence[list[Any]], dict[int, str]], None]


def decode_events(
    kind: int, version: int, columns: Sequence[Column], bodies: Sequence[bytes]
) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """Values of each column for the bodies that decode, in order; position -> reason for those that do not."""
    names, decode = _decoder(kind, version)
    fields: dict[str, list[Any]] = {name: [] for name in names}
    bad: dict[int, str] = {}
    decode(bodies, list(fields.values()), bad)
    return {column.name: _values(column, fields) for column in columns}, bad


def _values(column: Column, fields: dict[str, list[Any]]) -> list[Any]:
    values = fields[column.field or column.name]
    if column.item is not None:
        return [[item[column.item] for item in value] for value in values]
    if column.avro == "string_or_empty":
        return [value or "" for value in values]
    return values


@cache
def _decoder(kind: int, version: int) -> tuple[tuple[str, ...], _FieldDecoder]:
    """Names of the fields, salt excluded, and the function that appends their values to lists in that order."""
    schema = json.loads(schema_bytes(KINDS_BY_NUMBER[kind].path(version)))
    writer = _Writer()
    for field in schema["fields"]:
        writer.field(field["name"], field["type"])
    space: dict[str, Any] = {
        "varint": read_varint,
        "double": Struct("<d").unpack_from,
        "single": Struct("<f").unpack_from,
        "Refused": StrictDecodeError,
        "REFUSED": _REFUSED,
        "UNDECODABLE": UNDECODABLE,
    }
    exec(compile(writer.source(), f"<{schema['name']} v{version}>", "exec"), space)  # noqa: S102 - from our own file
    return tuple(writer.names), space["decode"]


class _Writer:
    """Writes the source of one decoder. ``b`` is the body, ``p`` the position in it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._lines: list[str] = []
        self._types: dict[str, Any] = {}
        self._count = 0

    def field(self, name: str, avro: Any) -> None:
        """Add the lines that read one field."""
        at = len(self.names)
        target = f"v{at}"
        if name == "salt":
            self._remember(avro)
            self._lines.append("            p = 16")
            return
        self._value(target, avro, "            ")
        self.names.append(name)

    def source(self) -> str:
        """The whole function."""
        range_ = range(len(self.names))
        head = ["def decode(bodies, columns, bad):", f"    {', '.join(f'c{n}' for n in range_)}, = columns"]
        head += [f"    a{n} = c{n}.append" for n in range_]
        head += ["    for row, b in enumerate(bodies):", "        try:"]
        tail = [
            "            if p != len(b): raise Refused",
            "        except REFUSED:",
            "            bad[row] = UNDECODABLE",
            "            continue",
            *(f"        a{n}(v{n})" for n in range_),
        ]
        return "\n".join([*head, *self._lines, *tail]) + "\n"

    def _value(self, target: str, avro: Any, indent: str) -> None:
        kind = self._remember(avro)
        add = self._lines.append
        if isinstance(kind, list):
            if len(kind) != 2 or kind[0] != "null":
                raise FormatError("a union is null and one type")
            add(f"{indent}{target} = None")
            add(f"{indent}i = b[p]; p += 1")
            add(f"{indent}if i:")
            add(f"{indent}    if i != 2: raise Refused")
            self._value(target, kind[1], indent + "    ")
            return
        name = kind if isinstance(kind, str) else kind["type"]
        if name in ("long", "int"):
            self._number(target, indent, 64 if name == "long" else 32)
        elif name in ("string", "bytes"):
            self._number("n", indent, 64)
            add(f"{indent}if n < 0: raise Refused")
            add(f"{indent}{target} = b[p:p + n]; p += n")
            if name == "string":
                add(f"{indent}{target} = str({target}, 'utf-8')")
        elif name == "boolean":
            add(f"{indent}if b[p] > 1: raise Refused")
            add(f"{indent}{target} = b[p] == 1; p += 1")
        elif name in ("double", "float"):
            add(f"{indent}{target} = {'double' if name == 'double' else 'single'}(b, p)[0]")
            add(f"{indent}p += {8 if name == 'double' else 4}")
        elif name == "fixed":
            add(f"{indent}{target} = b[p:p + {kind['size']}]; p += {kind['size']}")
        elif name == "enum":
            self._number("n", indent, 32)
            add(f"{indent}if n < 0: raise Refused")
            add(f"{indent}{target} = {tuple(kind['symbols'])!r}[n]")
        elif name == "array":
            self._array(target, kind["items"], indent)
        elif name == "record":
            self._record(target, kind, indent)
        else:
            raise FormatError(f"Avro type {name}: keep schemas flat")

    def _number(self, target: str, indent: str, bits: int) -> None:
        self._lines.append(f"{indent}x = b[p]")
        self._lines.append(f"{indent}if x < 128: {target} = x >> 1 ^ -(x & 1); p += 1")
        self._lines.append(f"{indent}else: {target}, p = varint(b, p, {bits})")

    def _array(self, target: str, items: Any, indent: str) -> None:
        self._count += 1
        item, left = f"e{self._count}", f"l{self._count}"
        add = self._lines.append
        add(f"{indent}{target} = []")
        add(f"{indent}if b[p]:")
        self._number(left, indent + "    ", 64)
        add(f"{indent}    if not 0 < {left} <= len(b) - p: raise Refused")  # an item has a byte at least
        add(f"{indent}    for {left} in range({left}):")
        self._value(item, items, indent + "        ")
        add(f"{indent}        {target}.append({item})")
        add(f"{indent}    if b[p]: raise Refused")
        add(f"{indent}p += 1")

    def _record(self, target: str, record: dict[str, Any], indent: str) -> None:
        parts = []
        for field in record["fields"]:
            self._count += 1
            part = f"r{self._count}"
            self._value(part, field["type"], indent)
            parts.append(f"{field['name']!r}: {part}")
        self._lines.append(f"{indent}{target} = {{{', '.join(parts)}}}")

    def _remember(self, avro: Any) -> Any:
        if isinstance(avro, str):
            return self._types.get(avro, avro)
        if isinstance(avro, dict) and "name" in avro:
            self._types[avro["name"]] = avro
        return avro
