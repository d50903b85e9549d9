"""Checkpoints on a thread of their own: each is recorded, or declared as lost, and never both."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_producers.hooks import checkpoint_files, checkpoint_worker
from rlhf_audit_producers.hooks.checkpoint_worker import CheckpointWorker, patience_s
from rlhf_audit_producers.hooks.recording import Guard
from training.tiny import ListRecording

PATIENCE_S = 30.0


class Strict(ListRecording):
    """A trail that stops the training instead of losing something."""

    strict = True


def worker_of(guard: Guard) -> CheckpointWorker:
    failed = functools.partial(guard.failed_elsewhere, "checkpoint")
    return CheckpointWorker(guard.record, rank=0, failed=failed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_bytes(b"weights")
    return tmp_path


def break_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(files: Sequence[Any]) -> None:
        raise MemoryError

    monkeypatch.setattr(checkpoint_worker, "digest_files", broken)


def test_a_checkpoint_that_cannot_be_digested_is_declared_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = ListRecording()
    guard = Guard(recording)
    worker = worker_of(guard)
    break_digests(monkeypatch)
    worker.submit(folder, step=1, saves=True)
    assert not worker.drain(PATIENCE_S)
    assert (recording.events, recording.undecodable, guard.missed) == ([], ["checkpoint"], 1)


def test_a_strict_trail_says_so_on_the_thread_that_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Strict()
    guard = Guard(recording)
    worker = worker_of(guard)
    break_digests(monkeypatch)
    worker.submit(folder, step=1, saves=True)
    worker.drain(PATIENCE_S)
    with pytest.raises(MemoryError), guard.observing("policy_update"):
        pass
    with guard.observing("policy_update"):
        pass  # it is said once
    assert recording.undecodable == ["checkpoint"]


def test_what_is_given_up_is_declared_and_not_recorded_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = ListRecording()
    worker = worker_of(Guard(recording))
    may_go_on, real = threading.Event(), checkpoint_files.digest_files

    def slow(files: Sequence[Any]) -> Any:
        may_go_on.wait(PATIENCE_S)
        return real(files)

    monkeypatch.setattr(checkpoint_worker, "digest_files", slow)
    for step in (1, 2):
        worker.submit(folder, step=step, saves=True)
    worker.give_up(0.0)
    assert recording.undecodable == ["checkpoint"] * 2
    may_go_on.set()
    worker.submit(folder, step=3, saves=True)
    worker.give_up(PATIENCE_S)
    assert [(one["step"], one["parent_step"]) for one in recording.of("checkpoint")] == [(3, None)]
    assert recording.undecodable == ["checkpoint"] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_training_does_not_wait_long(error: BaseException) -> None:
    assert patience_s(error) <= 30
    assert patience_s(ValueError()) == patience_s(None) == 600
