"""A Confluent-compatible Schema Registry for tests: Apicurio (Apache-2.0) from Maven, kept in the cache, in memory.

2.6 is the newest that runs on Java 17. Its Confluent API lies under ``/apis/ccompat/v7`` and checks no compatibility
unless told to. Where it cannot be had the tests skip aloud, and fail if REQUIRE_SERVICES is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

VERSION = "2.6.13.Final"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_RUNNER = f"apicurio-registry-app-{VERSION}-runner.jar"
_FETCH_SECONDS = 600
_START_SECONDS = 60
_STOP_SECONDS = 15
# The registry dies with whoever started it: this small parent waits for the end of its standard input.
_GUARD = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.stdin.buffer.read()
child.terminate()
try:
    child.wait(10)
except subprocess.TimeoutExpired:
    child.kill()
"""


@contextmanager
def running_registry(place: Path) -> Iterator[str]:
    """Start the registry on a free port of the loopback interface; gives the URL of its Confluent API."""
    java = shutil.which("java")
    if java is None:
        _unavailable("no schema registry: there is no java command")
    folder = _unpacked()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [java, "-Xmx128m", "-XX:+UseSerialGC", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
    log = place / "apicurio.log"
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *command, "-jar", _RUNNER],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        _wait_for(f"{url}/subjects", guard, log)
        yield url
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            guard.wait(_STOP_SECONDS)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own loopback URL
            return
        time.sleep(0.1)
    _unavailable(f"apicurio does not answer: {log.read_text(errors='replace')[-500:]}")


def _unpacked() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rlhf-audit-trail" / f"apicurio-{VERSION}"
    if (folder / _RUNNER).exists():
        return folder
    archive = folder / f"apicurio-registry-app-{VERSION}-all.tar.gz"
    folder.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        _fetch(folder)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    return folder


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        _unavailable("no schema registry: Apicurio comes from Maven, and there is no mvn command")
    command = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={folder}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        _unavailable(f"no schema registry: fetching Apicurio took more than {_FETCH_SECONDS} s")
    if done.returncode != 0:
        _unavailable(f"no schema registry: Apicurio does not resolve: {done.stdout[-500:]}")


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)
