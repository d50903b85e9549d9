"""Fifty times `kill -9` by pid while 200,000 rows pass: each row sealed once, bytes as a fresh sealing makes them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from chaos.ingest_child import PHASE_BYTES
from crash.ingesting import write_rows
from crash.resealing import differences
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.objects import SEGMENT
from rlhf_audit_stores.objects import FolderStore
from verifying import findings_of

ROWS, KILLS, SEED = 200_000, 50, 20261125
CHILD = Path(__file__).with_name("ingest_child.py")
TESTS = Path(__file__).parents[1]


def _start(trail: Path, file: Path, copy: Path, phase: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), *sys.path])
    arguments = [sys.executable, str(CHILD), str(trail), str(file), str(copy), str(phase)]
    return subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def _events(trail: Path, stream: str) -> int:
    objects = FolderStore(trail / "objects")
    total = 0
    for info in objects.list(f"segments/{stream}/"):
        close = SEGMENT.decode(info.name, objects.get(info.name))[-1]["close"]
        total += Close.decode(close).events
    return total


def test_fifty_kills_lose_no_row_and_double_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    trail, copy, phase = tmp_path / "trail", tmp_path / "copy", tmp_path / "phase"
    chance = random.Random(SEED)  # noqa: S311 - a schedule that can be repeated
    phases: Counter[str] = Counter()
    kills = ended = 0
    while kills < KILLS:
        phase.write_bytes(b"starting".ljust(PHASE_BYTES))
        child = _start(trail, file, copy, phase)
        deadline = time.monotonic() + 60
        while phase.read_bytes().startswith(b"starting") and child.poll() is None:
            assert time.monotonic() < deadline, "the child never began"
            time.sleep(0.005)
        try:
            child.communicate(timeout=chance.uniform(0.0, 1.5))
            ended += 1  # it was done before its time came: begin another trail, so that every kill hits work
            assert ended < KILLS, "the machine is so fast that no kill ever hits"
            trail, copy = tmp_path / f"trail{ended}", tmp_path / f"copy{ended}"
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            phases[phase.read_bytes().decode().strip()] += 1
            kills += 1
    last = _start(trail, file, copy, phase)
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0
    assert said.strip() in ("ingested", "already ingested")
    hit = "".join(f"  {count:3} {name}\n" for name, count in phases.most_common())
    with capsys.disabled():
        sys.stdout.write(f"\nkill -9, seed {SEED}: {kills} kills over {ended + 1} trails; phases hit:\n{hit}")
    assert _events(trail, "annotations") == ROWS
    assert differences(trail, copy) == []
    assert findings_of(trail) == []
