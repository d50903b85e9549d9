"""One broker process: started tied to us or on its own, found again by pid file, ended within a bound.

A pid alone names nobody for long, so the time when the process began is kept
beside it and compared before any signal is sent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf_audit_schemas.errors import CouldNotCheckError

_PID_FILE = "node.pid"
_OUTPUT = "node.out"
_POLL_S = 0.05
_SPAWN_TIMEOUT_S = 20.0
_GUARD = Path(__file__).with_name("_kafka_guard.py")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The live process with this number, None if there is none."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    @property
    def is_alive(self) -> bool:
        """Whether it runs (a zombie does not)."""
        return _started(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still is this process."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Node:
    """The process of one broker, and where its files are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._process = self._written()

    def start(self, command: Sequence[str], *, is_tied: bool) -> None:
        """Start ``command``; ``is_tied`` ends it with us, otherwise it outlives us. No-op if it runs."""
        if self.is_alive:
            return
        self._reap()
        with (self.folder / _OUTPUT).open("ab") as output:
            pid = self._start_tied(command, output.fileno()) if is_tied else self._start_free(command, output.fileno())
        self._process = Process.of(pid)
        if self._process is None:
            raise CouldNotCheckError(f"{self.folder.name} ended at once{self.last_words()}")
        (self.folder / _PID_FILE).write_text(json.dumps(asdict(self._process)), encoding="ascii")

    def _start_free(self, command: Sequence[str], output: int) -> int:
        self._child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=self.folder
        )
        return self._child.pid

    def _start_tied(self, command: Sequence[str], output: int) -> int:
        told = self.folder / "guarded.pid"
        told.unlink(missing_ok=True)
        reading, self._pipe = os.pipe()
        try:
            self._child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", str(_GUARD), str(reading), str(told), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(reading,),
                cwd=self.folder,
            )
        finally:
            os.close(reading)
        deadline = time.monotonic() + _SPAWN_TIMEOUT_S
        while not (told.exists() and told.read_text(encoding="ascii")):
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise CouldNotCheckError(f"{self.folder.name} did not start{self.last_words()}")
            time.sleep(_POLL_S)
        return int(told.read_text(encoding="ascii"))

    @property
    def is_alive(self) -> bool:
        """Whether the broker's process runs."""
        if self._child is not None:
            self._child.poll()
        return self._process is not None and self._process.is_alive

    @property
    def pid(self) -> int | None:
        """Number of the broker's process, None if it does not run."""
        return self._process.pid if self._process is not None and self._process.is_alive else None

    def signal(self, number: signal.Signals) -> None:
        """Send the broker a signal, if it runs."""
        if self._process is not None:
            self._process.send(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the broker has ended; False if it still runs after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        self._reap()
        (self.folder / _PID_FILE).unlink(missing_ok=True)
        return True

    def last_words(self) -> str:
        """Where it wrote, and the last line of it, for an error message."""
        path = self.folder / _OUTPUT
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return f"; {path} ends with: {lines[-1][:200]}" if lines else f"; see {self.folder}"

    def _reap(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_SPAWN_TIMEOUT_S)
            self._child = None

    def _written(self) -> Process | None:
        try:
            found = Process(**json.loads((self.folder / _PID_FILE).read_text(encoding="ascii")))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.is_alive else None


def _started(pid: int) -> str | None:
    """When the process began, in the words of this system; None if it is gone or a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    said = subprocess.run(  # noqa: S603
        ["ps", "-o", "state=,lstart=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = said.stdout.strip().partition(" ")
    return started.strip() or None if said.returncode == 0 and not state.startswith("Z") else None
