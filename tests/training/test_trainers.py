"""TRL's trainers, recorded: nothing changes for them, and everything is there afterwards."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training import tiny

tiny.need("torch", "transformers", "trl", "datasets")

from rlhf_audit_producers.hooks.gradient_stats import unpacked  # noqa: E402 - after the check above
from rlhf_audit_producers.hooks.run_recorder import ids_digest  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations of other people's libraries

STEPS = 4


def train(name: str, folder: Path, *, recorded: bool, **more: Any) -> tuple[Any, tiny.ListRecording]:
    """One training; recorded with everything switched on, or not at all."""
    from rlhf_audit_producers.hooks import AuditCallback, audited

    recording = tiny.ListRecording()
    callback = AuditCallback(recording, update_norm=True) if recorded else None
    trainer = tiny.make_trainer(name, folder, callback, wrap=audited if recorded else None, **more)
    trainer.train()
    return trainer, recording


@pytest.mark.parametrize("name", ["dpo", "sft", "grpo", "rloo"])
def test_the_same_seed_gives_the_same_training_bit_for_bit(name: str, model_folder: Path) -> None:
    alone, _ = train(name, model_folder, recorded=False)
    watched, recording = train(name, model_folder, recorded=True)
    assert tiny.numbers_of(watched) == tiny.numbers_of(alone)
    assert tiny.weights_of(watched) == tiny.weights_of(alone)
    assert recording.undecodable == []
    rollouts = {"rollout": STEPS * 4} if name in ("grpo", "rloo") else {}
    assert Counter(kind for kind, _ in recording.events) == {
        "run_start": 1,
        "tensor_table": 1,
        "gradient_stats": STEPS,
        "policy_update": STEPS,
        "checkpoint": 1,  # of the model it began from
        "run_end": 1,
        **rollouts,
    }
    end = recording.of("run_end")[0]
    assert (end["outcome"], end["steps"], end["missed"]) == ("finished", STEPS, 0)
    assert (end["policy_updates"], end["gradient_stats"]) == (STEPS, STEPS)
    assert end["rollouts"] == sum(rollouts.values())
    assert recording.of("run_start")[0]["algorithm"] == name


def test_updates_say_what_the_trainer_logged(model_folder: Path) -> None:
    trainer, recording = train("dpo", model_folder, recorded=True)
    updates = recording.of("policy_update")
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [one["step"] for one in updates] == [1, 2, 3, 4]
    for update, line in zip(updates, lines, strict=True):
        assert update["is_logged"]
        assert update["loss"] == update["local_loss"] == line["loss"]
        assert update["grad_norm"] == line["grad_norm"]
        assert update["learning_rate"] == line["learning_rate"]
        assert update["reward_margin"] == line["rewards/margins"]
        assert (
            dict(zip(update["metric_names"], update["metric_values"], strict=True))["logps/chosen"]
            == line["logps/chosen"]
        )
        assert update["update_norm"] > 0
        assert update["audit_us"] >= 0
        assert update["step_us"] > 0


def test_steps_that_are_not_logged_are_recorded_too(model_folder: Path) -> None:
    _, recording = train("dpo", model_folder, recorded=True, logging_steps=3)
    updates = recording.of("policy_update")
    assert [one["is_logged"] for one in updates] == [False, False, True, False]
    assert all(one["local_loss"] is not None for one in updates)
    assert all(one["clip_factor"] is not None for one in recording.of("gradient_stats"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_those_of_the_step_with_the_clipping_known(model_folder: Path, accumulation: int) -> None:
    trainer, recording = train("dpo", model_folder, recorded=True, gradient_accumulation_steps=accumulation)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for at, (event, line) in enumerate(zip(recording.of("gradient_stats"), lines, strict=True), 1):
        norm = math.sqrt(sum(one.squared_norm for one in unpacked(event)))
        assert event["step"] == at
        assert event["is_clipped"]
        assert norm == pytest.approx(0.25, rel=1e-4)  # max_grad_norm: they are looked at after clipping
        assert norm * event["clip_factor"] == pytest.approx(line["grad_norm"], rel=1e-5)
        assert event["total_norm"] == line["grad_norm"]


def test_a_trainer_that_does_not_clip_leaves_unknown_whether_somebody_else_does(model_folder: Path) -> None:
    trainer, recording = train("sft", model_folder, recorded=True, max_grad_norm=0.0)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for event, line in zip(recording.of("gradient_stats"), lines, strict=True):
        assert (event["is_clipped"], event["clip_factor"], event["max_grad_norm"]) == (None, None, None)
        assert event["total_norm"] == line["grad_norm"]
        assert math.sqrt(sum(one.squared_norm for one in unpacked(event))) == pytest.approx(line["grad_norm"], rel=1e-5)


def test_gradients_shorter_than_the_limit_are_known_not_to_be_clipped(model_folder: Path) -> None:
    _, recording = train("sft", model_folder, recorded=True, max_grad_norm=1e6)
    for event in recording.of("gradient_stats"):
        assert (event["is_clipped"], event["clip_factor"], event["max_grad_norm"]) == (False, 1.0, 1e6)


def test_every_row_of_an_epoch_is_named_once(model_folder: Path) -> None:
    _, recording = train("dpo", model_folder, recorded=True, max_steps=8)
    updates = recording.of("policy_update")
    used = [one for update in updates for one in update["annotation_ids"]]
    assert sorted(used) == sorted(f"judgement-{at}" for at in range(16))
    assert recording.of("run_start")[0]["lineage"] == "ids"
    for update in updates:
        assert update["annotation_count"] == 2
        assert update["annotation_ids_sha256"] == ids_digest(update["annotation_ids"])


def test_ids_may_stay_out_of_the_record_while_their_digest_is_in(model_folder: Path) -> None:
    from rlhf_audit_producers.hooks import AuditCallback, audited

    recording = tiny.ListRecording()
    tiny.make_trainer("dpo", model_folder, AuditCallback(recording, store_ids=False), wrap=audited).train()
    update = recording.of("policy_update")[0]
    assert update["annotation_ids"] == []
    assert (update["annotation_count"], len(update["annotation_ids_sha256"])) == (2, 32)


def test_packing_makes_lineage_unknown(model_folder: Path) -> None:
    _, recording = train("sft", model_folder, recorded=True, packing=True, max_length=32, max_steps=2)
    assert recording.of("run_start")[0]["lineage"] == "unknown"
    assert all(one["annotation_ids_sha256"] is None for one in recording.of("policy_update"))


def test_three_lines_are_enough(model_folder: Path) -> None:
    from rlhf_audit_producers.hooks import AuditCallback

    recording = tiny.ListRecording()
    tiny.make_trainer("dpo", model_folder, AuditCallback(recording)).train()
    assert all(one["local_loss"] is not None for one in recording.of("policy_update"))
    assert all(one["is_clipped"] for one in recording.of("gradient_stats"))
    start = recording.of("run_start")[0]
    assert (start["trainer"], start["lineage"], start["seed"]) == ("DPOTrainer", "unknown", 11)


def test_rollouts_hold_digests_and_a_reward_of_each_function(model_folder: Path) -> None:
    _, recording = train("grpo", model_folder, recorded=True)
    rollouts = recording.of("rollout")
    prompts = {hashlib.sha256(tiny.text(at).encode()).digest() for at in range(16)}
    assert {one["prompt_sha256"] for one in rollouts} <= prompts
    assert all(one["function_names"] == ["count_letters", "share_of_vowels"] for one in rollouts)
    assert [one["step"] for one in rollouts] == [step for step in range(STEPS) for _ in range(4)]
    assert all(rollouts[at]["rewards"][1] is None for at in range(0, len(rollouts), 4))
    assert all(one["prompt_text"] is None and one["completion_text"] is None for one in rollouts)
    updates = recording.of("policy_update")
    means = [sum(one["rewards"][0] for one in rollouts[at : at + 4]) / 4 for at in range(0, len(rollouts), 4)]
    named = [dict(zip(one["metric_names"], one["metric_values"], strict=True)) for one in updates]
    assert means == pytest.approx([one["rewards/count_letters/mean"] for one in named])


def test_checkpoints_hold_the_digest_of_every_file(model_folder: Path, tmp_path: Path) -> None:
    _, recording = train(
        "dpo", model_folder, recorded=True, save_strategy="steps", save_steps=2, output_dir=str(tmp_path)
    )
    first, second = (one for one in recording.of("checkpoint") if one["role"] == "saved")
    assert (first["step"], second["step"]) == (2, 4)
    assert second["parent_step"] == 2
    assert second["parent_files_sha256"] == first["files_sha256"]
    for event in (first, second):
        folder = tmp_path / event["name"]
        assert event["is_complete"]
        assert event["file_names"] == sorted(path.name for path in folder.iterdir())
        for name, digest in zip(event["file_names"], event["file_sha256"], strict=True):
            assert digest == hashlib.sha256((folder / name).read_bytes()).digest()
        assert event["tensor_count"] == 21
    assert first["tensor_root"] != second["tensor_root"]
