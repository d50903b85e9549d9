"""``runs``, ``status`` and ``tail``: what a trail holds, who lives, what was lost; with the query copy and without."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from query_copies import annotation, batch, write_trail
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_sinks.clickhouse import engine
from rlhf_audit_trail import cli
from rlhf_audit_trail.commands import local
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.recording import AuditTrail
from rlhf_audit_trail.runtime_start import wait_until_idle

pytestmark = pytest.mark.filterwarnings("default")  # what pandas and the engine warn of is not ours


@pytest.fixture(params=["with the copy", "without"])
def copy_is_there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "without":
        monkeypatch.setattr(engine, "is_installed", lambda: False)
        monkeypatch.setenv("RLHF_AUDIT_CLICKHOUSE", "off")
        return False
    if not engine.is_installed():
        pytest.skip("the query copy is not installed")
    return True


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_counts_what_is_stored_and_who_said_no_end(
    tmp_path: Path, copy_is_there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trail(tmp_path / "trail", [[annotation(n) for n in range(7)], [annotation(8)]])
    state = said(capsys, "status", str(tmp_path / "trail"))
    assert {(each["stream"], each["partition"]): each["windows"] for each in state["partitions"]} == {
        ("annotations", 0): 1,
        ("annotations", 1): 1,
    }
    assert {each["producer"]: (each["events"], each["state"]) for each in state["producers"]} == {
        "p0": (7, "no end said"),
        "p1": (1, "no end said"),
    }
    assert (state["asked"] is not None) == copy_is_there
    assert all(each["copied"] == (1 if copy_is_there else None) for each in state["partitions"])
    assert state["is_sealing"] is False


def test_a_run_that_records_is_alive_and_one_that_ended_is_not(
    tmp_path: Path, copy_is_there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "trail"
    with AuditTrail(directory, run_id="run-a", rank=0, world_size=2, runtime=False) as trail:
        trail.log_annotations(prompts=["p"], responses=["r"], rewards=[1.0], annotators=["a"], all_ranks=False)
        trail.flush()
        (producer,) = said(capsys, "status", str(directory))["producers"]
        assert (producer["producer"], producer["state"]) == ("run-a/0", "recording")
    (producer,) = said(capsys, "status", str(directory))["producers"]
    assert producer["state"] == "being read"
    assert cli.main(["local", str(directory), "--until-idle"]) == 0
    assert wait_until_idle(directory)
    (run,) = said(capsys, "runs", str(directory))
    assert (run["run_id"], run["state"], run["ranks_seen"]) == ("run-a", "ended", [0])
    assert run["kinds"]["annotation"] == 1


def test_what_was_lost_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not engine.is_installed():
        pytest.skip("losses are told by the query copy")
    codec = KINDS["loss"].codec
    loss: dict[str, Any] = dict.fromkeys(codec.fields)
    loss |= {"salt": bytes(16), "ts_us": 5, "producer": "p0", "epoch": 0, "stream": "annotations", "partition": 0}
    loss |= {"first_seq": 3, "count": 41, "reason": "spool_full"}
    with LocalTrail(tmp_path / "trail") as trail:
        trail.append("lifecycle", 0, [batch(trail, [codec.encode(loss)], producer="p0", kind="loss")])
        trail.drain()
    assert said(capsys, "status", str(tmp_path / "trail"))["lost"] == {"spool_full": 41}
    assert cli.main(["status", str(tmp_path / "trail")]) == 0
    assert "41 spool_full" in capsys.readouterr().out


def test_tail_shows_windows_by_kind_and_marks_what_was_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalTrail(tmp_path / "trail") as trail:
        trail.append("annotations", 0, [batch(trail, [annotation(1)], producer="p0"), b"no batch"])
        trail.drain()
    assert cli.main(["tail", str(tmp_path / "trail"), "--no-follow"]) == 0
    line = capsys.readouterr().out
    assert " UTC  annotations/0" in line
    assert "1 annotation" in line
    assert "1 QUARANTINED" in line


@pytest.mark.parametrize("command", ["status", "runs", "tail", "restore", "sql", "report", "dashboard"])
def test_a_folder_without_a_ledger_could_not_be_read_and_nothing_is_made_in_it(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"tail": ["--no-follow"], "sql": ["SELECT 1"]}.get(command, [])
    assert cli.main([command, str(tmp_path), *more]) == 3
    said = capsys.readouterr()
    assert "holds no ledger" in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["sql", "report", "dashboard"])
def test_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["SELECT 1"] if command == "sql" else []
    assert cli.main([command, str(tmp_path / "nowhere"), *more]) == 3
    assert "no trail at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_says_what_it_seals_how_to_end_it_and_what_it_sealed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with AuditTrail(tmp_path, run_id="run-a", rank=0, world_size=1, runtime=False) as trail:
        trail.log_annotations(prompts=["p"], responses=["r"], rewards=[1.0], annotators=["a"], all_ranks=False)
    assert cli.main(["local", str(tmp_path), "--until-idle", "--clickhouse", "off"]) == 0
    spoken = capsys.readouterr()
    assert spoken.out == ""
    begin, end = spoken.err.splitlines()
    assert begin == f"sealing what is recorded in {tmp_path}; ends when nobody records any more"
    windows = sum(each["windows"] for each in said_windows(tmp_path, capsys))
    assert end == f"{windows} windows sealed and stored; check it: rlhf-audit verify {tmp_path}"


def said_windows(directory: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    partitions: list[dict[str, Any]] = said(capsys, "status", str(directory))["partitions"]
    return partitions


def test_the_runtime_says_where_the_query_copy_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if not engine.is_installed():
        pytest.skip("there is no query copy")
    told = local._Told(tmp_path, is_asked=True)
    told.look()
    assert capfd.readouterr().err == ""
    folder = tmp_path / "clickhouse"
    folder.mkdir()
    (folder / "password").write_text("x")
    (folder / "http.json").write_text('{"host": "127.0.0.1", "port": 4711, "pid": 1}')
    held = engine._lock(folder / "lock", 0.0, lambda: False)
    for _ in range(2):
        told._look_at = 0.0
        told.look()
    os.close(held)
    err = capfd.readouterr().err
    assert err.count("ClickHouse answers on http://127.0.0.1:4711, user default") == 1
    assert str(folder / "password") in err
