"""Read-only connections to the embedded engine, with limits that a query cannot lift.

One connection answers one query at a time; ``ReadPool`` holds a few, so that
many clients share them and never take more threads than that from sealing.
"""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_trail.query_rules import QueryRefusedError, check_normal_form, check_parameters

_CODE = re.compile(r"Code: (\d+)")
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNKNOWN_DATABASE, _TOO_MANY = 81, 202
_REST, _MAX_REST_S = 5.0, 0.25
# What can be called and is not the engine's own ordinary functions.
_KNOWN = (
    "SELECT lower(name) FROM system.table_functions "
    "UNION ALL SELECT lower(name) FROM system.functions WHERE origin != 'System'"
)


class QueryError(AuditTrailError):
    """ClickHouse refused or could not finish a query; ``code`` is its number, the text its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may take."""

    max_execution_time_s: int = 30
    max_result_rows: int = 1_000_000
    max_result_bytes: int = 256 << 20
    max_memory_bytes: int = 1 << 30
    max_threads: int = 1

    def settings(self) -> dict[str, int]:
        """Engine settings, ``readonly`` last: from then on none can be changed."""
        return {
            "max_execution_time": self.max_execution_time_s,
            "max_result_rows": self.max_result_rows,
            "max_result_bytes": self.max_result_bytes,
            "max_memory_usage": self.max_memory_bytes,
            "max_threads": self.max_threads,
            "readonly": 1,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """Result bytes and the format they are in."""

    body: bytes
    format: str


class ReadConnection:
    """One connection. Used by one thread at a time."""

    def __init__(self, data: Path, limits: Limits, *, database: str = "audit_restricted") -> None:
        import chdb

        self._connection: Any = chdb.connect(str(data.resolve()))  # type: ignore[no-untyped-call]  # it is not typed
        self._default = database
        self._database = ""
        self._connection.query("SET session_timezone = 'UTC'")
        self._known = frozenset(self._query(_KNOWN, "TSVRaw", {}).decode("utf-8", "replace").split())
        for name, value in limits.settings().items():
            self._connection.query(f"SET {name} = {value}")

    def run(
        self,
        query: str,
        *,
        default_format: str,
        database: str | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> Answer:
        """Answer one query. Raises QueryRefusedError or QueryError."""
        if not _NAME.fullmatch(default_format):
            raise QueryError(73, f"Code: 73. DB::Exception: Unknown format {default_format!r:.40}. (UNKNOWN_FORMAT)")
        normal = self._query(
            "SELECT formatQuerySingleLine(unhex({q:String})) FORMAT RawBLOB", "RawBLOB", {"q": query.encode().hex()}
        )
        text = normal.decode("utf-8", "replace")
        check_normal_form(text, known=self._known)
        check_parameters(text, (parameters or {}).values())
        # ``default`` is what clients name without meaning it; in this engine its tables would be files.
        self._use(self._default if database in (None, "", "default") else database)
        found = _FORMAT.search(text)
        body = self._query(query, default_format, parameters or {})
        return Answer(body, found[1] if found else default_format)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _use(self, database: str) -> None:
        if database == self._database:
            return
        if not _NAME.fullmatch(database):
            raise QueryError(_UNKNOWN_DATABASE, "Code: 81. DB::Exception: Database does not exist. (UNKNOWN_DATABASE)")
        self._query(f"USE {database}", "TSV", {})
        self._database = database

    def _query(self, query: str, fmt: str, parameters: Mapping[str, str]) -> bytes:
        try:
            result = self._connection.query(query, fmt, params=dict(parameters))
        except RuntimeError as error:
            message = str(error)
            code = _CODE.search(message)
            text = message[max(message.find("Code:"), 0) :].split(": In scope SELECT formatQuerySingleLine", 1)[0]
            raise QueryError(int(code[1]) if code else 1002, text) from None
        return bytes(result.bytes() or b"")


class ReadPool:
    """As many connections as queries may run at once; whoever comes later waits.

    After a query its connection rests, ``_REST`` times as long as the query took: a client that asks without a pause
    would keep itself and us busy on the cores that seal (measured without rest: 12 % slower). One question at a
    time, as a person or a dashboard asks, never meets a resting connection.
    """

    def __init__(self, data: Path, *, size: int = 2, limits: Limits | None = None) -> None:
        self._free: queue.Queue[tuple[ReadConnection, float]] = queue.Queue()
        self._timeout_s = (limits or Limits()).max_execution_time_s
        for _ in range(size):
            self._free.put((ReadConnection(data, limits or Limits()), 0.0))
        self.size = size

    @contextmanager
    def connection(self) -> Iterator[ReadConnection]:
        """Borrow a connection. Raises QueryError if none gets free in time."""
        try:
            found, rested_at = self._free.get(timeout=self._timeout_s)
        except queue.Empty:
            raise QueryError(_TOO_MANY, "Code: 202. DB::Exception: Too many simultaneous queries.") from None
        started = max(time.monotonic(), rested_at)
        time.sleep(max(0.0, rested_at - time.monotonic()))
        try:
            yield found
        finally:
            ended = time.monotonic()
            self._free.put((found, ended + min(_REST * (ended - started), _MAX_REST_S)))

    def close(self) -> None:
        """Close every connection that nobody uses."""
        for _ in range(self.size):
            with suppress(queue.Empty):
                self._free.get(timeout=1.0)[0].close()


__all__ = ["Answer", "Limits", "QueryError", "QueryRefusedError", "ReadConnection", "ReadPool"]
