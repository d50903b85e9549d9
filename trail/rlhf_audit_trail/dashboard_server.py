"""The report page over loopback HTTP, read-only: the page, and the data it refreshes itself with.

Every address holds a random token: other users of the machine see the port, too.
A ``Host`` that is not loopback is refused, so that no foreign site can be made
to read the page by pointing its own name here.

Serves what ``publish`` was given last; asks and computes nothing.
"""

from __future__ import annotations

import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

_IDLE_S = 60.0
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class DashboardServer:
    """Serves on threads of its own until ``close``."""

    def __init__(self, port: int) -> None:
        self._token = secrets.token_urlsafe(12)
        self._shown: dict[str, tuple[str, bytes]] = {}
        self.asked_at = time.monotonic()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="rlhf-audit-dashboard", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}/{self._token}/"

    def publish(self, page: bytes, data: bytes) -> None:
        """Show this from now on."""
        self._shown = {
            f"/{self._token}/": ("text/html; charset=utf-8", page),
            f"/{self._token}/data.json": ("application/json", data),
        }

    def answer(self, path: str, host: str) -> tuple[str, bytes] | None:
        """Type and body of what stands at a path; None if nothing does."""
        if host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            return None
        found = self._shown.get(path.split("?", 1)[0])
        if found is not None:
            self.asked_at = time.monotonic()
        return found

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a browser that has gone is no fault."""


class _Handler(BaseHTTPRequestHandler):
    owner: ClassVar[DashboardServer]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rlhf-audit", ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        found = self.owner.answer(self.path, self.headers.get("Host", ""))
        kind, body = found or ("text/plain; charset=utf-8", b"nothing here: open the address that was printed\n")
        self.send_response(404 if found is None else 200)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the address holds the token."""
