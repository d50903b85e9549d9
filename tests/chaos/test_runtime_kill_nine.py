"""Fifty times `kill -9` of the runtime while two ranks record 200,000 events, and a rank killed in mid-step: each event
sealed once, bytes as a fresh sealing makes them, and the ledger says who left without an end."""

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
from crash.resealing import differences
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.settings import load_settings
from spooling import outcomes, sealed_events
from verifying import findings_of

EVENTS, PER_SECOND, KILLS, SEED = 100_000, 2_000, 50, 20261125
HERE = Path(__file__).parent


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "RLHF_AUDIT_WINDOW_SECONDS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_fifty_kills_of_the_runtime_lose_no_event_and_double_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trail, copy, phase = tmp_path / "trail", tmp_path / "copy", tmp_path / "phase"
    ledger_facts(trail, load_settings(trail, environ={"RLHF_AUDIT_WINDOW_SECONDS": "1"}))
    ranks = [start("recording_child.py", trail, rank, EVENTS, PER_SECOND) for rank in range(2)]
    victim = start("recording_child.py", trail, 7, EVENTS, PER_SECOND)
    chance = random.Random(SEED)  # noqa: S311 - a schedule that can be repeated
    phases: Counter[str] = Counter()
    kills = 0
    while kills < KILLS:
        phase.write_bytes(b"starting".ljust(PHASE_BYTES))
        child = start("runtime_child.py", trail, copy, phase)
        while phase.read_bytes().startswith(b"starting"):
            assert child.poll() is None, "the runtime ended although ranks record"
            time.sleep(0.002)
        try:
            child.communicate(timeout=chance.uniform(0.0, 1.2))
            pytest.fail("the ranks were done before the runtime was killed often enough")
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            phases[phase.read_bytes().decode().strip()] += 1
            kills += 1
        if kills == KILLS // 2:
            os.kill(victim.pid, signal.SIGKILL)
            victim.communicate()
    phase.write_bytes(b"last".ljust(PHASE_BYTES))
    last = start("runtime_child.py", trail, copy, phase)
    for process in ranks:
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert last.communicate(timeout=300)[0].strip() == "ran"
    hit = "".join(f"  {count:3} {name}\n" for name, count in phases.most_common())
    with capsys.disabled():
        sys.stdout.write(f"\nkill -9 of the runtime, seed {SEED}: {kills} kills; phases hit:\n{hit}")
    items = Counter(event["item"] for event in sealed_events(trail, "annotation"))
    assert max(items.values()) == 1
    for rank in range(2):
        assert sum(item.startswith(f"{rank}-") for item in items) == EVENTS
    of_victim = sorted(int(item.removeprefix("7-")) for item in items if item.startswith("7-"))
    assert 0 < len(of_victim) < EVENTS
    assert of_victim == list(range(len(of_victim)))
    assert outcomes(trail) == {"accepted"}
    assert [event["producer"] for event in sealed_events(trail, "producer_lost")] == ["chaos/7"]
    ended = {event["producer"] for event in sealed_events(trail, "producer_end")}
    assert {"chaos/0", "chaos/1"} <= ended
    assert "chaos/7" not in ended
    assert differences(trail, copy) == []
    assert findings_of(trail) == []
