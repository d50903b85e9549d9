"""ClickHouse's HTTP interface, read-only, on a loopback port, as long as the query copy is fed.

What an unmodified ``clickhouse_connect.get_client(host=, port=, password=)``
and ``curl`` need, and no more: GET and POST, ``/ping``, query in the URL, in the
body or in both, ``param_*``, ``database``, ``default_format``, errors with
``X-ClickHouse-Exception-Code``. Other URL keys are settings; a reader may set
none, so they are dropped, as a server does for a user under ``readonly = 1``.

Every request but ``/ping`` carries the password of user ``default``
(``clickhouse/password``, 0600): other users of the machine see the port, too.

No TLS, no sessions, no inserts: this is no server to expose.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import os
import secrets
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_trail.query_engine import Answer, QueryError, QueryRefusedError, ReadPool

logger = logging.getLogger(__name__)

PASSWORD_FILE, ADDRESS_FILE = "password", "http.json"
USER = "default"
_MAX_QUERY_BYTES = 1 << 20
_AUTHENTICATION_FAILED, _ACCESS_DENIED, _SYNTAX, _TOO_LARGE = 516, 497, 62, 291
_NOT_FOUND_CODES = (60, 81)
_IDLE_S = 120.0
_MAX_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Where a live query copy answers."""

    host: str
    port: int
    password: str
    pid: int


def read_address(folder: Path) -> Address | None:
    """Address that stands in a trail's ``clickhouse/`` folder; whether somebody answers there, only asking tells."""
    try:
        raw = json.loads((folder / ADDRESS_FILE).read_bytes())
        password = (folder / PASSWORD_FILE).read_text(encoding="ascii").strip()
        return Address(str(raw["host"]), int(raw["port"]), password, int(raw["pid"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{folder / ADDRESS_FILE}: not an address") from error


class QueryServer:
    """Serves on threads of its own until ``close``."""

    def __init__(self, folder: Path, pool: ReadPool, *, port: int = 0) -> None:
        self._folder = folder
        handler = type("Handler", (_QueryHandler,), {"pool": pool, "password": _password(folder)})
        self._server = HttpServer(("127.0.0.1", port), handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="rlhf-audit-http", daemon=True
        )
        self._thread.start()
        address = {"host": "127.0.0.1", "port": self.port, "pid": os.getpid()}
        _write_private(folder / ADDRESS_FILE, json.dumps(address))
        logger.info("ClickHouse HTTP on 127.0.0.1:%d", self.port)

    def close(self) -> None:
        """Answer no more."""
        (self._folder / ADDRESS_FILE).unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class HttpServer(ThreadingHTTPServer):
    """One thread per connection, and no more than some."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: str) -> None:
        with self._slots:  # one thread per connection, and never more than these
            super().process_request_thread(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("a connection ended badly", exc_info=True)


class HttpHandler(BaseHTTPRequestHandler):
    """ClickHouse's HTTP as clients speak it; ``run`` answers a request that came with the password."""

    password: ClassVar[str]
    max_body_bytes: ClassVar[int] = _MAX_QUERY_BYTES
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ClickHouse", ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # with TCP_NODELAY: one packet per reply instead of one per header
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self._body()
        if body is not None:
            self._answer(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a query may quote what it asks for."""

    def _body(self) -> bytes | None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return self._chunks()
        with suppress(ValueError):
            size = int(self.headers.get("Content-Length", "0"))
            if 0 <= size <= self.max_body_bytes:
                return self.rfile.read(size)
        self.fail(_TOO_LARGE, f"a request has at most {self.max_body_bytes} bytes", close=True)
        return None

    def _chunks(self) -> bytes | None:
        found = b""
        while True:
            try:
                size = int(self.rfile.readline(64).split(b";")[0], 16)
            except ValueError:
                size = -1
            if not 0 <= size <= self.max_body_bytes - len(found):
                self.fail(_TOO_LARGE, f"a request has at most {self.max_body_bytes} bytes", close=True)
                return None
            found += self.rfile.read(size)
            self.rfile.readline(8)
            if size == 0:
                return found

    def _answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        if url.path in ("/ping", "/replicas_status"):
            self._send(200, b"Ok.\n", {})
            return
        keys = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path not in ("", "/"):
            self.fail(_SYNTAX, "there is only / and /ping", status=404)
        elif not self._is_allowed(keys):
            self.fail(
                _AUTHENTICATION_FAILED,
                "default: Authentication failed: the password stands in the trail's clickhouse/password. "
                "(AUTHENTICATION_FAILED)",
                status=403,
            )
        elif self.headers.get("Content-Encoding", "identity") != "identity":
            self.fail(_ACCESS_DENIED, "only queries that read are answered, sent uncompressed. (ACCESS_DENIED)")
        else:
            self.run(keys, body)

    def run(self, keys: dict[str, str], body: bytes) -> None:
        """Answer by ``reply`` or ``fail``; ``keys`` are those of the URL."""
        raise NotImplementedError

    def reply(self, answer: Answer, query_id: str | None) -> None:
        """Send a result."""
        text = "JSON" in answer.format
        headers = {
            "Content-Type": "application/json; charset=UTF-8" if text else "text/plain; charset=UTF-8",
            "X-ClickHouse-Format": answer.format,
            "X-ClickHouse-Query-Id": query_id if query_id and query_id.isprintable() else str(uuid.uuid4()),
            "X-ClickHouse-Summary": "{}",
            "X-ClickHouse-Timezone": "UTC",
        }
        self._send(200, answer.body, headers)

    def fail(self, code: int, message: str, *, status: int = 500, close: bool = False) -> None:
        """Send an error with ClickHouse's number for it."""
        text = message if message.startswith("Code:") else f"Code: {code}. DB::Exception: {message}"
        headers = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(code)}
        if close:
            self.close_connection = True
            headers["Connection"] = "close"
        self._send(status, text.encode("utf-8", "replace") + b"\n", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_allowed(self, keys: dict[str, str]) -> bool:
        user, given = self._credentials(keys)
        return user in ("", USER) and hmac.compare_digest(given.encode(), self.password.encode())

    def _credentials(self, keys: dict[str, str]) -> tuple[str, str]:
        basic = self.headers.get("Authorization", "")
        if basic.startswith("Basic "):
            with suppress(binascii.Error, UnicodeDecodeError):
                user, _, given = base64.b64decode(basic[6:], validate=True).decode("utf-8").partition(":")
                return user, given
        if "X-ClickHouse-Key" in self.headers:
            return self.headers.get("X-ClickHouse-User", USER), self.headers["X-ClickHouse-Key"]
        return keys.get("user", USER), keys.get("password", "")


class _QueryHandler(HttpHandler):
    pool: ClassVar[ReadPool]

    def run(self, keys: dict[str, str], body: bytes) -> None:
        try:
            query = "\n".join(part for part in (keys.get("query", ""), body.decode("utf-8")) if part)
        except UnicodeDecodeError:
            self.fail(_SYNTAX, "a query is UTF-8 text")
            return
        if not query.strip():
            self._send(200, b"Ok.\n", {})
            return
        fmt = keys.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        database = keys.get("database") or self.headers.get("X-ClickHouse-Database")
        parameters = {name[6:]: value for name, value in keys.items() if name.startswith("param_")}
        try:
            with self.pool.connection() as connection:
                answer = connection.run(query, default_format=fmt, database=database, parameters=parameters)
        except QueryRefusedError as error:
            self.fail(error.code, f"{error}. (ACCESS_DENIED)")
        except QueryError as error:
            self.fail(error.code, str(error), status=404 if error.code in _NOT_FOUND_CODES else 500)
        else:
            self.reply(answer, keys.get("query_id"))


def _password(folder: Path) -> str:
    """The password of this trail's query copy; made once."""
    path = folder / PASSWORD_FILE
    with suppress(FileNotFoundError):
        found = path.read_text(encoding="ascii").strip()
        if found:
            return found
    _write_private(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="ascii").strip()


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text + "\n")
    temporary.replace(path)
