"""Starting what drains the spools beside a training, and knowing whether it runs.

That is the one-process runtime (``rlhf-audit local``), or the shipper
(``rlhf-audit ship``) where brokers are named: a process of its own, own
session, no inherited files but a log, so that it survives the death of whoever
started it. It ends by itself when the last producer has gone and everything is
stored, or acknowledged by the brokers.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from rlhf_audit_producers.run_identity import RUN_ID_VARIABLE
from rlhf_audit_producers.spool_lock import is_drained_by_somebody
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.settings import KEYS, load_settings

logger = logging.getLogger(__name__)

RUNTIME_LOG = "runtime.log"
_MAX_LOG_BYTES = 1 << 20
_LOOK_AFTER_RUNTIME_S = 2.0
_FIRST_PAUSE_S, _MAX_PAUSE_S, _SHORT_LIFE_S = 2.0, 60.0, 30.0  # a runtime that cannot live is started ever more rarely
_PACKAGES = ("schemas", "ledger", "stores", "producers", "processors", "sinks", "auditor", "trail")
_started: list[subprocess.Popen[bytes]] = []  # children to be waited for, so that none stays behind as a zombie


def is_running(directory: Path) -> bool:
    """Whether a runtime holds this trail."""
    return is_drained_by_somebody(directory / "spool")


def ensure_runtime(directory: Path, *, brokers: str | None = None) -> bool:
    """Start a runtime if none runs. Returns whether one was started; it may find that another was quicker, and end.

    ``brokers`` are those that the program itself names; None: as the settings say.
    """
    for status in _reap():
        if status:
            logger.warning("the runtime ended with status %d: %s says why", status, directory / "spool" / RUNTIME_LOG)
    if is_running(directory):
        return False
    start_runtime(directory, brokers=brokers)
    return True


class RuntimeKeeper:
    """Looks whether a runtime works on a trail, now and then; one that is not there, or died, is started again."""

    def __init__(self, directory: Path, brokers: str | None) -> None:
        self._directory, self._brokers = directory, brokers
        self._look_at = 0.0
        self._started_at = float("-inf")
        self._pause_s = _FIRST_PAUSE_S

    def look(self) -> None:
        """Called at every turn of a thread that may wait for a process to be started."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_AFTER_RUNTIME_S
        if ensure_runtime(self._directory, brokers=self._brokers):
            did_not_live = now - self._started_at < _SHORT_LIFE_S
            self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S) if did_not_live else _FIRST_PAUSE_S
            self._look_at = now + self._pause_s
            self._started_at = now


def _reap() -> list[int]:
    """Exit statuses of those that ended since the last call."""
    ended = [each for each in _started if each.poll() is not None]
    _started[:] = [each for each in _started if each not in ended]
    return [each.returncode for each in ended]


def runtime_command(directory: Path, *, brokers: str | None = None) -> str:
    """``ship`` where brokers are named, else ``local``."""
    if brokers is None:
        try:
            brokers = load_settings(directory).brokers
        except ConfigError:
            return "local"  # says what is wrong with the settings, in the log that people look into
    return "ship" if brokers else "local"


def start_runtime(directory: Path, *, brokers: str | None = None) -> None:
    """``rlhf-audit local|ship DIR --until-idle`` as a process of its own. Raises OSError if it cannot be started."""
    log = directory / "spool" / RUNTIME_LOG
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    environment = {name: value for name, value in os.environ.items() if name != RUN_ID_VARIABLE}
    environment["PYTHONPATH"] = python_path()
    if brokers is not None:
        environment[KEYS["brokers"].variable] = brokers
    command = runtime_command(directory, brokers=brokers)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module under the interpreter that runs us
            [sys.executable, "-P", "-m", "rlhf_audit_trail", "-v", command, str(directory.absolute()), "--until-idle"],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    _started.append(process)


def let_go() -> None:
    """At exit: those that still run are meant to outlive us."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0  # or its finalizer would warn of a child that was left behind
    _started.clear()


def wait_until_idle(directory: Path, timeout_s: float = 60.0) -> bool:
    """Wait until no runtime works on the trail, those that this process started included. Returns whether none does."""
    deadline = time.monotonic() + timeout_s
    while True:
        _reap()
        if not _started and not is_running(directory):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def python_path() -> str:
    """Where our packages lie, in front of what the user had set: a checkout is not installed."""
    roots: dict[str, None] = {}
    for name in _PACKAGES:
        spec = find_spec(f"rlhf_audit_{name}")
        if spec is not None and spec.origin is not None:
            roots[str(Path(spec.origin).parent.parent)] = None
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([*roots, *([inherited] if inherited else [])])


atexit.register(let_go)  # runs after whatever closes trails: that was registered later
