"""The examples run as a user runs them, and what they say they recorded is there, sealed and in SQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training import tiny

tiny.need("torch")

ROOT = Path(__file__).parents[2]
LIFECYCLE = {"run_start": 1, "run_end": 1, "tensor_table": 1, "producer_start": 1, "producer_end": 1}
DRAIN = ("-m", "rlhf_audit_trail", "local", "--until-idle")
BLOCKER = """
import sys
for name in ("transformers", "trl", "datasets", "accelerate", "chdb", "clickhouse_connect"):
    sys.modules[name] = None
"""


def run(*arguments: str, path: list[str] | None = None) -> str:
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([*(path or []), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + (done.stderr if "local" in arguments else "")


def drain(trail: Path, path: list[str] | None = None) -> None:
    """Until the runtime that the training started has ended, or this one did its work."""
    deadline = time.monotonic() + 60
    while "another runtime" in run(*DRAIN, str(trail), path=path):
        assert time.monotonic() < deadline, "the runtime of the example does not end"
        time.sleep(0.2)


def counts(trail: Path) -> dict[str, int]:
    """Rows by kind, once the runtime has drained."""
    drain(trail)
    question = "SELECT name, total_rows AS n FROM system.tables WHERE database = 'audit_restricted' AND total_rows > 0"
    answer = json.loads(run("-m", "rlhf_audit_trail", "sql", "--json", str(trail), question))
    return {row["name"]: int(row["n"]) for row in answer if row["name"] != "heartbeat"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", {"annotation": 8, "policy_update": 8, "gradient_stats": 8, "checkpoint": 3}),
        ("grpo", {"rollout": 24, "policy_update": 6, "gradient_stats": 6, "checkpoint": 1}),
        ("plain_pytorch", {"policy_update": 20, "gradient_stats": 20, "checkpoint": 1}),
    ],
)
def test_an_example_records_what_it_says(name: str, expected: dict[str, int], tmp_path: Path) -> None:
    tiny.need_now("chdb", "clickhouse_connect", *([] if name == "plain_pytorch" else ["trl", "datasets"]))
    assert "recorded as run" in run(str(ROOT / "examples" / f"{name}.py"), str(tmp_path))
    found = counts(tmp_path / "audit")
    assert {kind: n for kind, n in found.items() if not kind.startswith("_")}.items() >= (LIFECYCLE | expected).items()


def test_with_torch_alone_the_plain_loop_records_and_seals(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    blocked = [str(tmp_path)]
    run(str(ROOT / "examples" / "plain_pytorch.py"), str(tmp_path / "out"), path=blocked)
    drain(tmp_path / "out" / "audit", path=blocked)
    objects = tmp_path / "out" / "audit" / "objects" / "segments"
    assert {path.parent.parent.name for path in objects.rglob("*.avro")} == {"gradients", "lifecycle"}
