"""A ClickHouse server for tests: the real engine (chDB) behind ClickHouse's HTTP, with writes.

``python tests/clickhouse_http.py FOLDER PORT`` in a process of its own, so that it can be stopped, killed and slowed.
Requests are answered one after another. What is missing of a server: users, quotas, sessions, TLS.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlhf_audit_trail.query_engine import Answer
from rlhf_audit_trail.query_server import HttpHandler, HttpServer

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

PASSWORD = "only-on-loopback"  # noqa: S105 - of a server that lives as long as the test
ROOT = Path(__file__).parent.parent
_URL_KEYS = frozenset({"query", "database", "default_format", "query_id", "user", "password", "session_id", "compress"})
_NOT_FOR_ENGINE = frozenset({"wait_end_of_query", "send_progress_in_http_headers", "http_headers_progress_interval_ms"})
_INSERT = re.compile(r"\s*INSERT\s+INTO\s+(.*?)\s+FORMAT\s+(\w+)\s*$", re.IGNORECASE | re.DOTALL)
_STATEMENT = re.compile(rb"\s*INSERT\s+INTO\s+[^\n]*?\s+FORMAT\s+\w+\n", re.IGNORECASE)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)")
_NOT_FOUND = (60, 81)
_START_S = 60.0


class Handler(HttpHandler):
    """Queries and inserts, one at a time."""

    engine: ClassVar[Any]
    lock: ClassVar[threading.Lock]
    folder: ClassVar[Path]
    password = PASSWORD
    max_body_bytes = 256 << 20

    def run(self, keys: dict[str, str], body: bytes) -> None:
        query = keys.get("query", "")
        if not query:
            begins = _STATEMENT.match(body)  # an insert in the body: its statement, a line feed, its data
            end = begins.end() if begins else len(body)
            query, body = body[:end].decode(), body[end:]
        settings = {
            name: value
            for name, value in keys.items()
            if name not in _URL_KEYS | _NOT_FOR_ENGINE and not name.startswith("param_")
        }
        parameters = {name[6:]: value for name, value in keys.items() if name.startswith("param_")}
        fmt = keys.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        try:
            with self.lock:
                self.engine.query(f"USE {keys.get('database') or 'default'}")
                answer = self._insert(query, body, settings) if body else self._query(query, fmt, settings, parameters)
        except RuntimeError as error:
            text = str(error)
            code = _CODE.search(text)
            number = int(code[1]) if code else 1002
            self.fail(number, text[max(text.find("Code:"), 0) :], status=404 if number in _NOT_FOUND else 500)
        else:
            self.reply(answer, keys.get("query_id"))

    def _query(self, query: str, fmt: str, settings: dict[str, str], parameters: dict[str, str]) -> Answer:
        text = query
        kept = {name: value for name, value in settings.items() if not query.lstrip().upper().startswith("CREATE")}
        found = _FORMAT.search(query)
        if kept:
            head = query[: found.start()] if found else query
            clause = ", ".join(f"{name} = '{value}'" for name, value in kept.items())
            text = f"{head} SETTINGS {clause}" + (f" FORMAT {found[1]}" if found else "")
            if query.lstrip().upper().startswith("INSERT"):
                text = query.replace(" VALUES", f" SETTINGS {clause} VALUES", 1)
        result = self.engine.query(text, fmt, params=parameters)
        return Answer(bytes(result.bytes() or b""), found[1] if found else fmt)

    def _insert(self, query: str, body: bytes, settings: dict[str, str]) -> Answer:
        match = _INSERT.match(query)
        if match is None:
            raise RuntimeError("Code: 62. DB::Exception: an insert names its format. (SYNTAX_ERROR)")
        path = self.folder / f"insert-{threading.get_ident()}"
        path.write_bytes(body)
        clause = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        try:
            self.engine.query(
                f"INSERT INTO {match[1]} FROM INFILE '{path}' COMPRESSION 'none'"
                + (f" SETTINGS {clause}" if clause else "")
                + f" FORMAT {match[2]}"
            )
        finally:
            path.unlink()
        return Answer(b"", "TabSeparated")


def serve(folder: Path, port: int) -> None:
    """Serve until killed."""
    import chdb

    logging.basicConfig(level=logging.DEBUG)  # a connection that ends badly shows in the log
    os.environ["TZ"] = "UTC"
    time.tzset()
    folder.mkdir(exist_ok=True)
    engine = chdb.connect(str(folder / "data"))  # type: ignore[no-untyped-call]  # it is not typed
    handler = type("Handler", (Handler,), {"engine": engine, "lock": threading.Lock(), "folder": folder})
    HttpServer(("127.0.0.1", port), handler).serve_forever()


class ClickHouseServer:
    """The server as a process; as a context manager it runs inside the block."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, "127.0.0.1"
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind((self.host, 0))
            self.port = int(free.getsockname()[1])
        self.password_file = folder / "password"
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(PASSWORD)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(self.folder), str(self.port)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError(f"no ClickHouse: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """As a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def client(self) -> Client:
        """An unmodified client."""
        from clickhouse_connect import get_client

        return get_client(host=self.host, port=self.port, password=PASSWORD, autogenerate_session_id=False)

    @property
    def flags(self) -> list[str]:
        """Flags of ``rlhf-audit sink clickhouse`` for this server."""
        return [
            *("--clickhouse-host", self.host),
            *("--clickhouse-port", str(self.port)),
            *("--clickhouse-password-file", str(self.password_file.absolute())),
        ]


@contextmanager
def running_clickhouse(folder: Path) -> Iterator[ClickHouseServer]:
    """A server for a block; its data go with it."""
    server = ClickHouseServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder / "data", ignore_errors=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
