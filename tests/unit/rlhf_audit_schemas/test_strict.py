"""Strict envelopes: one value has one spelling. What is accepted re-encodes to the same bytes, all else is refused."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_audit_schemas.codec import StrictCodec, schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.strict_decoder import StrictDecodeError, compile_decoder, read_varint
from rlhf_audit_schemas.strict_encoder import compile_encoder, zigzag

ENVELOPES = sorted(path.name for path in (files("rlhf_audit_schemas") / "avro" / "envelope").iterdir())
CODECS = {name: StrictCodec(f"envelope/{name}") for name in ENVELOPES}
every_envelope = pytest.mark.parametrize("name", ENVELOPES)
LONG = st.integers(-(1 << 63), (1 << 63) - 1)
INT = st.integers(-(1 << 31), (1 << 31) - 1)
UTF8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


def values_of(schema: Any, names: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a parsed schema; strings as str, bytes as bytes."""
    schema = names.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        return st.one_of([values_of(branch, names) for branch in schema])
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind in ("fixed", "enum", "record"):
        names[schema["name"]] = schema
    if kind == "record":
        return st.fixed_dictionaries({field["name"]: values_of(field["type"], names) for field in schema["fields"]})
    if kind == "array":
        return st.lists(values_of(schema["items"], names), max_size=3)
    if kind == "fixed":
        return st.binary(min_size=schema["size"], max_size=schema["size"])
    if kind == "enum":
        return st.sampled_from(schema["symbols"])
    plain: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": INT,
        "long": LONG,
        "bytes": st.binary(max_size=9),
        "string": UTF8,
    }
    return plain[kind]


RECORDS = {name: values_of(json.loads(schema_bytes(f"envelope/{name}")), {}) for name in ENVELOPES}


@every_envelope
@settings(max_examples=15)
@given(data=st.data())
def test_a_record_is_read_back_as_it_was_written(name: str, data: st.DataObject) -> None:
    record = data.draw(RECORDS[name])
    assert CODECS[name].decode(CODECS[name].encode(record)) == record


def accepted_only_in_one_spelling(codec: StrictCodec, data: bytes) -> None:
    try:
        record = codec.decode(data)
    except FormatError:
        return
    assert codec.encode(record) == data


@every_envelope
@settings(max_examples=25)
@given(data=st.binary(max_size=120))
def test_any_bytes_are_refused_or_written_again_as_they_are(name: str, data: bytes) -> None:
    accepted_only_in_one_spelling(CODECS[name], data)


@every_envelope
@settings(max_examples=25)
@given(data=st.data())
def test_damaged_records_are_refused_or_written_again_as_they_are(name: str, data: st.DataObject) -> None:
    """Bytes changed, inserted, left out; numbers padded: nothing gains a second spelling."""
    good = CODECS[name].encode(data.draw(RECORDS[name]))
    at = data.draw(st.integers(0, len(good) - 1), label="at")
    byte = bytes([data.draw(st.integers(0, 255), label="byte")])
    padded = bytes([good[at] | 0x80, 0x00])
    for part in (byte, b"", byte + good[at : at + 1], padded):
        accepted_only_in_one_spelling(CODECS[name], good[:at] + part + good[at + 1 :])


@every_envelope
def test_bytes_after_a_record_and_a_record_cut_short_are_refused(name: str) -> None:
    good = CODECS[name].encode(_smallest(name))
    for data in (good + b"\0", good[:-1], b""):
        with pytest.raises(FormatError):
            CODECS[name].decode(data)


def _smallest(name: str) -> dict[str, Any]:
    def value(schema: Any) -> Any:
        schema = names.get(schema, schema) if isinstance(schema, str) else schema
        if isinstance(schema, list):
            return value(schema[0]) if schema[0] != "null" else None
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind == "record":
            return {field["name"]: value(field["type"]) for field in schema["fields"]}
        if kind == "fixed":
            names[schema["name"]] = schema
            return bytes(schema["size"])
        if kind == "enum":
            return schema["symbols"][0]
        return {"array": [], "boolean": False, "string": "", "bytes": b""}.get(kind, 0)

    schema = json.loads(schema_bytes(f"envelope/{name}"))
    names: dict[str, Any] = {"Digest": {"type": "fixed", "name": "Digest", "size": 32}}
    names["PublicKey"] = {"type": "fixed", "name": "PublicKey", "size": 32}
    record: dict[str, Any] = value(schema)
    return record


@given(number=LONG)
def test_a_varint_has_one_spelling(number: int) -> None:
    data = zigzag(number)
    assert read_varint(data, 0, 64) == (number, len(data))
    for other in (data[:-1] + bytes([data[-1] | 0x80, 0x00]), data[:-1] + bytes([data[-1] | 0x80]) + b"\x80\x00"):
        with pytest.raises(StrictDecodeError):
            read_varint(other, 0, 64)
    if not -(1 << 31) <= number < 1 << 31:
        with pytest.raises(StrictDecodeError):
            read_varint(data, 0, 32)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01", b"\x80" * 20 + b"\x01"])
def test_a_varint_that_ends_nowhere_or_is_too_wide_is_refused(data: bytes) -> None:
    with pytest.raises(StrictDecodeError):
        read_varint(data, 0, 64)


BYTES_ARRAY = {"type": "array", "items": "bytes"}
LONG_ARRAY = {"type": "array", "items": "long"}
BROKEN: list[tuple[Any, str, str]] = [
    ("boolean", "02", "a boolean is 0 or 1"),
    ("boolean", "", "nothing there"),
    ("double", "00000000000000", "seven bytes of a double"),
    ("string", "02ff", "no UTF-8"),
    ("string", "06eda080", "a surrogate in UTF-8"),
    ("bytes", "01", "a negative length"),
    ("bytes", "0461", "a length past the end"),
    (["null", "long"], "04", "a branch that is not there"),
    (["null", "long"], "01", "a negative branch"),
    ({"type": "enum", "name": "E", "symbols": ["a"]}, "02", "a symbol that is not there"),
    ({"type": "fixed", "name": "F", "size": 2}, "61", "half a fixed value"),
    (LONG_ARRAY, "0102020200", "a block with its size in bytes"),
    (LONG_ARRAY, "0202020200", "two blocks"),
    (LONG_ARRAY, "0202", "no end of the array"),
    (LONG_ARRAY, "fe01", "more items than bytes"),
    (BYTES_ARRAY, "0102026100", "a block with its size in bytes, of bytes"),
    (BYTES_ARRAY, "02026102026200", "two blocks of bytes"),
    (BYTES_ARRAY, "020261", "no end of an array of bytes"),
    (BYTES_ARRAY, "fe01", "more items than bytes, of bytes"),
    (BYTES_ARRAY, "02820061" + "00", "a padded length"),
    (BYTES_ARRAY, "0282", "a cut length"),
    (BYTES_ARRAY, "020100", "a negative length in an array"),
    (BYTES_ARRAY, "02810100", "a negative length of two bytes"),
    (BYTES_ARRAY, "0281808001" + "00", "a negative length of four bytes"),
    (BYTES_ARRAY, "020a61", "an item past the end"),
]


@pytest.mark.parametrize(("schema", "data"), [case[:2] for case in BROKEN], ids=[case[2] for case in BROKEN])
def test_a_second_spelling_or_a_broken_value_is_refused(schema: Any, data: str) -> None:
    with pytest.raises(StrictDecodeError):
        compile_decoder(schema, {})(bytes.fromhex(data), 0)


@settings(max_examples=30)
@given(sizes=st.lists(st.sampled_from([0, 1, 63, 64, 8191, 8192, 20_000]), max_size=4))
def test_arrays_of_bytes_of_any_length_are_read_back(sizes: list[int]) -> None:
    value, out = [b"x" * size for size in sizes], list[bytes]()
    compile_encoder(BYTES_ARRAY, {})(value, out)
    assert compile_decoder(BYTES_ARRAY, {})(b"".join(out), 0) == (value, len(b"".join(out)))


@given(number=st.floats())
def test_doubles_keep_every_bit(number: float) -> None:
    out: list[bytes] = []
    compile_encoder("double", {})(number, out)
    again: list[bytes] = []
    compile_encoder("double", {})(compile_decoder("double", {})(out[0], 0)[0], again)
    assert again == out


UNFIT: list[tuple[Any, Any]] = [
    ("int", 1 << 31),
    ("int", True),
    ("long", 1 << 63),
    ("long", "1"),
    ("bytes", "text"),
    ("string", b"bytes"),
    ("string", "\ud800"),
    ("boolean", 1),
    ("double", "1"),
    ("double", True),
    ("double", 1 << 2000),
    ("null", 0),
    ({"type": "fixed", "name": "F", "size": 2}, b"a"),
    ({"type": "enum", "name": "E", "symbols": ["a"]}, "b"),
    ({"type": "enum", "name": "E", "symbols": ["a"]}, []),
    (["null", "double"], True),
    (["null", "double"], "1"),
    (LONG_ARRAY, 3),
    (BYTES_ARRAY, ["text"]),
    ({"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}, {}),
    ({"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}, {"a": 1, "b": 2}),
    ({"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}, None),
]


@pytest.mark.parametrize(("schema", "value"), UNFIT, ids=range(len(UNFIT)))
def test_a_value_that_does_not_fit_is_not_written(schema: Any, value: Any) -> None:
    with pytest.raises(FormatError):
        compile_encoder(schema, {})(value, [])


def test_errors_name_the_field_and_never_the_value() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "prompt", "type": ["null", "string"]}]}
    with pytest.raises(FormatError, match=r"R\.prompt") as caught:
        compile_encoder(schema, {})({"prompt": b"secret words"}, [])
    assert "secret" not in str(caught.value)


def test_many_records_fill_their_bytes_exactly() -> None:
    codec = CODECS["gap.avsc"]
    one = codec.encode(_smallest("gap.avsc"))
    assert len(codec.decode_all(one * 3, 3)) == 3
    assert codec.decode_all(b"", 0) == []
    for data, count in ((one * 3, 2), (one * 3, 4), (one * 3 + b"\0", 3), (b"", 1 << 40)):
        with pytest.raises(StrictDecodeError):
            codec.decode_all(data, count)
