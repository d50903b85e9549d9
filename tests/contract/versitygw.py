"""A real S3 server for tests: versitygw (Apache-2.0), built from the Go module proxy once and kept in the cache.

The first build takes minutes on a slow machine, every later start a tenth of a second. Where it cannot be had the
tests skip aloud, and fail if REQUIRE_SERVICES is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from obstore.store import S3Store

VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
_BUILD_SECONDS = 900
_START_SECONDS = 20
_ACCESS_KEY = "rlhf-audit-test"
_SECRET_KEY = "only-on-loopback"  # noqa: S105 - of a server that lives as long as the test


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running server; a bucket is a folder in ``data``."""

    endpoint: str
    data: Path

    def environment(self) -> dict[str, str]:
        """What a client that reads its environment has to find there, but for the leave to speak plain HTTP."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def bucket(self, name: str) -> S3Store:
        """An obstore client for a bucket, which is made if it is new."""
        (self.data / name).mkdir(exist_ok=True)
        return S3Store(
            name,
            endpoint=self.endpoint,
            access_key_id=_ACCESS_KEY,
            secret_access_key=_SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )


@contextmanager
def running_gateway(place: Path) -> Iterator[Gateway]:
    """Start the server on a free port of the loopback interface, with its data below ``place``."""
    program = _program()
    folders = [place / name for name in ("data", "iam", "old")]  # data must not begin the name of another
    for folder in folders:
        folder.mkdir(parents=True)
    data, iam, versions = folders
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[str | Path] = [
        program,
        "--port",
        f"127.0.0.1:{port}",
        "--iam-dir",
        iam,
        "posix",
        "--versioning-dir",
        versions,
        data,
    ]
    environment = {**os.environ, "ROOT_ACCESS_KEY": _ACCESS_KEY, "ROOT_SECRET_KEY": _SECRET_KEY}
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, server, place / "log")
        yield Gateway(f"http://127.0.0.1:{port}", data)
    finally:
        server.terminate()
        server.wait(timeout=_START_SECONDS)


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    _unavailable(f"versitygw does not listen: {log.read_text(errors='replace')[-500:]}")


def _program() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rlhf-audit-trail" / f"versitygw-{VERSION}"
    program = folder / "versitygw"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        _unavailable("no S3 server: versitygw is built with Go, and there is no go command")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        built = subprocess.run(
            [go, "install", MODULE],
            env={**os.environ, "GOBIN": str(folder)},
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _unavailable(f"no S3 server: building versitygw took more than {_BUILD_SECONDS} s")
    if built.returncode != 0:
        _unavailable(f"no S3 server: versitygw does not build: {built.stderr[-500:]}")
    return program


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)
