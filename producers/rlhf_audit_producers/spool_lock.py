"""Who may drain a trail's spools: one process at a time, the one-process runtime or the shipper.

The lock belongs to the operating system and goes with its process. It decides
among processes of one machine; a directory that several machines mount needs a
file system whose locks reach all of them.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from rlhf_audit_producers.spool_files import done_epoch, is_alive, producers
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import is_locked

RUNTIME_LOCK: Final = "runtime.lock"
_TRIES, _PAUSE_S = 5, 0.01  # whoever only looks whether we run holds it for microseconds


class DrainLock:
    """The right to drain the spools below ``spool``, until ``release`` or the death of the process."""

    def __init__(self, fd: int) -> None:
        """For ``acquire_drain``."""
        self._fd: int | None = fd

    def release(self) -> None:
        """Let others drain."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def acquire_drain(spool: Path) -> DrainLock | None:
    """The right to drain; None if another process has it."""
    fd = os.open(spool / RUNTIME_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return DrainLock(fd)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
    os.close(fd)
    return None


def is_drained_by_somebody(spool: Path) -> bool:
    """Whether a process has the right to drain at the moment."""
    return is_locked(spool / RUNTIME_LOCK)


def spools_have_work(disk: Disk, spool: Path) -> bool:
    """Whether somebody records, or left records that were not taken to their end."""
    return any(
        is_alive(folder) or any(ref.epoch > done_epoch(disk, folder) for ref in refs)
        for folder, refs in producers(disk, spool)
    )
