"""Event codecs: every example round-trips, columns encode as rows do, and nothing of an event leaks into an error."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import example, examples
from rlhf_audit_schemas.codec import AvroCodec, Constant, schema_bytes, schema_sha256
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS, KINDS_BY_NUMBER, STREAM_NUMBERS, shipped_schemas, stream_of_kind

EXAMPLES = examples()
every_example = pytest.mark.parametrize(
    ("kind", "record"),
    [(kind, record) for kind, _, _, record in EXAMPLES],
    ids=["/".join(map(str, one[:3])) for one in EXAMPLES],
)
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_example
def test_every_example_is_read_back_as_it_was_written(kind: str, record: dict[str, Any]) -> None:
    codec = KINDS[kind].codec
    data = codec.encode(record)
    assert codec.decode(data) == record
    assert list(record) == list(codec.fields), "salt and time first"
    assert data[:16] == record["salt"]


@every_example
def test_bytes_after_an_event_or_an_event_cut_short_are_refused(kind: str, record: dict[str, Any]) -> None:
    codec = KINDS[kind].codec
    data = codec.encode(record)
    for other in (data + b"\0", data[:-1], data[: len(data) // 2], b""):
        with pytest.raises(FormatError):
            codec.decode(other)


@every_kind
def test_each_kind_has_an_ordinary_example_and_five_strange_ones(kind: Any) -> None:
    names = [name for found, _, name, _ in EXAMPLES if found == kind.name]
    assert names == ["highest", "long", "lowest", "nulls", "ordinary", "strange"]


def columns_of(records: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {field: [record[field] for record in records] for field in records[0]}


@every_kind
def test_columns_encode_as_rows_do(kind: Any) -> None:
    records = [record for found, _, _, record in EXAMPLES if found == kind.name] * 2
    assert kind.codec.encode_columns(columns_of(records), len(records)) == [kind.codec.encode(one) for one in records]


SHUFFLED = [record for kind, _, _, record in EXAMPLES if kind == "annotation"]


@settings(max_examples=40)
@given(data=st.data(), count=st.sampled_from([0, 1, 2, 7, 70]))
def test_any_mix_of_columns_and_constants_encodes_as_rows_do(data: st.DataObject, count: int) -> None:
    codec = KINDS["annotation"].codec
    columns: dict[str, Any] = {}
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for field in codec.fields:
        values = [record[field] for record in SHUFFLED]
        if field == "ts_us":
            values = [data.draw(st.integers(-(1 << 63), (1 << 63) - 1))]
        if field == "score":
            values += [data.draw(st.floats(allow_nan=False)), data.draw(st.integers(-(1 << 40), 1 << 40))]
        if field == "item":
            values.append(data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=9)))
        if data.draw(st.booleans()):
            column = [values[(n * 7 + len(field)) % len(values)] for n in range(count)]
            columns[field] = column
        else:
            column = [values[0]] * count
            columns[field] = Constant(values[0])
        for row, value in zip(rows, column, strict=True):
            row[field] = value
    assert codec.encode_columns(columns, count) == [codec.encode(row) for row in rows]


def read_or_refused(kind: str, data: bytes) -> None:
    """Nothing but an event or our own error, and no cause in it: the library's may hold what was being read."""
    cause: BaseException | None = None
    try:
        record = KINDS[kind].codec.decode(data)
    except FormatError as error:
        cause = error.__cause__
    else:
        assert tuple(record) == KINDS[kind].codec.fields
    assert cause is None


@given(data=st.binary(max_size=400))
@settings(max_examples=60)
def test_any_bytes_are_an_event_or_refused(data: bytes) -> None:
    for kind in KINDS.values():
        read_or_refused(kind.name, data)


@settings(max_examples=60)
@given(which=st.integers(0, len(EXAMPLES) - 1), at=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_a_damaged_event_is_read_or_refused(which: int, at: int, byte: int) -> None:
    kind, _, _, record = EXAMPLES[which]
    data = bytearray(KINDS[kind].codec.encode(record))
    data[at % len(data)] = byte
    read_or_refused(kind, bytes(data))


WORDS = "a prompt that nobody may read in a log"
UNFIT: dict[str, dict[str, Any]] = {
    "bytes for a string": {"item": WORDS.encode()},
    "a string for a number": {"score": WORDS},
    "a short salt": {"salt": WORDS.encode()[:15]},
    "a number too wide": {"ts_us": 1 << 70},
    "an unknown field": {"extra": WORDS},
    "a lone surrogate": {"item": WORDS + "\ud800"},
    "a number wider than any double": {"score": 1 << 2000},
    "a wrong item": {"axis_values": [WORDS]},
}


@pytest.mark.parametrize("changes", UNFIT.values(), ids=UNFIT)
def test_an_event_that_does_not_fit_is_refused_without_its_contents(changes: dict[str, Any]) -> None:
    codec = KINDS["annotation"].codec
    record = {**example("annotation"), **changes}
    with pytest.raises(FormatError) as row:
        codec.encode(record)
    with pytest.raises(FormatError) as column:
        codec.encode_columns(columns_of([record]), 1)
    for error in (row.value, column.value):
        assert "prompt" not in str(error)
        assert error.__cause__ is None
        assert error.__context__ is None or error.__suppress_context__


def test_missing_and_uneven_columns_are_refused() -> None:
    codec = KINDS["heartbeat"].codec
    columns = columns_of([example("heartbeat")])
    with pytest.raises(FormatError, match="lanes"):
        codec.encode_columns({name: column for name, column in columns.items() if name != "lanes"}, 1)
    with pytest.raises(FormatError, match="epoch"):
        codec.encode_columns({**columns, "epoch": [1, 2]}, 1)
    with pytest.raises(FormatError):
        codec.encode({name: value for name, value in example("heartbeat").items() if name != "lanes"})


def test_doubles_that_no_text_can_say_keep_their_bits() -> None:
    codec = KINDS["annotation"].codec
    for score in (float("nan"), -0.0, float("inf"), 5e-324):
        record = {**example("annotation"), "score": score}
        data = codec.encode(record)
        assert codec.encode(codec.decode(data)) == data
        assert codec.encode_columns(columns_of([record]), 1) == [data]


@every_kind
def test_a_second_version_leaves_the_first_readable(kind: Any) -> None:
    """What version 2 will be: a file beside the first with one more optional field. Old events read through it."""
    schema = json.loads(schema_bytes(kind.path(1)))
    schema["fields"].append({"name": "added_later", "type": ["null", "string"], "default": None})
    second = AvroCodec(f"{kind.name}/v2.avsc", raw_schema=json.dumps(schema).encode())
    assert second.sha256 != kind.codec.sha256
    old, new = json.loads(schema_bytes(kind.path(1))), schema
    for found, _, _, record in EXAMPLES:
        if found != kind.name:
            continue
        data = kind.codec.encode(record)
        read = fastavro.schemaless_reader(io.BytesIO(data), fastavro.parse_schema(old), fastavro.parse_schema(new))
        assert read == {**record, "added_later": None}
        later = second.encode({**record, "added_later": "x"})
        assert second.decode(later)["added_later"] == "x"
        with pytest.raises(FormatError):
            kind.codec.decode(later)


def test_the_table_of_kinds_says_the_stream_in_the_high_byte() -> None:
    assert len(KINDS_BY_NUMBER) == len(KINDS)
    for kind in KINDS.values():
        assert stream_of_kind(kind.number) == kind.stream
        assert kind.number >> 8 == STREAM_NUMBERS[kind.stream]
        assert kind.schema == max(kind.versions)
    assert [stream_of_kind(number) for number in (0, 0xFF, 0x0500, -1, 1 << 16)] == [None] * 5
    shipped = {(number, version): digest for number, version, digest in shipped_schemas()}
    assert shipped == {(kind.number, n): schema_sha256(kind.path(n)) for kind in KINDS.values() for n in kind.versions}
