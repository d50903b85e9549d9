"""A real headless Chromium for tests, spoken to over a pipe in its own DevTools protocol: no driver to install."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
_DEADLINE_S = 60.0
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_chromium() -> str:
    """Path of the program; skips aloud where there is none, fails where services are required."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is not None:
        return found
    message = f"no Chromium ({', '.join(NAMES)}): the page is not looked at in a real browser"
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(message)
    pytest.skip(message)


class Chromium:
    """The browser's process. A context manager."""

    def __init__(self, profile: Path) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # The program reads from descriptor 3 and writes to 4: a shell puts them there.
        line = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        command = ["bash", "-c", line, "bash", find_chromium(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        for descriptor in (self._out, self._in):
            os.close(descriptor)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Answer of one command; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + _DEADLINE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "Chromium has gone"
            self._buffer += data
        raw, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(raw)
        return found


class Tab:
    """One page at one width, light or dark. Keeps what went wrong in it and what it asked the network for."""

    def __init__(self, browser: Chromium, url: str, *, width: int, height: int = 900, scheme: str = "light") -> None:
        self._browser, self.width = browser, width
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int = 900) -> None:
        """Another window; a narrow one is a phone's."""
        self.width = width
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command to this page."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """Value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Look again and again until it holds."""
        deadline = time.monotonic() + _DEADLINE_S
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"waited too long for {expression}"
            time.sleep(0.05)

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """Events of this page so far."""
        self.evaluate("1")  # whatever was on its way is here now
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] in methods
        ]

    def problems(self) -> list[str]:
        """Errors, warnings and refused loads."""
        thrown = [str(one["exceptionDetails"]) for one in self.events("Runtime.exceptionThrown")]
        said = [
            str(one["args"]) for one in self.events("Runtime.consoleAPICalled") if one["type"] in ("error", "warning")
        ]
        logged = [
            str(one["entry"]) for one in self.events("Log.entryAdded") if one["entry"]["level"] in ("error", "warning")
        ]
        return thrown + said + logged

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself included."""
        return [str(one["request"]["url"]) for one in self.events("Network.requestWillBeSent")]

    def overflow(self) -> int:
        """Pixels by which the page is wider than it may be; a phone would zoom out, so its own width does not count."""
        return int(self.evaluate("document.documentElement.scrollWidth")) - self.width

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)
