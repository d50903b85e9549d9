"""Tables and schemas say the same: a kind without its migration, or with another one, does not pass."""

from __future__ import annotations

import re

import pytest

from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS, Kind
from rlhf_audit_sinks.clickhouse.blocks import (
    FINDING_COLUMNS,
    FINDINGS_TABLE,
    MESSAGE_COLUMNS,
    MESSAGES_TABLE,
    WINDOW_COLUMNS,
    WINDOWS_TABLE,
)
from rlhf_audit_sinks.clickhouse.columns import Column, _columns_of, alias_columns, table_columns
from rlhf_audit_sinks.clickhouse.migrations import migrations

_CREATE = re.compile(r"CREATE TABLE IF NOT EXISTS (\S+)\s*\(\n(.*?)\n\)\nENGINE = MergeTree\n(.*)", re.DOTALL)


def tables() -> dict[str, tuple[list[str], str]]:
    """Table -> lines of its columns, and what follows the engine."""
    found = {}
    for migration in migrations():
        for statement in migration.statements:
            match = _CREATE.fullmatch(statement)
            if match is not None:
                found[match[1]] = ([line.strip().rstrip(",") for line in match[2].splitlines()], match[3])
    return found


def lines(columns: tuple[Column, ...]) -> list[str]:
    return [f"`{column.name}` {column.type}" for column in columns]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_has_a_table_with_exactly_the_columns_of_its_schema(kind: Kind) -> None:
    found, _ = tables()[f"audit_restricted.{kind.name}"]
    aliases = [f"`{name}` {definition}" for name, definition in alias_columns(kind).items()]
    assert found == lines(table_columns(kind)) + aliases


@pytest.mark.parametrize(
    ("table", "columns"),
    [(FINDINGS_TABLE, FINDING_COLUMNS), (MESSAGES_TABLE, MESSAGE_COLUMNS), (WINDOWS_TABLE, WINDOW_COLUMNS)],
)
def test_the_tables_of_the_ledger_have_the_columns_that_the_sink_writes(
    table: str, columns: tuple[Column, ...]
) -> None:
    assert tables()[table][0] == lines(columns)


def test_every_table_is_fsynced_has_a_deduplication_window_and_ends_its_key_with_a_hash() -> None:
    for table, (_, end) in tables().items():
        assert "fsync_after_insert = 1, fsync_part_directory = 1" in end, table
        assert "non_replicated_deduplication_window = 10000" in end, table
        assert re.search(r"ORDER BY \(.*(leaf_hash|close_hash|link)\)", end), table


def test_numbers_of_migrations_are_one_row_without_gaps() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))


@pytest.mark.parametrize(
    ("name", "avro", "columns"),
    [
        ("ts_us", "long", [("ts", "DateTime64(6, 'UTC')")]),
        ("judged_at_us", ["null", "long"], [("judged_at", "Nullable(DateTime64(6, 'UTC'))")]),
        ("step_us", ["null", "long"], [("step_us", "Nullable(Int64)")]),
        ("run_id", ["null", "string"], [("run_id", "LowCardinality(String)")]),
        ("annotator", ["null", "string"], [("annotator", "LowCardinality(Nullable(String))")]),
        ("producer", "string", [("event_producer", "LowCardinality(String)")]),
        ("names", {"type": "array", "items": "string"}, [("names", "Array(String)")]),
        ("is_clipped", ["null", "boolean"], [("is_clipped", "Nullable(Bool)")]),
    ],
)
def test_a_field_becomes_its_column(name: str, avro: object, columns: list[tuple[str, str]]) -> None:
    assert [(column.name, column.type) for column in _columns_of(name, avro, {})] == columns


def test_an_array_of_records_becomes_one_array_per_field() -> None:
    head = {"type": "record", "name": "Head", "fields": [{"name": "at", "type": "int"}, {"name": "n", "type": "long"}]}
    found = _columns_of("lanes", {"type": "array", "items": head}, {})
    assert [(column.name, column.type) for column in found] == [
        ("lanes.at", "Array(Int32)"),
        ("lanes.n", "Array(Int64)"),
    ]


@pytest.mark.parametrize("avro", [{"type": "map", "values": "long"}, ["null", "long", "string"]])
def test_a_type_that_is_not_flat_has_no_column(avro: object) -> None:
    with pytest.raises(FormatError, match="flat"):
        _columns_of("odd", avro, {})
