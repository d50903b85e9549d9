"""What can go wrong on our side: no training stops or waits for it, and the ledger says afterwards what is missing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crash.fake_disk import FullDisk
from query_copies import WITHOUT_ENGINE
from rlhf_audit_producers.spool import RecordingError
from rlhf_audit_producers.spool_writer import SpoolWriter
from rlhf_audit_stores.disk import Disk, Handle, RealDisk
from rlhf_audit_trail import AuditTrail, cli, runtime_start
from rlhf_audit_trail import recording as recording_module
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.settings import load_settings
from spooling import drain, sealed_events
from verifying import findings_of, report_of

STEPS, ROWS = 60, 50


def recorder(directory: Path, disk: Disk | None = None, *, strict: bool = False) -> AuditTrail:
    """A trail whose ledger is founded on a disk that works."""
    ledger_facts(directory, load_settings(directory))
    return AuditTrail(directory, "run", runtime=False, strict=strict, disk=disk, queue_events=10 * ROWS)


def step(trail: AuditTrail, number: int) -> None:
    trail.log_annotations(items=[f"{number}-{row}" for row in range(ROWS)], rewards=[1.0] * ROWS)


def items(directory: Path) -> list[str]:
    return [event["item"] for event in sealed_events(directory, "annotation")]


def lost(directory: Path, stream: str = "annotations") -> int:
    return sum(event["count"] for event in sealed_events(directory, "loss") if event["stream"] == stream)


def is_complete(directory: Path) -> str:
    """What a verification says of the lanes; there must be nothing else to say."""
    assert findings_of(directory) == []
    found = report_of(directory).completeness
    assert found is not None
    return found.verdict


def test_a_full_disk_stops_no_training_and_the_ledger_declares_what_it_lost(tmp_path: Path) -> None:
    trail = recorder(tmp_path, FullDisk(RealDisk(), after_bytes=400 << 10))
    for number in range(STEPS):
        step(trail, number)
        trail.flush()
    trail.close()
    drain(tmp_path)
    kept = items(tmp_path)
    assert len(kept) == len(set(kept)) > 0
    assert lost(tmp_path) == STEPS * ROWS - len(kept) > 0
    assert len(sealed_events(tmp_path, "producer_end")) == 1, "the room for the end was kept"
    assert is_complete(tmp_path) == "no"


def test_a_strict_trail_stops_the_training_when_the_disk_is_full(tmp_path: Path) -> None:
    trail = recorder(tmp_path, FullDisk(RealDisk(), after_bytes=400 << 10), strict=True)

    def train() -> None:
        for number in range(STEPS):
            step(trail, number)
            trail.flush()

    with pytest.raises(RecordingError, match="annotation events were lost"):
        train()
    trail.close()


class SlowDisk(RealDisk):
    """Every sync takes 100 ms."""

    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, handle: Handle) -> None:
        self.syncs += 1
        time.sleep(0.1)
        super().sync(handle)


def test_a_sync_of_100_ms_is_not_waited_for(tmp_path: Path) -> None:
    disk = SlowDisk()
    trail = recorder(tmp_path, disk)
    assert trail.flush()
    took, syncs, last = [], disk.syncs, time.monotonic()
    while disk.syncs < syncs + 3:  # so the calls stretch over several syncs
        assert time.monotonic() < last + 30, "the writer syncs no more"
        began = time.perf_counter()
        trail.log_annotations(items=["one"], rewards=[1.0])
        took.append(time.perf_counter() - began)
        time.sleep(0.005)
    trail.close()
    took.sort()
    assert took[len(took) // 2] < 0.005, "half the calls or more waited"
    assert sum(took) < 0.1, "what all calls took together is less than one sync"
    drain(tmp_path)
    assert len(items(tmp_path)) + lost(tmp_path) == len(took)


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false"])
def test_a_runtime_that_cannot_live_is_said_and_what_was_recorded_is_sealed_later(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime_start, "_LOOK_AFTER_RUNTIME_S", 0.0)
    monkeypatch.setattr(runtime_start, "_FIRST_PAUSE_S", 0.0)
    ledger_facts(tmp_path, load_settings(tmp_path))
    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(sys, "executable", program)
        with AuditTrail(tmp_path, "run") as trail:
            for number in range(5):
                step(trail, number)
                assert trail.flush(), "recording needs no runtime"
    assert "runtime" in caplog.text or "FileNotFoundError" in caplog.text
    drain(tmp_path)
    assert len(items(tmp_path)) == 5 * ROWS
    assert is_complete(tmp_path) == "yes"


def broken(self: SpoolWriter) -> None:
    raise RuntimeError("a defect of ours")


def test_a_writer_that_breaks_stops_no_training_and_the_ledger_calls_its_producer_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = recorder(tmp_path)
    step(trail, 0)
    assert trail.flush()
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "turn", broken)
        for number in range(1, STEPS):
            step(trail, number)
        assert not trail.flush()
    drain(tmp_path)
    assert len(items(tmp_path)) == ROWS
    assert [event["producer"] for event in sealed_events(tmp_path, "producer_lost")] == ["run/0"]
    assert is_complete(tmp_path) == "unknown", "nobody can say how much a producer held that left without an end"
    trail.close()


def test_a_strict_trail_stops_the_training_when_its_writer_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = recorder(tmp_path, strict=True)
    monkeypatch.setattr(SpoolWriter, "turn", broken)
    assert not trail.flush()
    with pytest.raises(RecordingError, match="annotation events were lost"):
        step(trail, 0)
    trail.close()


def defect(*_: object, **__: object) -> None:
    raise RuntimeError("a text that must not be logged")


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_defect_in_the_callers_thread_is_declared_row_by_row_or_stops_a_strict_training(
    is_strict: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trail = recorder(tmp_path, strict=is_strict)
    with monkeypatch.context() as patch:
        for name in ("annotation_rows", "rollout_rows", "completed"):
            patch.setattr(recording_module, name, defect)
        calls: tuple[Callable[[], None], ...] = (
            lambda: step(trail, 0),
            lambda: trail.log_rollouts(prompts=["p", "p"], completions=["a", "b"], rewards={"f": [1.0, 0.0]}),
            lambda: trail.record("policy_update", {"step": 1}),
        )
        for call in calls:
            if is_strict:
                with pytest.raises(RuntimeError):
                    call()
            else:
                call()
                call()
    if not is_strict:
        step(trail, 1)
    trail.close()
    if is_strict:
        return
    drain(tmp_path)
    assert len(items(tmp_path)) == ROWS
    declared = {(event["stream"], event["reason"]) for event in sealed_events(tmp_path, "loss")}
    assert {reason for _, reason in declared} == {"encode_failed"}
    assert sum(event["count"] for event in sealed_events(tmp_path, "loss")) == 2 * (ROWS + 2 + 1)
    assert "must not be logged" not in caplog.text
    assert caplog.text.count("could not be recorded") == 3, "each kind is said once"
    assert is_complete(tmp_path) == "no"


def without_engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WITHOUT_ENGINE, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_without_clickhouse_the_runtime_seals_and_says_so_and_questions_get_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "trail"
    with recorder(directory) as trail:
        step(trail, 0)
    done = without_engine("local", str(directory), "--until-idle")
    assert done.returncode == 0
    assert "catches up later" in done.stderr
    assert len(items(directory)) == ROWS
    assert cli.main(["verify", str(directory), "--no-memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == 0
    for command in (["sql", str(directory), "SELECT 1"], ["report", str(directory)], ["restore", str(directory)]):
        done = without_engine(*command)
        assert done.returncode == 3, command
        assert "pip install 'rlhf-audit-trail[sinks]'" in done.stderr
        assert done.stdout == ""
    with recorder(directory) as trail:
        step(trail, 1)
    done = without_engine("local", str(directory), "--until-idle", "--clickhouse", "on")
    assert done.returncode == 3, "the settings insist on what is not there"
    assert "pip install" in done.stderr


def test_without_clickhouse_an_ingest_says_that_the_copy_catches_up_later(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"annotator": "a", "item": "i", "score": 1}\n')
    done = without_engine("ingest", str(file), "--out", str(tmp_path / "trail"))
    assert done.returncode == 0
    assert "catches up later" in done.stderr
