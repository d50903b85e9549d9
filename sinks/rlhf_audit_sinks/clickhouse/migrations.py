"""Numbered SQL files, each applied once, in order, and never edited once released.

``sql/0001_ledger.sql``: statements end with ``;`` at the end of a line. What
was applied stands in ``audit.migrations`` with the file's SHA-256; a file that
changed afterwards is refused. Statements say IF NOT EXISTS, so a migration
that was cut short is simply applied again.

``check_tables`` looks at what exactness and durability rest on: a table
without a deduplication window would count a retry twice, one without fsync
would forget what was acknowledged.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import ConfigError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")
_BOOTSTRAP = (
    "CREATE DATABASE IF NOT EXISTS audit ENGINE = Atomic",
    "CREATE TABLE IF NOT EXISTS audit.migrations (`number` UInt32, `name` String, `sha256` FixedString(64), "
    "`applied_at` DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = MergeTree ORDER BY (number, sha256) "
    "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000",
)
_NEEDED = ("fsync_after_insert = 1", "fsync_part_directory = 1")
_WINDOW = re.compile(r"non_replicated_deduplication_window = ([0-9]+)")
_MIN_WINDOW = 1000  # blocks; a retry is always among the last ones of its partition


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    sha256: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """All files of this version, in order of their numbers."""
    found = []
    for file in files(__package__).joinpath("sql").iterdir():
        match = _NAME.fullmatch(file.name)
        if match is not None:
            data = file.read_bytes()
            found.append(Migration(int(match[1]), file.name, hashlib.sha256(data).hexdigest(), _statements(data)))
    return sorted(found, key=lambda each: each.number)


def _statements(data: bytes) -> tuple[str, ...]:
    lines = [line for line in data.decode("utf-8").splitlines() if not line.lstrip().startswith("--")]
    parts = re.split(r";[ \t]*(?:\n|$)", "\n".join(lines))
    return tuple(part.strip() for part in parts if part.strip())


def migrate(client: Client) -> list[str]:
    """Apply what is missing and return the names applied. Raises ConfigError if an applied file was changed."""
    for statement in _BOOTSTRAP:
        client.command(statement)
    rows = client.query("SELECT number, any(toString(sha256)) FROM audit.migrations GROUP BY number").result_rows
    applied: dict[int, str] = {row[0]: row[1] for row in rows}
    done = []
    for each in migrations():
        before = applied.get(each.number)
        if before == each.sha256:
            continue
        if before is not None:
            raise ConfigError(f"migration {each.name} was applied with SHA-256 {before}, this file has {each.sha256}")
        for statement in each.statements:
            client.command(statement)
        note = f"({each.number}, '{each.name}', '{each.sha256}')"
        client.command(
            f"INSERT INTO audit.migrations (number, name, sha256) VALUES {note}",  # noqa: S608 - from a file of ours
            settings={"async_insert": 0, "insert_deduplication_token": f"migration/{each.name}/{each.sha256}"},
        )
        done.append(each.name)
    check_tables(client)
    return done


def check_tables(client: Client) -> None:
    """Raises ConfigError unless every table of both databases is fsynced and has a deduplication window."""
    rows = client.query(
        "SELECT database, name, engine_full FROM system.tables "
        "WHERE database IN ('audit', 'audit_restricted') AND engine LIKE '%MergeTree'"
    ).result_rows
    for database, name, engine in rows:
        window = _WINDOW.search(engine)
        missing = [setting for setting in _NEEDED if setting not in engine]
        if window is None or int(window[1]) < _MIN_WINDOW:
            missing.append(f"non_replicated_deduplication_window >= {_MIN_WINDOW}")
        if missing:
            raise ConfigError(
                f"table {database}.{name} lacks {', '.join(missing)}: a retry could count twice or an acknowledged row "
                "be lost; set it with ALTER TABLE ... MODIFY SETTING"
            )
