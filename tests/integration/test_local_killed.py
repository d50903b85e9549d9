"""``rlhf-audit local`` with its query copy, killed and started again: nothing stays behind, nothing stays locked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from query_copies import copy_processes, require_chdb
from rlhf_audit_sinks.clickhouse.engine import is_open_somewhere
from rlhf_audit_stores.durable import is_locked
from rlhf_audit_trail import AuditTrail, cli, runtime_start

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("default")]

ROWS = 200


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)


def local(trail: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_audit_trail", "local", str(trail), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RLHF_AUDIT_WINDOW_SECONDS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def record(trail: AuditTrail, name: str) -> None:
    trail.log_annotations(items=[f"{name}-{n}" for n in range(ROWS)], rewards=[1.0] * ROWS)
    assert trail.flush()


def sql(trail: Path, query: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert cli.main(["sql", str(trail), query, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def is_free(trail: Path) -> bool:
    """Nobody runs, nobody feeds the copy, and every lock can be taken."""
    held = runtime_start.is_running(trail) or is_open_somewhere(trail) or is_locked(trail / "spool" / ".lock")
    return not held and not copy_processes(trail)


@pytest.mark.parametrize(
    ("with_copy", "at_once"),
    [(False, False), (False, True), (True, True)],
    ids=["copy orphaned, which ends by itself", "copy orphaned, next one at once", "copy killed, next one at once"],
)
def test_a_killed_runtime_leaves_no_process_and_no_lock_and_the_next_one_goes_on(
    with_copy: bool, at_once: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_chdb()
    directory = tmp_path / "trail"
    with AuditTrail(directory, "run", runtime=False) as trail:
        first = local(directory)
        record(trail, "before")
        log = directory / "clickhouse" / "process.log"
        until(lambda: log.exists() and "window stored" in log.read_text(encoding="utf-8"))
        for pid in (first.pid, *(copy_processes(directory) if with_copy else ())):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        first.communicate()
        if not at_once:
            until(lambda: is_free(directory))
        second = local(directory, "--until-idle")
        record(trail, "after")
    _, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    until(lambda: is_free(directory), 10.0)
    assert cli.main(["verify", str(directory), "--no-memory", "--require", "complete"]) == 0
    capsys.readouterr()
    rows = sql(directory, "SELECT count() AS n, uniqExact(stream, partition, leaf_index) AS u FROM annotation", capsys)
    assert rows == [{"n": 2 * ROWS, "u": 2 * ROWS}]
    assert is_free(directory), "asking leaves nothing open either"
