"""The fast decoder against the codec: the same values, and nothing that has two spellings."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_audit_schemas.codec import StrictCodec, schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS, Kind
from rlhf_audit_sinks.clickhouse.columns import event_columns
from rlhf_audit_sinks.clickhouse.event_decoder import UNDECODABLE, decode_events

_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=12),
    "bytes": st.binary(max_size=12),
    "long": st.integers(-(1 << 63), (1 << 63) - 1),
    "int": st.integers(-(1 << 31), (1 << 31) - 1),
    "double": st.floats(allow_nan=False),
    "float": st.floats(allow_nan=False, width=32),
    "boolean": st.booleans(),
}


def values(avro: Any, names: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of an Avro type."""
    if isinstance(avro, dict) and "name" in avro:
        names[avro["name"]] = avro
    kind = names.get(avro, avro) if isinstance(avro, str) else avro
    if isinstance(kind, list):
        return st.none() | values(kind[1], names)
    if isinstance(kind, str):
        return _SCALARS[kind]
    if kind["type"] == "fixed":
        return st.binary(min_size=kind["size"], max_size=kind["size"])
    if kind["type"] == "array":
        return st.lists(values(kind["items"], names), max_size=3)
    assert kind["type"] == "record"
    return st.fixed_dictionaries({field["name"]: values(field["type"], names) for field in kind["fields"]})


def records(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    """Records of a kind."""
    return values(json.loads(schema_bytes(kind.path(1))), {})


def decoded(kind: Kind, bodies: list[bytes]) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """Values of each column as Python's, times as numbers of microseconds."""
    arrays, bad = decode_events(kind.number, 1, event_columns(kind.number, 1), bodies)
    whole = {
        name: array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array for name, array in arrays.items()
    }
    return {name: array.to_pylist() for name, array in whole.items()}, bad


def expected_columns(kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
    """What a record's row has to hold, column by column."""
    found = {}
    for column in event_columns(kind.number, 1):
        value = record[column.field or column.name]
        if column.item is not None:
            value = [item[column.item] for item in value]
        found[column.name] = value or "" if column.avro == "string_or_empty" else value
    return found


def row_of(kind: Kind, body: bytes) -> dict[str, Any] | None:
    """The row of a body, None if it is refused."""
    columns, bad = decoded(kind, [body])
    return None if bad else {name: values[0] for name, values in columns.items()}


def only_reading(kind: Kind, body: bytes) -> dict[str, Any] | None:
    """The row of the one value whose only encoding the body is, by the decoder of envelopes; None if there is none."""
    try:
        return expected_columns(kind, StrictCodec(kind.path(1)).decode(body))
    except FormatError:
        return None


@settings(max_examples=20)  # of each kind
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_the_codec_writes_is_read_as_it_was(kind: Kind, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(records(kind), max_size=5))
    columns, bad = decoded(kind, [kind.codec.encode(record) for record in drawn])
    rows = [expected_columns(kind, record) for record in drawn]
    assert bad == {}
    assert columns == {column.name: [row[column.name] for row in rows] for column in event_columns(kind.number, 1)}


@given(data=st.data())
@pytest.mark.parametrize(
    "kind", [KINDS["annotation"], KINDS["heartbeat"], KINDS["policy_update"]], ids=lambda k: k.name
)
def test_bytes_are_refused_or_are_the_only_spelling_of_what_is_read(kind: Kind, data: st.DataObject) -> None:
    body = bytearray(kind.codec.encode(data.draw(records(kind))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assert repr(row_of(kind, bytes(body))) == repr(only_reading(kind, bytes(body)))  # NaN is not equal to itself


@given(body=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_and_never_raise(body: bytes) -> None:
    assert repr(row_of(KINDS["annotation"], body)) == repr(only_reading(KINDS["annotation"], body))


@given(bodies=st.lists(st.binary(max_size=60), max_size=5), data=st.data())
def test_a_bad_body_changes_nothing_about_its_neighbours(bodies: list[bytes], data: st.DataObject) -> None:
    kind = KINDS["withdrawal"]
    good = [kind.codec.encode(record) for record in data.draw(st.lists(records(kind), min_size=1, max_size=4))]
    mixed = data.draw(st.permutations([*good, *bodies]))
    found, bad = decoded(kind, mixed)
    kept = [body for at, body in enumerate(mixed) if at not in bad]
    alone, none_bad = decoded(kind, kept)
    assert (found, none_bad) == (alone, {})
    assert all(len(column) == len(kept) for column in found.values())
    assert set(bad.values()) <= {UNDECODABLE}


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 20, -1])
def test_a_cut_body_is_refused(cut: int) -> None:
    kind = KINDS["withdrawal"]
    record = dict.fromkeys(kind.codec.fields) | {"salt": bytes(16), "ts_us": 5, "annotation_id": "x"}
    body = kind.codec.encode(record)
    assert row_of(kind, body) is not None
    assert row_of(kind, body[:cut]) is None
    assert row_of(kind, body + b"\x00") is None


NEVER_ENDS, PADDED, HUGE, NEGATIVE = b"\xff" * 10, b"\x82\x00", b"\xfe" + b"\xff" * 7 + b"\x7f", b"\x01"
NOT_UTF8 = [b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]


@pytest.mark.parametrize(
    ("at", "bad"),
    [
        *(("ts", number) for number in (NEVER_ENDS, PADDED, b"\x80" * 8 + b"\x00", b"\xff" * 9 + b"\x7f")),
        *(("text", length) for length in (HUGE, NEGATIVE, b"\x04a\x00"[:2], PADDED, NEVER_ENDS)),
        *(("text", bytes([2 * len(word)]) + word) for word in NOT_UTF8),
        *(("word", b"\x02" + bytes([2 * len(word)]) + word) for word in NOT_UTF8),
        *(("word", branch) for branch in (b"\x01", b"\x04\x02a", b"\x80\x00", b"\x82\x00\x02a")),
    ],
)
def test_every_second_spelling_is_refused_between_good_neighbours(at: str, bad: bytes) -> None:
    good = {"ts": b"\xfe\xff\x03", "text": b"\x02x", "word": b"\x02\x04\xc3\xa9"}
    kind = KINDS["withdrawal"]
    spelled = [bytes(16) + b"".join(parts.values()) + bytes(4) for parts in (good, good | {at: bad}, good)]
    columns, refused = decoded(kind, [*spelled, b""])
    assert refused == {1: UNDECODABLE, 3: UNDECODABLE}
    assert (columns["ts"], columns["annotation_id"], columns["annotator"]) == ([32767] * 2, ["x"] * 2, ["\u00e9"] * 2)


@pytest.mark.parametrize("bits", range(0, 64, 7))
def test_numbers_of_every_length_are_read_beside_each_other(bits: int) -> None:
    kind = KINDS["withdrawal"]
    numbers = [0, 1, -1, (1 << bits) - 1, -(1 << bits), 1 << bits >> 1, (1 << 63) - 1, -(1 << 63)]
    record = dict.fromkeys(kind.codec.fields) | {"salt": bytes(16), "annotation_id": "x"}
    columns, refused = decoded(kind, [kind.codec.encode(record | {"ts_us": number}) for number in numbers])
    assert (columns["ts"], refused) == (numbers, {})


@pytest.mark.parametrize(
    "bad", [b"\x01\x02\x00\x00", b"\x02\x02a\x02\x02b\x00", b"\x04\x02a\x00", b"\x02\x02\xff\x00", b"\x80\x00", HUGE]
)
def test_an_array_that_is_not_one_plain_block_is_refused(bad: bytes) -> None:
    kind = KINDS["annotation"]
    record: dict[str, Any] = dict.fromkeys(kind.codec.fields)
    record |= {"salt": bytes(16), "ts_us": 0, "ranking_sha256": [], "axis_values": [], "axis_labels": []}
    first, second = (
        kind.codec.encode(record | {"ranking_texts": [], "axis_names": names}) for names in ([], ["spelled"])
    )
    at = next(n for n, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    columns, refused = decoded(kind, [second, first[:at] + bad + first[at + 1 :], first])
    assert (columns["axis_names"], refused) == ([["spelled"], []], {1: UNDECODABLE})
