"""Worker processes of one trail under test: started, killed on purpose, and started again as an orchestrator would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

RESTART_AFTER_S = 1.0


@dataclass(slots=True)
class Member:
    """One process: what to run, and the one that runs now. ``deaths`` holds exit statuses nobody asked for."""

    name: str
    argv: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    is_wanted: bool = False
    asked_to_die: bool = False
    deaths: list[int] = field(default_factory=list)
    starts: int = 0


class Fleet:
    """A context manager: whatever still runs at the end is killed."""

    def __init__(self, logs: Path, environment: Mapping[str, str] = {}) -> None:
        self._logs = logs
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONFAULTHANDLER": "1",  # ``stop`` asks who does not end what it is doing
            **environment,
        }
        self._members: dict[str, Member] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._watcher.join()
        for member in self._members.values():
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)
                member.process.kill()
                member.process.wait()

    def run(self, name: str, *argv: str | Path) -> None:
        """Start a member and keep it running."""
        member = Member(name, [str(word) for word in argv], self._logs / f"{name}.log")
        with self._lock:
            self._members[name] = member
            self._start(member)
            member.is_wanted = True

    def audit(self, name: str, *words: str | Path) -> None:
        """``run`` of an ``rlhf-audit`` command."""
        self.run(name, sys.executable, "-m", "rlhf_audit_trail", "-v", *words)

    def send(self, name: str, number: int) -> None:
        """A signal to a member that runs; it is started again if it dies of it."""
        with self._lock:
            member = self._members[name]
            if member.process is not None and member.process.poll() is None:
                member.asked_to_die |= number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
                member.process.send_signal(number)

    def stop(self, name: str, timeout_s: float = 60.0) -> int:
        """SIGTERM for good; its exit status. After ``timeout_s`` it is ended where it stands, which is -6: its words
        then end with what each of its threads was doing."""
        with self._lock:
            member = self._members[name]
            member.is_wanted = False
            process = member.process
        if process is None:
            return 0
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            return process.wait()

    def wait(self, name: str, timeout_s: float) -> int:
        """The exit status of a member that ends by itself."""
        member = self._members[name]
        member.is_wanted = False
        assert member.process is not None
        return member.process.wait(timeout_s)

    def pid(self, name: str) -> int:
        """Process id of what runs now."""
        process = self._members[name].process
        assert process is not None
        return process.pid

    def is_running(self, name: str) -> bool:
        """Whether it runs at this moment."""
        process = self._members[name].process
        return process is not None and process.poll() is None

    @property
    def deaths(self) -> dict[str, list[int]]:
        """Exit statuses that nobody asked for, by member."""
        return {name: member.deaths for name, member in self._members.items() if member.deaths}

    def words(self, name: str, lines: int = 30) -> str:
        """The last lines a member said."""
        return "\n".join(self._members[name].log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _start(self, member: Member) -> None:
        with member.log.open("ab") as log:
            member.process = subprocess.Popen(
                member.argv, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        member.starts += 1
        member.asked_to_die = False

    def _watch(self) -> None:
        died: dict[str, float] = {}
        while not self._is_over.wait(0.05):
            with self._lock:
                for name, member in self._members.items():
                    if not member.is_wanted or member.process is None or member.process.poll() is None:
                        continue
                    if name not in died:
                        died[name] = time.monotonic()
                        if not member.asked_to_die:
                            member.deaths.append(member.process.returncode)
                    elif time.monotonic() - died[name] >= RESTART_AFTER_S:
                        del died[name]
                        self._start(member)
