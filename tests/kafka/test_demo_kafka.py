"""``rlhf-audit demo --kafka`` as a person runs it: a training over three brokers, and nothing left running after it.

Needs both the training libraries and Kafka: runs where the trainings do.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.kafka_jars import KafkaUnavailableError, jars, java
from training.tiny import need_now

TRAINING = ("torch", "transformers", "trl", "datasets", "accelerate", "chdb", "clickhouse_connect")
DEMO_S, WAIT_S = 400, 90.0  # the demo takes 90 s on two idle cores
STEPS = 16
# Whoever runs the tests in the background of a shell ignores SIGINT, and so would the demo.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from rlhf_audit_trail.cli import main; raise SystemExit(main())"
)


@pytest.fixture(autouse=True)
def _kafka_is_here() -> None:
    try:
        java()
        jars()
    except KafkaUnavailableError as error:
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail(str(error))
        pytest.skip(f"NO KAFKA HERE: {error}")


def environment(home: Path, *path: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, path), *sys.path]),
        "RLHF_AUDIT_STATE": str(home / "state"),
    }


def audit(home: Path, *words: str | Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlhf_audit_trail", *map(str, words)],
        env=environment(home, *path), cwd=home, capture_output=True, text=True, timeout=DEMO_S, check=False,
    )  # fmt: skip


@contextmanager
def begun(home: Path, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A demo in a session of its own; what it says is in ``said``."""
    with (home / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, words)],
            env=environment(home), cwd=home, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def survivors(out: Path) -> dict[int, str]:
    """Processes whose command names anything in ``out``."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if str(out) in words:
                found[int(folder.name)] = words
    return found


def wait_until(is_so: Callable[[], bool], said: Path | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail("too late" if said is None else said.read_text(encoding="utf-8")[-3000:])
        time.sleep(0.1)


def workers(out: Path) -> set[str]:
    """Which of our parts run for this demo."""
    parts = ("kafka.Kafka", "ship", "seal", "sink objects", "sink clickhouse", "sequence", "torch.distributed.run")
    words = survivors(out).values()
    return {part for part in parts if any(f" {part} " in line for line in words)}


def test_the_demo_trains_over_three_brokers_and_verifies(tmp_path: Path) -> None:
    need_now(*TRAINING)
    out = tmp_path / "demo"
    done = audit(tmp_path, "demo", "--kafka", "--out", out, "--steps", str(STEPS))
    text = done.stdout
    assert done.returncode == 0, text[-3000:] + done.stderr[-3000:]
    assert survivors(out) == {}
    assert text.count("  alike") == 6
    assert "NOT ALIKE" not in text
    counted = re.search(r"optimizer steps +(\d+)  policy_update +(\d+)  alike", text)
    assert counted
    assert [int(count) for count in counted.groups()] == [2 * STEPS, 2 * STEPS]
    assert re.search(r"annotation +1680\n", text)
    assert re.search(r"fault +2\n", text)
    assert re.search(r"at work +ship, 2? ?seal, sequence, sink clickhouse", text)
    assert "the workers have ended in that order" in text
    assert "had to be started again" not in text
    assert text.count("as it should") == 8
    assert re.search(r"audit \d+\.\d % of step time, \d+\.\d MiB on disk, 2/2 ranks complete, 0 lost", text)
    assert (out / "report.html").exists()

    trail, kept = out / "trail", out / "kept-elsewhere"
    verified = audit(tmp_path, "verify", trail, "--key", kept / "log.vkey", "--expect", kept / "checkpoint", "--json")
    assert verified.returncode == 0, verified.stdout
    (run,) = [each for each in json.loads(audit(tmp_path, "runs", trail, "--json").stdout) if each["kind"] == "run"]
    assert (run["state"], run["ranks_seen"], run["ranks_missing"], run["step"]) == ("finished", [0, 1], [], STEPS)
    status = json.loads(audit(tmp_path, "status", trail, "--json").stdout)
    assert status["workers"] == {"ship": 0, "seal": 0, "sequence": 0, "sink clickhouse": 0}
    assert status["spool_bytes"] == 0
    assert "policy_update" in audit(tmp_path, "tail", trail, "--no-follow", "-n", "50").stdout
    refused = audit(tmp_path, "local", trail)
    assert (refused.returncode, "rlhf-audit ship" in refused.stderr) == (2, True)


def test_ctrl_c_in_the_training_leaves_nothing_running(tmp_path: Path) -> None:
    need_now(*TRAINING)
    out = tmp_path / "demo"
    with begun(tmp_path, "demo", "--kafka", "--out", out, "--steps", "60") as demo:
        ranks = out / "trail" / "spool" / "producers"
        wait_until(lambda: ranks.exists() and any(ranks.iterdir()), tmp_path / "said")
        assert workers(out) >= {"kafka.Kafka", "ship", "seal", "sink objects", "sequence", "torch.distributed.run"}
        demo.send_signal(signal.SIGINT)
        assert demo.wait(WAIT_S) == 130, (tmp_path / "said").read_text(encoding="utf-8")[-2000:]
        wait_until(lambda: survivors(out) == {})


def test_a_demo_that_is_killed_leaves_nothing_running(tmp_path: Path, kafka: KafkaCluster) -> None:
    out = tmp_path / "demo"
    with begun(tmp_path, "demo", "--brokers", kafka.bootstrap, "--feedback-only", "--out", out) as demo:
        wait_until(lambda: workers(out) >= {"ship", "seal", "sink objects", "sequence"}, tmp_path / "said")
        demo.kill()
        demo.wait()
        wait_until(lambda: survivors(out) == {})


def test_a_training_that_fails_leaves_nothing_running(tmp_path: Path, kafka: KafkaCluster) -> None:
    need_now(*TRAINING)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import os, sys\nif 'RANK' in os.environ:\n    sys.modules['trl'] = None\n", encoding="utf-8"
    )
    out = tmp_path / "demo"
    words = ("demo", "--brokers", kafka.bootstrap, "--out", out, "--steps", "2")
    done = audit(tmp_path, *words, path=(tmp_path / "broken",))
    assert done.returncode == 3
    assert "the training ended with status 1" in done.stderr
    assert survivors(out) == {}
    prefix = re.search(r'topic_prefix = "(demo-[0-9a-f]{6}\.)"', done.stdout)
    assert prefix, "topics of two demos on one cluster must not be the same"
    assert f"created  {prefix[1]}audit.lifecycle" in done.stdout
