"""Runs one program and ends it when the process that asked for it is gone: no broker is left behind.

Started as ``python -I _kafka_guard.py FD PIDFILE PROGRAM ARGUMENT...``, where FD
is the reading end of a pipe whose other end only the asking process holds. Its
end of file means that process is dead, however it died. A death signal alone
would not do: the kernel sends it when the *thread* that forked ends. SIGTERM is
passed on.

Standard library only, and nothing of this project: it must start at once.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

GRACE_S = 5.0  # from SIGTERM to SIGKILL once the asking process is gone
_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In the child: should even this guard be killed, the kernel ends the program (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def guard(fd: int, pid_file: Path, command: list[str]) -> int:
    """Run ``command`` until it ends or the pipe closes; its exit status, or 128 + signal."""
    child = subprocess.Popen(command, preexec_fn=die_with_parent, close_fds=True)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
    pid_file.write_text(str(child.pid), encoding="ascii")
    while child.poll() is None:
        readable, _, _ = select.select([fd], [], [], _POLL_S)
        if readable and os.read(fd, 1) == b"":
            child.terminate()
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
            child.wait()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the asking process, which ends us in order
    raise SystemExit(guard(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
