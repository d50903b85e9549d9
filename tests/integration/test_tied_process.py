"""A process that ends with the one that started it, however that one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_audit_trail.tied_process import TiedProcess

WAIT_S = 30.0
SLEEPS = [sys.executable, "-I", "-c", "import time; print('here', flush=True); time.sleep(600)"]
PARENT = """
import os, sys, time
from pathlib import Path
from rlhf_audit_trail.tied_process import TiedProcess
held = TiedProcess(sys.argv[2:], Path(sys.argv[1]), os.environ)
print("started", flush=True)
time.sleep(600)
"""


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"


def is_there(log: Path) -> bool:
    return log.exists() and "here" in log.read_text(encoding="utf-8")


def test_its_status_is_the_command_s(tmp_path: Path) -> None:
    process = TiedProcess([sys.executable, "-c", "raise SystemExit(7)"], tmp_path / "a.log", os.environ)
    assert process.wait(WAIT_S) == 7
    assert process.poll() == 7
    process.end()


def test_sigterm_reaches_the_command_which_may_end_in_order(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('in order', flush=True), sys.exit(5)))\n"
        "print('here', flush=True)\ntime.sleep(600)"
    )
    log = tmp_path / "a.log"
    process = TiedProcess([sys.executable, "-c", script], log, os.environ)
    wait_until(lambda: is_there(log))
    process.terminate()
    assert process.wait(WAIT_S) == 5
    assert log.read_text(encoding="utf-8").splitlines() == ["here", "in order"]


def test_one_that_minds_no_sigterm_is_killed(tmp_path: Path) -> None:
    script = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('here', flush=True)\ntime.sleep(600)"
    )
    log = tmp_path / "a.log"
    process = TiedProcess([sys.executable, "-c", script], log, os.environ)
    wait_until(lambda: is_there(log))
    process.end()
    assert process.poll() == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_when_its_parent_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "a.log"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log), *SLEEPS], env=environ)
    try:
        wait_until(lambda: is_there(log))
    finally:
        parent.send_signal(number)
        parent.wait()
    pid = int(log.with_suffix(".pid").read_text(encoding="ascii"))
    wait_until(lambda: not is_alive(pid))
