"""Opening ClickHouse: the engine inside this process, or a server; the same client speaks to both.

::

    clickhouse/data/       the engine's path: one process at a time
              /tmp/        plain temporary files of inserts, 0700, swept at every opening
              /lock        held by the process that has the engine open

An insert into the embedded engine passes through a plain temporary file, and
a crash leaves it: erased events must not survive there.

Nothing is imported from chdb or clickhouse_connect before something is opened.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, CouldNotCheckError, TransportError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import is_locked, make_folders_durably

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

FOLDER = "clickhouse"
_LOCK_POLL_S = 0.05
_CONNECT_S, _ANSWER_S = 5, 25  # a window is inserted in well under a second, and a stuck sink counts as dead
_CODE = re.compile(r"Code: (\d+)")
_NO_ROOM = ("Code: 243", "NOT_ENOUGH_SPACE", "No space left on device", "errno: 28", "Disk quota exceeded")
_OPEN_ELSEWHERE = ("Cannot lock file", "already running", "already initialized")


class EngineBusyError(TransportError):
    """Another process has this engine open; ask it instead, or wait."""


class NoRoomError(TransportError):
    """The disk has no room for the query copy; sealing goes on without it, and the copy catches up later."""


class CopyDamagedError(CouldNotCheckError):
    """The engine's files do not load; the evidence has everything that they held."""


class NoEngineError(CouldNotCheckError):
    """The packages of the query copy are not installed."""

    def __init__(self) -> None:
        super().__init__("ClickHouse is not installed here: pip install 'rlhf-audit-trail[sinks]'")


def is_installed() -> bool:
    """Whether the embedded engine can be opened; imports nothing."""
    return find_spec("chdb") is not None and find_spec("clickhouse_connect") is not None


class EmbeddedEngine:
    """The engine of one trail, open in this process and in no other. Every thread takes a client of its own."""

    def __init__(self, trail: Path, *, wait_s: float = 0.0, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Raises EngineBusyError if another process has it open until ``wait_s`` is over or waiting is called off."""
        if not is_installed():
            raise NoEngineError
        self.folder = trail / FOLDER
        self.data = self.folder / "data"
        for folder in (self.folder, self.data, self.folder / "tmp"):
            make_folders_durably(RealDisk(), folder)
        self._fd = _lock(self.folder / "lock", wait_s, should_stop)
        sweep(self.folder / "tmp")
        # The client library asks for temporary files by this name; the whole process is ours when this runs.
        tempfile.tempdir = str(self.folder / "tmp")

    def client(self) -> Client:
        """A client for one thread. Raises EngineBusyError, ClickHouseError on a full disk, else CopyDamagedError."""
        from clickhouse_connect import common, get_client
        from clickhouse_connect.driver.exceptions import ClickHouseError

        common.set_setting("autogenerate_session_id", False)
        try:
            return get_client(interface="chdb", path=str(self.data))
        except ClickHouseError as error:
            raise self._why_not(str(error)) from None  # the engine's words can be pages long

    def _why_not(self, said: str) -> AuditTrailError:
        """Nobody else holds our lock: that others have the folder open is rare, and what else fails does not pass."""
        found = _CODE.search(said)
        code = f"code {found[1]}" if found else "no code"
        if is_no_room(said):
            return NoRoomError(f"{self.data}: the engine does not open, the disk is full ({code})")
        if any(word in said for word in _OPEN_ELSEWHERE):
            return EngineBusyError(f"{self.data}: the engine is open elsewhere ({code})")
        return CopyDamagedError(
            f"{self.data}: the query copy does not load and is damaged ({code}): "
            f"`rlhf-audit restore {self.folder.parent}` makes it anew from the evidence"
        )

    def close(self) -> None:
        """Give the engine to other processes; clients are closed before."""
        sweep(self.folder / "tmp")
        os.close(self._fd)


def is_no_room(said: str) -> bool:
    """Whether the engine's words say that the disk is full."""
    return any(word in said for word in _NO_ROOM)


def server_client(host: str, port: int, *, user: str, password: str, is_secure: bool) -> Client:
    """A client of a server; its time-outs are short enough for whoever has a consumer group to serve meanwhile."""
    if find_spec("clickhouse_connect") is None:
        raise NoEngineError
    from clickhouse_connect import get_client

    return get_client(
        host=host,
        port=port,
        username=user,
        password=password,
        secure=is_secure,
        connect_timeout=_CONNECT_S,
        send_receive_timeout=_ANSWER_S,
        autogenerate_session_id=False,  # sessions are locked by one query at a time
    )


def sweep(folder: Path) -> None:
    """Delete every file of ``folder``."""
    for entry in os.scandir(folder):
        if entry.is_file(follow_symlinks=False) or entry.is_symlink():
            Path(entry.path).unlink(missing_ok=True)


def is_open_somewhere(trail: Path) -> bool:
    """Whether some process has the engine of this trail open."""
    return is_locked(trail / FOLDER / "lock")


def _lock(path: Path, wait_s: float, should_stop: Callable[[], bool]) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        raise ConfigError(f"{path.parent} cannot be written to, and SQL needs that: ask a copy of the trail") from error
    deadline = time.monotonic() + wait_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        if time.monotonic() >= deadline or should_stop():
            os.close(fd)
            raise EngineBusyError(f"{path.parent}: another process has the query copy open")
        time.sleep(_LOCK_POLL_S)
