"""A process that ends with the one that started it, however that one dies.

Run through ``_kafka_guard.py``: a parent of its own that sees our end of a pipe
close. In a session of its own, so that Ctrl-C on a terminal reaches us alone
and we end it in order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("_kafka_guard.py")
_KILLED_AFTER_S = 10.0  # the guard gives 5 s after the pipe has closed, then kills


class TiedProcess:
    """``command``, started; what it says is appended to ``log``."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Raises OSError if it cannot be started."""
        reading, self._pipe = os.pipe()
        try:
            with log.open("ab") as said:
                self._guard = subprocess.Popen(  # noqa: S603 - a command of ours
                    [sys.executable, "-I", "-S", str(_GUARD), str(reading), str(log.with_suffix(".pid")), *command],
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                    pass_fds=(reading,),
                )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)
        self._is_tied = True

    def poll(self) -> int | None:
        """Exit status (128 + signal if one ended it), None while it runs."""
        status = self._guard.poll()
        if status is not None:
            self._let_go()
        return status

    def terminate(self) -> None:
        """SIGTERM; the guard passes it on."""
        if self.poll() is None:
            self._guard.terminate()

    def wait(self, timeout_s: float) -> int | None:
        """Exit status, None if it still runs after ``timeout_s``."""
        try:
            self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return self.poll()

    def let_end(self) -> None:
        """Begin to end it for good: SIGTERM now, SIGKILL 5 s later."""
        self._let_go()

    def end(self) -> None:
        """``let_end``, and wait until it is over."""
        self._let_go()
        if self.wait(_KILLED_AFTER_S) is None:
            self._guard.kill()  # the kernel ends its child with it
            self._guard.wait()

    def _let_go(self) -> None:
        if self._is_tied:
            self._is_tied = False
            os.close(self._pipe)
