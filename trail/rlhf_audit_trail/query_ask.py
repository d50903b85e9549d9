"""Whom to ask for SQL: the live query copy of a trail, else the engine itself.

1. Where the settings name a ClickHouse server, that one.
2. While a trail is written to, its query copy answers on loopback: ask there.
3. Else open the engine here, bring it up to what the evidence holds, ask it.

The last two answer read-only and under the same limits, byte for byte the same.
A server is asked to read only, too; what else a query may do there is decided
by the rights of the user that the settings name.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from rlhf_audit_schemas.errors import AuditTrailError, CouldNotCheckError, TransportError
from rlhf_audit_sinks.clickhouse.columns import DATABASE
from rlhf_audit_trail.counting import counted
from rlhf_audit_trail.places import StoredTrail, clickhouse_password
from rlhf_audit_trail.query_engine import Answer, Limits, QueryError, ReadConnection
from rlhf_audit_trail.query_server import USER, Address, read_address
from rlhf_audit_trail.settings import Settings

_ROWS_FORMAT = "JSONCompactEachRowWithNamesAndTypes"
_TIMEOUT_S = 60.0
_BUSY_TRIES, _BUSY_PAUSE_S = 60, 0.25  # an engine that is open and does not answer yet is just being opened or closed


class NotLiveError(TransportError):
    """Nobody answers at the address that stands there."""


class Asker(Protocol):
    """Answers SQL."""

    source: str

    def ask(self, query: str, fmt: str, parameters: Mapping[str, str] | None = None) -> Answer:
        """Raises QueryError, QueryRefusedError, NotLiveError."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A result: names, ClickHouse types and values; fixed binary is shown as hex digits."""

    names: list[str]
    types: list[str]
    rows: list[list[Any]]

    def dicts(self) -> list[dict[str, Any]]:
        """Each row by name."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


def ask_rows(asker: Asker, query: str, parameters: Mapping[str, str] | None = None) -> Rows | Answer:
    """Rows of a query; the answer as it is if the query has a FORMAT of its own."""
    answer = asker.ask(query, _ROWS_FORMAT, parameters)
    return parse_rows(answer.body) if answer.format == _ROWS_FORMAT else answer


def rows_of(asker: Asker, query: str, parameters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Rows of one of our own queries."""
    found = ask_rows(asker, query, parameters)
    if isinstance(found, Answer):
        raise CouldNotCheckError("the query copy answered in another format than asked for")
    return found.dicts()


def parse_rows(body: bytes) -> Rows:
    """Names, types and rows of a JSONCompactEachRowWithNamesAndTypes answer."""
    lines = body.decode("utf-8", "surrogateescape").splitlines() if body else []
    if len(lines) < 2:
        return Rows([], [], [])
    names, types = json.loads(lines[0]), json.loads(lines[1])
    shown = [_shown_as(type_) for type_ in types]
    rows = [[show(value) for show, value in zip(shown, json.loads(line), strict=True)] for line in lines[2:]]
    return Rows(names, types, rows)


def _shown_as(type_: str) -> Callable[[Any], Any]:
    return _hex if "FixedString" in type_ else _text


def _hex(value: Any) -> Any:
    if isinstance(value, list):
        return [_hex(item) for item in value]
    return value.encode("utf-8", "surrogateescape").hex() if isinstance(value, str) else value


def _text(value: Any) -> Any:
    """Text as it is; bytes that are no UTF-8 as hex digits."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, str) and any("\udc80" <= letter <= "\udcff" for letter in value):
        return value.encode("utf-8", "surrogateescape").hex()
    return value


class HttpAsker:
    """Asks over ClickHouse's HTTP."""

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        source: str,
        user: str,
        password: str,
        keys: Mapping[str, str],
    ) -> None:
        """``keys`` go with every query: settings of it, its database."""
        self.source, self._connection, self._keys = source, connection, keys
        secret = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        self._headers = {"Authorization": f"Basic {secret}"}

    def ask(self, query: str, fmt: str, parameters: Mapping[str, str] | None = None) -> Answer:
        """Raises QueryError, NotLiveError."""
        keys = {"default_format": fmt, **self._keys} | {
            f"param_{name}": value for name, value in (parameters or {}).items()
        }
        try:
            self._connection.request("POST", "/?" + urlencode(keys), query.encode("utf-8"), self._headers)
            reply = self._connection.getresponse()
            body = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise NotLiveError(f"{self.source}: no answer ({type(error).__name__})") from error
        if reply.status != http.client.OK:
            code = reply.headers.get("X-ClickHouse-Exception-Code", "0")
            raise QueryError(int(code) if code.isdigit() else 0, body.decode("utf-8", "replace").strip())
        return Answer(body, reply.headers.get("X-ClickHouse-Format", fmt))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class LiveAsker(HttpAsker):
    """Asks the query copy of a trail that is being written to."""

    def __init__(self, address: Address) -> None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
        super().__init__(connection, f"live, 127.0.0.1:{address.port}", USER, address.password, {})


class ServerAsker(HttpAsker):
    """Asks the ClickHouse server that the settings name."""

    def __init__(self, directory: Path, settings: Settings, limits: Limits) -> None:
        """Raises ConfigError if the file with the password cannot be used."""
        is_secure = settings.clickhouse_secure == "on"
        host, port = settings.clickhouse_host, settings.clickhouse_port or (8443 if is_secure else 8123)
        kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        keys = {name: str(value) for name, value in limits.settings().items()} | {"readonly": "2"}
        super().__init__(
            kind(host, port, timeout=limits.max_execution_time_s + _TIMEOUT_S),
            f"server {host}:{port}",
            settings.clickhouse_user,
            clickhouse_password(directory, settings),
            {**keys, "database": DATABASE},
        )


class EmbeddedAsker:
    """Asks the engine, open in this process."""

    def __init__(self, connection: ReadConnection, source: str) -> None:
        self._connection, self.source = connection, source

    def ask(self, query: str, fmt: str, parameters: Mapping[str, str] | None = None) -> Answer:
        """Raises QueryError, QueryRefusedError."""
        return self._connection.run(query, default_format=fmt, parameters=parameters)


def live_asker(directory: Path) -> LiveAsker | None:
    """The live query copy of this trail, None if there is none."""
    from rlhf_audit_sinks.clickhouse.engine import is_open_somewhere

    address = read_address(directory / "clickhouse") if is_open_somewhere(directory) else None
    if address is None:  # never written to, or left behind by a process that died: its port may be anybody's by now
        return None
    asker = LiveAsker(address)
    try:
        asker.ask("SELECT 1", "TSV")
    except TransportError:
        return None
    except QueryError as error:  # somebody else's port by now
        raise CouldNotCheckError(f"{asker.source}: does not take this trail's password") from error
    return asker


@contextmanager
def asker_of(
    trail: StoredTrail, *, say: Callable[[str], None] = lambda text: None, limits: Limits | None = None
) -> Iterator[Asker]:
    """Whoever answers for this trail. Raises ConfigError if nobody can, EngineBusyError if the engine stays taken.

    Raises CouldNotCheckError if the folder holds no ledger: nothing is made in it then.
    """
    from rlhf_audit_sinks.clickhouse.engine import EngineBusyError

    directory, limits = trail.directory, limits or Limits(max_threads=2)
    if not directory.is_dir():
        raise CouldNotCheckError(f"no trail at {directory}: give its folder as the first argument")
    if trail.settings.clickhouse_host:
        server = ServerAsker(directory, trail.settings, limits)
        try:
            yield server
        finally:
            server.close()
        return
    for attempt in range(_BUSY_TRIES):
        live = live_asker(directory)
        if live is not None:
            try:
                yield live
            finally:
                live.close()
            return
        if not trail.holds_ledger():
            raise CouldNotCheckError(f"{directory} holds no ledger")
        try:
            opened = _Embedded(trail, say, limits)
        except EngineBusyError:
            if attempt + 1 == _BUSY_TRIES:
                raise
            time.sleep(_BUSY_PAUSE_S)
            continue
        try:
            yield opened.asker
        finally:
            opened.close()
        return


class _Embedded:
    def __init__(self, trail: StoredTrail, say: Callable[[str], None], limits: Limits) -> None:
        from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine

        self._engine = EmbeddedEngine(trail.directory)
        try:
            _bring_up(self._engine, trail, say)
            self._connection = ReadConnection(self._engine.data, limits)
        except BaseException:
            self._engine.close()
            raise
        self.asker = EmbeddedAsker(self._connection, "opened here")

    def close(self) -> None:
        self._connection.close()
        self._engine.close()


def _bring_up(engine: Any, trail: StoredTrail, say: Callable[[str], None]) -> None:
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
    from rlhf_audit_trail.query_copy import Evidence, catch_up, windows_missing

    client = engine.client()
    try:
        sink = ClickHouseSink(client)
        try:
            evidence = Evidence.of(trail)
            if windows_missing(sink, evidence):
                say("bringing the query copy up to the evidence ...")
                say(f"{counted(catch_up(sink, evidence), 'window')} added")
        except AuditTrailError as error:
            say(f"the query copy may lag behind: {error}")
    finally:
        client.close()


def table_lines(found: Rows, *, width: int | None = None) -> Sequence[str]:
    """Aligned columns for people; numbers to the right. Cells longer than ``width`` are cut and say so."""
    cells = [[_cell(value, width) for value in row] for row in found.rows]
    widths = [max(map(len, column)) for column in zip(found.names, *cells, strict=True)] if found.names else []
    right = [_is_number(type_) for type_ in found.types]
    lines = ["  ".join(name.ljust(size) for name, size in zip(found.names, widths, strict=True)).rstrip()]
    lines.append("  ".join("-" * size for size in widths))
    for row in cells:
        line = [
            cell.rjust(size) if is_right else cell.ljust(size)
            for cell, size, is_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(line).rstrip())
    return lines


def _is_number(type_: str) -> bool:
    return type_.removeprefix("LowCardinality(").removeprefix("Nullable(").startswith(("Int", "UInt", "Float", "Dec"))


def _cell(value: Any, width: int | None) -> str:
    if value is None:
        text = "NULL"
    elif isinstance(value, str):
        text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in value)
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"
