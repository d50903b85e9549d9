"""The fast decoder against the codec: the same values, and nothing that has two spellings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.kinds import KINDS, Kind
from rlhf_audit_sinks.clickhouse.columns import event_columns
from rlhf_audit_sinks.clickhouse.event_decoder import UNDECODABLE, _decoder, decode_events

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


def fields_of(kind: Kind, body: bytes) -> dict[str, Any] | None:
    """The record without salt as the fast decoder reads it, None if it refuses."""
    names, decode = _decoder(kind.number, 1)
    lists: list[list[Any]] = [[] for _ in names]
    bad: dict[int, str] = {}
    decode([body], lists, bad)
    return None if bad else {name: column[0] for name, column in zip(names, lists, strict=True)}


@settings(max_examples=20)  # of each kind
@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_the_codec_writes_is_read_as_it_was(kind: Kind, data: st.DataObject) -> None:
    record = data.draw(records(kind))
    expected = {name: value for name, value in record.items() if name != "salt"}
    assert fields_of(kind, kind.codec.encode(record)) == expected


@given(data=st.data())
@pytest.mark.parametrize(
    "kind", [KINDS["annotation"], KINDS["heartbeat"], KINDS["policy_update"]], ids=lambda k: k.name
)
def test_bytes_are_refused_or_are_the_only_spelling_of_what_is_read(kind: Kind, data: st.DataObject) -> None:
    body = bytearray(kind.codec.encode(data.draw(records(kind))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    found = fields_of(kind, bytes(body))
    if found is not None:
        assert kind.codec.encode({"salt": bytes(body[:16]), **found}) == body


@given(body=st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_and_never_raise(body: bytes) -> None:
    found = fields_of(KINDS["annotation"], body)
    assert found is None or KINDS["annotation"].codec.encode({"salt": body[:16], **found}) == body


@given(bodies=st.lists(st.binary(max_size=60), max_size=5), data=st.data())
def test_a_bad_body_changes_nothing_about_its_neighbours(bodies: list[bytes], data: st.DataObject) -> None:
    kind = KINDS["withdrawal"]
    good = [kind.codec.encode(record) for record in data.draw(st.lists(records(kind), min_size=1, max_size=4))]
    mixed = data.draw(st.permutations([*good, *bodies]))
    columns = event_columns(kind.number, 1)
    found, bad = decode_events(kind.number, 1, columns, mixed)
    kept = [body for at, body in enumerate(mixed) if at not in bad]
    alone, none_bad = decode_events(kind.number, 1, columns, kept)
    assert (found, none_bad) == (alone, {})
    assert all(len(column) == len(kept) for column in found.values())
    assert set(bad.values()) <= {UNDECODABLE}


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 20, -1])
def test_a_cut_body_is_refused(cut: int) -> None:
    kind = KINDS["withdrawal"]
    record = dict.fromkeys(kind.codec.fields) | {"salt": bytes(16), "ts_us": 5, "annotation_id": "x"}
    body = kind.codec.encode(record)
    assert fields_of(kind, body) is not None
    assert fields_of(kind, body[:cut]) is None
    assert fields_of(kind, body + b"\x00") is None
