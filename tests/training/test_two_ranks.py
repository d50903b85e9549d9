"""Two ranks under torchrun (gloo, CPU): the same training, each rank's own events, replicas and shards told apart."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training import tiny

tiny.need("torch", "transformers", "trl", "datasets")

from rlhf_audit_producers.hooks.gradient_stats import unpacked  # noqa: E402 - after the check above

STEPS = 4
CHILD = Path(__file__).with_name("ranks_child.py")


def run_ranks(name: str, model: Path, output: Path) -> list[dict[str, Any]]:
    """What each of two ranks saw."""
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(CHILD), str(model),
         str(output), name],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [pickle.loads((output / f"{name}-{rank}").read_bytes()) for rank in range(2)]  # noqa: S301 - our own


def of(rank: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for name, event in rank["events"] if name == kind]


@pytest.mark.parametrize("name", ["dpo", "grpo", "sft"])
def test_two_ranks_train_the_same_and_record_each_their_own(name: str, model_folder: Path, tmp_path: Path) -> None:
    ranks = run_ranks(name, model_folder, tmp_path)
    for number, rank in enumerate(ranks):
        assert rank["watched"] == rank["alone"]  # losses and weights, bit for bit
        assert rank["undecodable"] == []
        assert {event["rank"] for _, event in rank["events"]} == {number}
        counts = Counter(kind for kind, _ in rank["events"])
        assert counts == {
            "run_start": 1,
            "tensor_table": 1,
            "gradient_stats": STEPS,
            "policy_update": STEPS,
            "run_end": 1,
            "checkpoint": 3 if number == 0 else 2,
            **({"rollout": STEPS * 4} if name == "grpo" else {}),
        }
        assert rank["durable"] == sum(counts.values())
        assert rank["lost"] == {}
        assert of(rank, "run_start")[0]["expected_ranks"] == [0, 1]
    starts = [of(rank, "run_start")[0] for rank in ranks]
    assert starts[0]["run_id"] == starts[1]["run_id"]
    assert starts[0]["model_parameters_sha256"] == starts[1]["model_parameters_sha256"] is not None
    # DDP gradients are replicas: every rank says the same, to the last bit
    columns = [
        [{k: v for k, v in one.items() if k not in ("salt", "ts_us", "rank")} for one in of(rank, "gradient_stats")]
        for rank in ranks
    ]
    assert columns[0] == columns[1]
    assert {one["placement"] for one in columns[0]} == {"replicate"}
    # but each rank trains on rows of its own
    for mine, theirs in zip(*(of(rank, "policy_update") for rank in ranks), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["loss"] == theirs["loss"]
        assert mine["annotation_ids_sha256"] is not None
        if name != "grpo":
            assert not set(mine["annotation_ids"]) & set(theirs["annotation_ids"])
    # each file of a checkpoint stands in exactly one rank's event
    for step in (2, 4):
        names = [
            one
            for rank in ranks
            for event in of(rank, "checkpoint")
            for one in event["file_names"]
            if event["step"] == step and event["role"] == "saved"
        ]
        folder = tmp_path / f"{name}-out" / f"checkpoint-{step}"
        assert sorted(names) == sorted(path.name for path in folder.iterdir())
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(names)


def test_shards_add_up_to_the_whole_and_say_that_they_are_shards(model_folder: Path, tmp_path: Path) -> None:
    ranks = run_ranks("fsdp", model_folder, tmp_path)
    stats = [unpacked(of(rank, "gradient_stats")[0]) for rank in ranks]
    for mine, theirs, whole in zip(*stats, ranks[0]["squares"], strict=True):
        assert mine.squared_norm + theirs.squared_norm == pytest.approx(whole, rel=1e-6)
    assert [one.element_count for one in stats[1]] == [14, 2, 0, 0]  # one row for two ranks: the second holds none
    table = of(ranks[1], "tensor_table")[0]
    assert set(table["placements"]) == {"shard"}
    assert table["global_counts"] == [35, 5, 5, 1]
    assert of(ranks[0], "gradient_stats")[0]["placement"] == "shard"


@pytest.mark.parametrize("name", ["fsdp1", "fsdp1-orig"])
def test_parts_of_flat_parameters_say_that_they_are_shards(name: str, model_folder: Path, tmp_path: Path) -> None:
    ranks = run_ranks(name, model_folder, tmp_path)
    events = [of(rank, "gradient_stats")[0] for rank in ranks]
    tables = [of(rank, "tensor_table")[0] for rank in ranks]
    assert {one["placement"] for one in events} == {"shard"}
    for table in tables:
        assert set(table["placements"]) == {"shard"}
        assert table["global_counts"] == ([35, 5, 5, 1] if name == "fsdp1-orig" else [46])
        assert table["shapes"] == (["5x7", "5", "1x5", "1"] if name == "fsdp1-orig" else ["46"])
    assert {one["coverage"] for one in events} == {"per_tensor" if name == "fsdp1-orig" else "flat_shard"}
    squares = [
        sum(unpacked(event)[at].squared_norm * event["clip_factor"] ** 2 for event in events)
        for at in range(len(unpacked(events[0])))
    ]
    expected = ranks[0]["squares"]
    assert squares == pytest.approx(expected if name == "fsdp1-orig" else [sum(expected)], rel=1e-5)
    assert events[0]["total_norm"] == pytest.approx(sum(expected) ** 0.5, rel=1e-6)
