"""The query copy's process as seen from the process that seals: started, nudged, never waited for.

A ``WindowSink``: evidence is durable before it hears of a window, so all it
has to say is that there is one more. If its process is slow, dead or was never
started, sealing does not notice; the copy catches up from the evidence.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_trail.runtime_start import python_path

if TYPE_CHECKING:
    from rlhf_audit_trail.partition import SealedWindow
    from rlhf_audit_trail.settings import Settings
    from rlhf_audit_trail.window_sinks import WindowSink

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 600.0
_LOG = "process.log"
_MAX_LOG_BYTES = 1 << 20

LATER = "ClickHouse is not installed and catches up later: pip install 'rlhf-audit-trail[sinks]', then rlhf-audit sql"


@contextmanager
def query_copy_sinks(directory: Path, settings: Settings, *, say: Callable[[str], None]) -> Iterator[list[WindowSink]]:
    """The sinks that the settings ask for: the query copy's feed or none. Waits for it to catch up at the end.

    Raises NoEngineError if the settings insist on a query copy that is not installed.
    """
    from rlhf_audit_sinks.clickhouse.engine import FOLDER, NoEngineError, is_installed

    if settings.clickhouse == "off":
        yield []
        return
    if not is_installed():
        if settings.clickhouse == "on":
            raise NoEngineError
        say(LATER)
        yield []
        return
    try:
        feed = QueryCopyFeed(directory, settings.vault_dir, port=settings.query_port)
    except OSError as error:  # a full disk: what is sealed comes first
        say(f"ClickHouse does not start and catches up later: {directory / FOLDER}: {error.strerror}")
        yield []
        return
    try:
        yield [feed]
    finally:
        if not feed.close():
            say(f"ClickHouse is not up to date yet: `rlhf-audit sql {directory}` catches up")


class QueryCopyFeed:
    """Starts the process at once; it opens the engine while the first windows are sealed."""

    def __init__(self, directory: Path, vault_dir: Path, *, port: int = 0) -> None:
        folder = directory / "clickhouse"
        make_folders_durably(RealDisk(), folder)
        self._log = log = folder / _LOG
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        command = [sys.executable, "-P", "-m", "rlhf_audit_trail.query_copy_process", str(directory.absolute())]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module under the interpreter that runs us
                [*command, "--vault", str(vault_dir.absolute()), "--port", str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=descriptor,
                cwd="/",
                env={**os.environ, "PYTHONPATH": python_path(), "TZ": "UTC"},
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)

    def store(self, window: SealedWindow) -> None:
        """Say that a window is there. Never waits, never fails."""
        if self._process.stdin is not None:
            with suppress(BlockingIOError, BrokenPipeError):  # full: it has been told; gone: the next one catches up
                os.write(self._process.stdin.fileno(), b".")

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> bool:
        """Let it catch up and end. Returns whether it did."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("the query copy still catches up")
            self._process.returncode = 0  # it ends by itself; nothing waits for it any more
            return False
        if status:
            logger.warning("the query copy ended with status %d: %s says why", status, self._log)
        return status == 0
