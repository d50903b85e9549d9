"""Ranks, forks, loader workers and a runtime that starts by itself: real processes, each event sealed once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhf_audit_trail import runtime_start
from rlhf_audit_trail.runtime import has_work
from spooling import drain, outcomes, sealed_events
from verifying import findings_of

SCRIPT = Path(__file__).with_name("recording_process.py")
ROWS = 40


def start(what: str, trail: Path, **environ: str) -> subprocess.Popen[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RLHF_AUDIT_", "TORCHELASTIC_", "SLURM_")) and name not in ("RANK", "WORLD_SIZE")
    }
    path = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), what, str(trail)],
        env={
            **inherited,
            "PYTHONPATH": path,
            "RLHF_AUDIT_CLICKHOUSE": "off",
            "RLHF_AUDIT_WINDOW_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
            **environ,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    return err


def ranks(what: str, trail: Path, count: int) -> list[subprocess.Popen[str]]:
    return [
        start(what, trail, RANK=str(rank), WORLD_SIZE=str(count), TORCHELASTIC_RUN_ID="job") for rank in range(count)
    ]


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.05)


def settle(trail: Path) -> None:
    """Until a runtime has taken everything and ended by itself."""
    until(lambda: (trail / "objects").exists() and not has_work(trail) and not runtime_start.is_running(trail))


def items(trail: Path) -> Counter[str]:
    return Counter(event["item"] for event in sealed_events(trail, "annotation"))


def once(*names: str) -> Counter[str]:
    return Counter(f"{name}-{n}" for name in names for n in range(ROWS))


def sane(trail: Path) -> None:
    assert outcomes(trail) == {"accepted"}
    assert findings_of(trail) == []


def ended(trail: Path) -> set[str]:
    return {event["producer"] for event in sealed_events(trail, "producer_end")}


def test_two_ranks_begin_one_ledger_and_one_runtime_seals_what_they_record(tmp_path: Path) -> None:
    for process in ranks("rank", tmp_path, 2):
        finish(process)
    settle(tmp_path)
    assert items(tmp_path) == once("rank0", "rank1")
    assert ended(tmp_path) == {"job/0", "job/1"}
    assert sealed_events(tmp_path, "producer_lost") == []
    assert not list((tmp_path / "spool" / "producers").glob("*/*/*.log")), "what is stored leaves the spool"
    sane(tmp_path)


def test_rows_that_every_rank_hands_in_are_recorded_once(tmp_path: Path) -> None:
    for process in ranks("shared", tmp_path, 2):
        finish(process)
    drain(tmp_path)
    assert items(tmp_path) == Counter(
        {"with-ids": ROWS, "all-ranks": ROWS, "own": 2 * ROWS, "own0": ROWS, "own1": ROWS}
    )


def test_forked_children_never_write_the_lanes_of_their_parent(tmp_path: Path) -> None:
    finish(start("forks", tmp_path))
    drain(tmp_path)
    assert items(tmp_path) == once("before", "after", "child0", "child1")
    assert {"run/0", "run/0/1"} <= ended(tmp_path) <= {"run/0", "run/0/1", "run/0/2"}
    assert sealed_events(tmp_path, "producer_lost") == []
    sane(tmp_path)


def test_threads_that_fork_at_once_hold_up_nobody(tmp_path: Path) -> None:
    finish(start("forking_threads", tmp_path))
    drain(tmp_path)
    assert items(tmp_path) & once("after") == once("after")
    assert ended(tmp_path) == {"run/0"}
    sane(tmp_path)


def test_children_of_multiprocessing_are_producers_of_their_own_and_say_their_end(tmp_path: Path) -> None:
    finish(start("spawns", tmp_path))
    drain(tmp_path)
    assert items(tmp_path) == once("parent", "spawn", "fork", "forkserver")
    assert ended(tmp_path) == {"run/0", "run/0/1"}, "each child takes the name that the one before let go"
    assert sealed_events(tmp_path, "producer_lost") == []
    sane(tmp_path)


def test_trails_that_children_of_multiprocessing_open_are_closed_and_sealed(tmp_path: Path) -> None:
    finish(start("children_open", tmp_path))
    settle(tmp_path)
    assert items(tmp_path) == once("spawn", "fork", "forkserver")
    assert [event["reason"] for event in sealed_events(tmp_path, "producer_end") if event["rows"]] == ["finished"] * 3
    assert sealed_events(tmp_path, "producer_lost") == []
    sane(tmp_path)


@pytest.mark.skipif(find_spec("multiprocess") is None, reason="multiprocess is not installed")
def test_children_of_its_relative_say_their_end_too(tmp_path: Path) -> None:
    finish(start("relatives", tmp_path))
    settle(tmp_path)
    assert items(tmp_path) == once("_in_child", "_opens_in_child")
    assert ended(tmp_path) >= {"run/0", "run/0/1", "run/1"}
    assert sealed_events(tmp_path, "producer_lost") == []
    sane(tmp_path)


def test_a_child_that_is_forked_in_a_training_says_nothing_of_it(tmp_path: Path) -> None:
    finish(start("forks_and_exits", tmp_path))
    drain(tmp_path)
    assert items(tmp_path) == once("child")
    assert [(event["outcome"], event["steps"]) for event in sealed_events(tmp_path, "run_end")] == [("finished", 1)]
    assert [event["step"] for event in sealed_events(tmp_path, "policy_update")] == [1]
    assert [event["step"] for event in sealed_events(tmp_path, "checkpoint")] == [1]
    assert ended(tmp_path) == {"run/0", "run/0/1"}


def test_a_training_in_a_child_that_dies_is_ended_as_failed(tmp_path: Path) -> None:
    finish(start("trains_in_a_child", tmp_path))
    drain(tmp_path)
    (end,) = sealed_events(tmp_path, "run_end")
    assert (end["outcome"], end["error_type"], end["steps"]) == ("failed", "SystemError", 1)
    ends = {event["producer"]: event["reason"] for event in sealed_events(tmp_path, "producer_end")}
    assert ends == {"run/0": "finished", "run/0/1": "failed"}


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_loader_workers_record_under_few_names(tmp_path: Path) -> None:
    finish(start("loaders", tmp_path))
    drain(tmp_path)
    assert items(tmp_path) == Counter({f"loader-{index}": 2 for index in range(8)})
    producers = {event["producer"] for event in sealed_events(tmp_path, "producer_start")} - {"run/0"}
    assert producers - {event["found_by"] for event in sealed_events(tmp_path, "producer_lost")} <= {
        "run/0/1",
        "run/0/2",
    }
    sane(tmp_path)


def test_a_killed_rank_is_called_lost_and_its_runtime_outlives_it(tmp_path: Path) -> None:
    finish(start("killed", tmp_path), -signal.SIGKILL)
    settle(tmp_path)
    found = items(tmp_path)
    assert found & once("killed") == once("killed")
    assert max(found.values()) == 1
    (lost,) = sealed_events(tmp_path, "producer_lost")
    (began,) = [event for event in sealed_events(tmp_path, "producer_start") if event["purpose"] == "train"]
    assert lost["producer"] == began["producer"]
    assert {lane["stream"] for lane in lost["lanes"]} == {"annotations", "lifecycle"}
    sane(tmp_path)


def test_a_process_that_just_ends_says_its_end(tmp_path: Path) -> None:
    finish(start("exits", tmp_path))
    settle(tmp_path)
    assert items(tmp_path) == once("exits")
    (end,) = sealed_events(tmp_path, "producer_end")
    assert (end["reason"], end["rows"]) == ("finished", ROWS)


def test_a_process_that_fails_says_so(tmp_path: Path) -> None:
    assert "the training failed" in finish(start("fails", tmp_path), 1)
    drain(tmp_path)
    (end,) = sealed_events(tmp_path, "producer_end")
    assert end["reason"] == "failed"
    assert items(tmp_path) == once("fails")


def test_a_runtime_that_is_killed_is_started_again_while_the_training_goes_on(tmp_path: Path) -> None:
    training = start("waits", tmp_path)
    assert training.stdout is not None
    assert training.stdin is not None
    training.stdout.readline()
    until(lambda: runtime_start.is_running(tmp_path))
    lock = tmp_path / "spool" / ".lock"
    until(lambda: lock.exists() and lock.read_text().strip().isdigit() and (tmp_path / "objects" / "logs").exists())
    os.kill(int(lock.read_text()), signal.SIGKILL)
    until(lambda: not runtime_start.is_running(tmp_path))
    until(lambda: runtime_start.is_running(tmp_path))
    training.stdin.close()
    training.wait(60)
    training.stdout.close()
    assert training.stderr is not None
    training.stderr.close()
    settle(tmp_path)
    assert items(tmp_path) == once("waits", "later")
    sane(tmp_path)


def test_an_ingest_gets_the_trail_while_a_training_records(tmp_path: Path) -> None:
    trail, file = tmp_path / "trail", tmp_path / "rows.csv"
    file.write_text("item,score\n" + "".join(f"file-{n},1\n" for n in range(ROWS)), encoding="utf-8")
    training = start("waits", trail)
    assert training.stdout is not None
    assert training.stdin is not None
    training.stdout.readline()
    until(lambda: runtime_start.is_running(trail) and (trail / "objects" / "logs").exists())
    command = [sys.executable, "-m", "rlhf_audit_trail", "ingest", str(file), "--out", str(trail)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RLHF_AUDIT_CLICKHOUSE": "off"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert training.poll() is None
    _, err = training.communicate("", timeout=60)
    assert training.returncode == 0, err
    settle(trail)
    assert items(trail) == once("waits", "later", "file")
    sane(trail)


def test_a_restarted_rank_goes_on_in_a_new_epoch_of_the_same_run(tmp_path: Path) -> None:
    finish(start("killed", tmp_path, RANK="0", TORCHELASTIC_RUN_ID="job"), -signal.SIGKILL)
    finish(start("rank", tmp_path, RANK="0", TORCHELASTIC_RUN_ID="job"))
    settle(tmp_path)
    began = [event for event in sealed_events(tmp_path, "producer_start") if event["producer"] == "job/0"]
    assert [(event["epoch"], event["previous_epoch"]) for event in began] == [(0, None), (1, 0)]
    assert [event["epoch"] for event in sealed_events(tmp_path, "producer_lost")] == [0]
    assert items(tmp_path) & once("rank0") == once("rank0")
    sane(tmp_path)


def test_a_runtime_leaves_a_folder_that_is_taken_away(tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    training = start("waits", trail)
    assert training.stdout is not None
    training.stdout.readline()
    until(lambda: runtime_start.is_running(trail) and (trail / "objects" / "logs").exists())
    pid = int((trail / "spool" / ".lock").read_text())
    training.kill()
    training.communicate()
    trail.rename(tmp_path / "elsewhere")
    until(lambda: not Path(f"/proc/{pid}").exists())
