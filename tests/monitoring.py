"""A real Prometheus for tests, and workers for it to scrape: Debian's packages, nothing fetched, nothing faked.

Where a program is missing the tests skip aloud, and fail if REQUIRE_SERVICES is set.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
_START_SECONDS = 20


def program(name: str) -> str:
    """The path of a program of Debian's packages ``prometheus`` and ``prometheus-alertmanager``."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"no {name}: apt-get install prometheus prometheus-alertmanager"
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    address: str

    def ask(self, path: str, **parameters: object) -> Any:
        """The ``data`` of an answer; the error of the server fails the test."""
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own loopback address
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")

    def now(self, expr: str) -> list[Any]:
        """The series of an instant query."""
        return list(self.ask("query", query=expr)["result"])

    def numbers(self, expr: str, seconds: int = 10) -> list[float]:
        """All numbers that a range query over the last seconds gives."""
        end = time.time()
        found = self.ask("query_range", query=expr, start=end - seconds, end=end, step="1s")
        return [float(value) for series in found["result"] for _, value in series["values"] if value != "NaN"]


@contextmanager
def running_prometheus(place: Path, jobs: Mapping[str, list[str]]) -> Iterator[Prometheus]:
    """Prometheus with the rules of ``deploy/`` and these jobs, scraping every second, on a free port."""
    server = program("prometheus")
    place.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
        "rule_files": [str(DEPLOY / "prometheus/alerts.yml")],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": targets}]} for name, targets in jobs.items()
        ],
    }
    (place / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (place / "log").open("wb")
    process = subprocess.Popen(
        [
            server,
            f"--config.file={place / 'prometheus.yml'}",
            f"--storage.tsdb.path={place / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}", place / "log")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/-/ready", timeout=1):  # noqa: S310 - our own loopback address
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"Prometheus did not start: {log.read_text(encoding='utf-8')[-2000:]}")
