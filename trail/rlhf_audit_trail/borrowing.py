"""Using a trail that a runtime holds, while training processes go on recording.

Whoever wants it holds the lock of ``spool/wanted``; the runtime looks at every
turn, closes the trail, and opens it again when nobody wants it any more. What
is recorded meanwhile waits in the spools. The lock goes with its process, so
a borrower that dies gives the trail back.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_audit_schemas.errors import TransportError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import LOCK_FILE, is_locked, make_folders_durably
from rlhf_audit_trail.runtime_start import is_running

_WANTED = "wanted"
_LOOK_AGAIN_S = 0.02


class NotLentError(TransportError):
    """A runtime works on the trail and did not let go of it in time."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory} is in use by a runtime (rlhf-audit local) that did not let go of it: try again, or wait "
            "until the training processes that record into it have ended"
        )


@contextmanager
def borrowed(directory: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Keep runtimes off the trail. Raises NotLentError if one does not let go in time."""
    spool = directory / "spool"
    make_folders_durably(RealDisk(), spool)
    fd = os.open(spool / _WANTED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # several may want it; the trail's own lock decides between them
        deadline = time.monotonic() + timeout_s
        while is_running(directory) and is_locked(spool / LOCK_FILE):
            if time.monotonic() > deadline:
                raise NotLentError(directory)
            time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(fd)


def is_wanted(directory: Path) -> bool:
    """Whether somebody else wants the trail."""
    return is_locked(directory / "spool" / _WANTED, shared_too=True)
