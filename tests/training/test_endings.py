"""How a training ends, and what our own failures do to it: nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from training import tiny

tiny.need("torch", "transformers", "trl", "datasets")

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations of other people's libraries


def callback(recording: Any, **options: Any) -> Any:
    from rlhf_audit_producers.hooks import AuditCallback

    return AuditCallback(recording, digest_model=False, **options)


def stopper(at_step: int, error: BaseException | None = None) -> Any:
    """A callback of somebody else that stops training, or raises."""
    from transformers import TrainerCallback

    class Stopper(TrainerCallback):  # type: ignore[misc] # transformers is not seen by mypy here
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == at_step:
                if error is not None:
                    raise error
                control.should_training_stop = True

    return Stopper()


def test_an_early_stop_is_recorded_as_one(model_folder: Path) -> None:
    recording = tiny.ListRecording()
    trainer = tiny.make_trainer("sft", model_folder, callback(recording))
    trainer.add_callback(stopper(2))
    trainer.train()
    end = recording.of("run_end")[0]
    assert (end["outcome"], end["reason"], end["steps"]) == ("stopped_early", "should_training_stop", 2)
    assert len(recording.of("policy_update")) == len(recording.of("gradient_stats")) == 2


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError("a prompt that must not leak"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_an_exception_passes_through_and_its_class_is_recorded(
    model_folder: Path, error: BaseException, outcome: str
) -> None:
    recording = tiny.ListRecording()
    trainer = tiny.make_trainer("sft", model_folder, callback(recording))
    trainer.add_callback(stopper(3, error))
    with pytest.raises(type(error)) as caught:
        trainer.train()
    assert caught.value is error
    end = recording.of("run_end")[0]
    assert (end["outcome"], end["error_type"], end["steps"]) == (outcome, type(error).__name__, 3)
    assert "leak" not in repr(recording.events)
    assert len(recording.of("policy_update")) == 3


def test_an_interrupted_training_gives_up_digests_that_take_long(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_audit_producers.hooks import AuditCallback, checkpoint_worker

    is_over = threading.Event()
    monkeypatch.setattr(checkpoint_worker, "digest_files", lambda files: is_over.wait(600))
    monkeypatch.setattr(checkpoint_worker, "_INTERRUPTED_DRAIN_S", 0.01)
    recording = tiny.ListRecording()
    trainer = tiny.make_trainer("sft", model_folder, AuditCallback(recording))
    trainer.add_callback(stopper(1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    is_over.set()
    assert recording.undecodable == ["checkpoint"]
    end = recording.of("run_end")[0]
    assert (end["outcome"], end["checkpoints"], end["missed"]) == ("interrupted", 0, 1)


def test_two_callbacks_on_one_trainer_record_the_same(model_folder: Path) -> None:
    first, second = tiny.ListRecording(), tiny.ListRecording()
    trainer = tiny.make_trainer("sft", model_folder, callback(first))
    trainer.add_callback(callback(second))
    trainer.train()
    for update, other in zip(first.of("policy_update"), second.of("policy_update"), strict=True):
        assert update["local_loss"] == other["local_loss"] == update["loss"]
    for stats, others in zip(first.of("gradient_stats"), second.of("gradient_stats"), strict=True):
        assert stats["clip_factor"] == others["clip_factor"] is not None


def test_a_training_after_one_that_failed_is_a_new_story(model_folder: Path) -> None:
    recording = tiny.ListRecording()
    audit = callback(recording)
    broken = tiny.make_trainer("sft", model_folder, audit)
    broken.add_callback(stopper(1, RuntimeError()))
    with pytest.raises(RuntimeError):
        broken.train()
    tiny.make_trainer("sft", model_folder, audit).train()
    assert [one["outcome"] for one in recording.of("run_end")] == ["failed", "finished"]
    assert [one["policy_updates"] for one in recording.of("run_end")] == [1, 4]
    assert [one["step"] for one in recording.of("gradient_stats")] == [1, 1, 2, 3, 4]


def test_a_run_that_resumes_names_its_parent(model_folder: Path, tmp_path: Path) -> None:
    more = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path)}
    tiny.make_trainer("sft", model_folder, callback(tiny.ListRecording("first")), **more).train()
    child, again = tiny.ListRecording("second"), tiny.ListRecording("first")
    for recording in (child, again):
        trainer = tiny.make_trainer("sft", model_folder, callback(recording), **more)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    start = child.of("run_start")[0]
    assert (start["parent_run_id"], start["resumed_from"], start["resumed_step"]) == ("first", "checkpoint-2", 2)
    assert [one["step"] for one in child.of("gradient_stats")] == [3, 4]
    saved = [one for one in child.of("checkpoint") if one["role"] == "saved"]
    assert (saved[0]["parent_run_id"], saved[0]["parent_step"]) == ("first", 2)
    assert again.of("run_start")[0]["parent_run_id"] is None  # a restart of the same run


def test_restoring_callbacks_from_a_checkpoint_keeps_the_one_that_records(model_folder: Path, tmp_path: Path) -> None:
    more = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path)}
    tiny.make_trainer("sft", model_folder, callback(tiny.ListRecording("first")), **more).train()
    recording = tiny.ListRecording("second")
    more["restore_callback_states_from_checkpoint"] = True
    trainer = tiny.make_trainer("sft", model_folder, callback(recording), **more)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [one["step"] for one in recording.of("policy_update")] == [3, 4]
    assert recording.of("run_end")[0]["outcome"] == "finished"


class Failing(tiny.ListRecording):
    """A trail whose own code is broken for some kinds of events."""

    def __init__(self, kinds: set[str], *, strict: bool = False) -> None:
        super().__init__()
        self.kinds, self.strict = kinds, strict
        self.tried: list[str] = []

    def record(self, kind: str, fields: Mapping[str, Any], /) -> None:
        self.tried.append(kind)
        if kind in self.kinds:
            raise RuntimeError("a text that must not be logged")
        super().record(kind, fields)


EVERYTHING = {"run_start", "tensor_table", "gradient_stats", "policy_update", "checkpoint", "run_end"}


def test_our_own_code_raising_everywhere_changes_no_training(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = tiny.make_trainer("dpo", model_folder)
    alone.train()
    recording = Failing(EVERYTHING)
    with caplog.at_level(logging.ERROR, "rlhf_audit_producers"):
        watched = tiny.make_trainer("dpo", model_folder, callback(recording))
        watched.train()
    assert tiny.numbers_of(watched) == tiny.numbers_of(alone)
    assert recording.events == []
    assert recording.undecodable.count("gradient_stats") == 4  # each is declared
    assert recording.undecodable.count("policy_update") == 4
    said = [one.getMessage() for one in caplog.records if one.name.startswith("rlhf_audit_producers")]
    assert len(said) == len(set(said)) <= len(EVERYTHING)  # each once, not once a step
    assert "must not be logged" not in caplog.text


def test_what_was_missed_is_counted_at_the_end(model_folder: Path) -> None:
    recording = Failing({"gradient_stats"})
    tiny.make_trainer("sft", model_folder, callback(recording)).train()
    end = recording.of("run_end")[0]
    assert (end["missed"], end["gradient_stats"], end["policy_updates"]) == (4, 0, 4)


def test_a_strict_trail_stops_the_training(model_folder: Path) -> None:
    recording = Failing({"gradient_stats"}, strict=True)
    trainer = tiny.make_trainer("sft", model_folder, callback(recording))
    with pytest.raises(RuntimeError):
        trainer.train()
    assert trainer.state.global_step <= 1


def test_a_callback_added_later_finds_its_trainer_too(model_folder: Path) -> None:
    recording = tiny.ListRecording()
    trainer = tiny.make_trainer("sft", model_folder)
    trainer.add_callback(callback(recording))
    trainer.train()
    assert all(one["local_loss"] is not None for one in recording.of("policy_update"))
    assert recording.of("run_start")[0]["trainer"] == "SFTTrainer"
