"""A header in front of a value is dropped exactly where a value of ours follows, and changes nothing else."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import Lane, make_sealer, seal_values, tick_value
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_stores.kafka.wire import (
    SCHEMA_FILES,
    RecordName,
    record_of,
    schema_fingerprint,
    strip_header,
    with_header,
)

SEALER = make_sealer()
LANE = Lane(SEALER.settings)
BATCH = LANE.cut(3).value
TICK = tick_value(SEALER.settings, 1)
SEALED = [one.record.encode() for one in seal_values(SEALER, [BATCH, None, b"rubbish", LANE.cut().value, TICK])[1]]
OURS = [BATCH, TICK, *SEALED]
NAMES = ["EventBatch", "Control", *["SealedRecord"] * len(SEALED)]


def fingerprint_by_the_book(text: bytes) -> bytes:
    """Avro 1.12 specification, *Schema Fingerprints*, as it is written there in Java."""
    empty = 0xC15D213AA4D7A795
    table = []
    for i in range(256):
        fp = i
        for _ in range(8):
            fp = (fp >> 1) ^ (empty & -(fp & 1) & 0xFFFFFFFFFFFFFFFF)
        table.append(fp)
    fp = empty
    for byte in text:
        fp = (fp >> 8) ^ table[(fp ^ byte) & 0xFF]
    return fp.to_bytes(8, "little")


def canonical(schema: Any, namespace: str = "rlhf_audit") -> Any:
    """Parsing canonical form of what our three schemas use: no doc, full names, fixed order of keys."""
    if isinstance(schema, list):
        return [canonical(branch) for branch in schema]
    if isinstance(schema, str):
        return schema if schema in ("null", "boolean", "int", "long", "bytes", "string") else f"{namespace}.{schema}"
    kind = schema["type"]
    if kind == "record":
        fields = [{"name": field["name"], "type": canonical(field["type"])} for field in schema["fields"]]
        return {"name": f"{namespace}.{schema['name']}", "type": kind, "fields": fields}
    if kind == "fixed":
        return {"name": f"{namespace}.{schema['name']}", "type": kind, "size": schema["size"]}
    if kind == "array":
        return {"type": kind, "items": canonical(schema["items"])}
    return canonical(kind)


def test_the_algorithm_written_down_here_gives_the_specification_s_own_values() -> None:
    """From the Avro project's test suite (schema-tests.txt): "int" and "null"."""
    assert fingerprint_by_the_book(b'"int"') == (0x7275D51A3F395C8F).to_bytes(8, "little")
    assert fingerprint_by_the_book(b'"null"') == (0x63DD24E7CC258F8A).to_bytes(8, "little")


@pytest.mark.parametrize("record", SCHEMA_FILES)
def test_fingerprints_are_those_of_the_specification(record: RecordName) -> None:
    schema = json.loads(schema_bytes(SCHEMA_FILES[record]))
    text = json.dumps(canonical(schema), separators=(",", ":")).encode()
    assert schema_fingerprint(record) == fingerprint_by_the_book(text)


@pytest.mark.parametrize(("value", "name"), list(zip(OURS, NAMES, strict=True)))
def test_every_value_of_ours_names_its_record(value: bytes, name: RecordName) -> None:
    assert record_of(value) == name
    assert with_header(value) == b"\xc3\x01" + schema_fingerprint(name) + value


@given(value=st.sampled_from(OURS), schema_id=st.none() | st.integers(0, 2**32 - 1))
def test_a_header_put_on_is_dropped_and_nothing_else(value: bytes, schema_id: int | None) -> None:
    assert strip_header(with_header(value, schema_id=schema_id)) == value
    assert strip_header(value) == value


@given(st.binary(max_size=80))
def test_what_no_value_of_ours_follows_is_kept_whole(rest: bytes) -> None:
    for head in (b"\x00\x00\x00\x00\x07", b"\xc3\x01" + schema_fingerprint("EventBatch"), b""):
        message = head + rest
        kept = strip_header(message)
        assert kept == message or kept[:1] in (b"\x01", b"\x02")
        assert message.endswith(kept)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_it(message: bytes) -> None:
    assert message.endswith(strip_header(message))
    assert with_header(message).endswith(message)


def test_which_id_or_fingerprint_stands_there_decides_nothing() -> None:
    """Two sealers of which one knows a newer schema must seal the same bytes."""
    assert strip_header(b"\xc3\x01" + bytes(8) + BATCH) == BATCH
    assert strip_header(b"\x00\xff\xff\xff\xff" + BATCH) == BATCH


@pytest.mark.parametrize("value", SEALED)
def test_a_sealed_record_cut_short_in_its_header_is_kept_whole(value: bytes) -> None:
    message = b"\x00\x00\x00\x00\x07" + value[:40]
    assert strip_header(message) == message


def test_a_long_header_of_a_sealed_record_is_told_too() -> None:
    """Producer ids of 200 bytes make the length of the seal header a varint of two bytes."""
    lane = Lane(SEALER.settings, "p" * 200)
    record = seal_values(SEALER, [lane.cut().value])[1][0].record
    assert len(record.header) >= 200
    assert SealedRecord.decode(strip_header(with_header(record.encode(), schema_id=1))) == record


def test_fastavro_reads_single_object_messages_of_all_three() -> None:
    for value, name in zip(OURS, NAMES, strict=True):
        schema = fastavro.parse_schema(json.loads(schema_bytes(SCHEMA_FILES[name])))  # type: ignore[index]
        assert fastavro.schemaless_reader(io.BytesIO(with_header(value)[10:]), schema, None)
