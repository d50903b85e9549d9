"""Listening to a trainer: each callback hears of everything once, and the trainer notices nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_audit_producers.hooks.attachment import attach


class Accelerator:
    """What is wrapped of one."""

    def clip_grad_norm_(self, parameters: Any, max_norm: float, norm_type: float = 2) -> float:
        return 3.0


class Trainer:
    """What is wrapped of one."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()

    def train(self, error: BaseException | None = None) -> str:
        if error is not None:
            raise error
        return "trained"

    def training_step(self, model: Any) -> float:
        return 0.5


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def saw_loss(self, loss: Any) -> None:
        self.heard.append(loss)

    def saw_clipping(self, total_norm: Any, limit: float) -> None:
        self.heard.append((total_norm, limit))

    def saw_exception(self, error: BaseException) -> None:
        self.heard.append(error)


def test_two_listeners_that_attach_twice_hear_everything_once() -> None:
    trainer, listeners = Trainer(), [Listener(), Listener()]
    for _ in range(2):
        for listener in listeners:
            attach(trainer, listener)
    error = KeyboardInterrupt()
    assert trainer.training_step(None) == 0.5
    assert trainer.accelerator.clip_grad_norm_([], 1.0) == 3.0
    assert trainer.train() == "trained"
    with pytest.raises(KeyboardInterrupt):
        trainer.train(error)
    assert [one.heard for one in listeners] == [[0.5, (3.0, 1.0), error]] * 2


def test_a_method_that_somebody_wraps_in_between_is_not_wrapped_again() -> None:
    trainer, listener = Trainer(), Listener()
    attach(trainer, listener)
    ours = trainer.training_step
    trainer.training_step = lambda model: ours(model)  # type: ignore[method-assign] # as other libraries do
    attach(trainer, listener)
    trainer.training_step(None)
    assert listener.heard == [0.5]


def test_a_new_accelerator_is_listened_to_as_well() -> None:
    trainer, listener = Trainer(), Listener()
    attach(trainer, listener)
    trainer.accelerator = Accelerator()
    attach(trainer, listener)
    trainer.accelerator.clip_grad_norm_([], 2.0)
    assert listener.heard == [(3.0, 2.0)]
