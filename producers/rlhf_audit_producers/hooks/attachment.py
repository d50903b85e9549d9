"""Finds the trainer that calls a callback, and listens where callbacks are told nothing.

transformers tells a callback neither the loss of a step, nor what clipping
found, nor that training raised. Three bound methods of the trainer are
wrapped on that one instance: ``train``, ``training_step`` and its accelerator's
``clip_grad_norm_``. Each is wrapped once, however many callbacks listen: the
wrapper calls the original with the very arguments, looks at what came back,
tells everyone, and returns it.

The trainer is found among the callers of ``on_init_end`` (or of
``on_train_begin``, for a callback added later), because nothing hands it over.
If it is not found, training goes on as well: the loss is then known at
logging steps, an exception when the process ends.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

_MAX_FRAMES = 16
_CALLERS = frozenset({"__init__", "train", "_inner_training_loop"})
_LISTENERS = "_rlhf_audit_listeners"  # of a trainer or accelerator: who listens, by the method


class TrainerListener(Protocol):
    """What an attached callback is told; none of these may raise."""

    def saw_loss(self, loss: Any) -> None:
        """One micro-batch has been trained on."""

    def saw_clipping(self, total_norm: Any, limit: float) -> None:
        """Gradients are complete and clipped to ``limit`` (infinite: not clipped)."""

    def saw_exception(self, error: BaseException) -> None:
        """``train`` is about to raise this."""


def calling_trainer(trainer_class: type) -> Any | None:
    """The trainer among the callers of the caller, or None."""
    frame = sys._getframe(2)
    for _ in range(_MAX_FRAMES):
        if frame.f_code.co_name in _CALLERS:
            owner = frame.f_locals.get("self")
            if isinstance(owner, trainer_class):
                return owner
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def attach(trainer: Any, listener: TrainerListener) -> None:
    """Let ``listener`` hear of what ``trainer`` does. Doing so again changes nothing."""
    _wrap(trainer, "train", listener, _reporting_exceptions)
    _wrap(trainer, "training_step", listener, _reporting_losses)
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is not None:
        _wrap(accelerator, "clip_grad_norm_", listener, _reporting_clipping)


Wrapper = Callable[[Callable[..., Any], Sequence[TrainerListener]], Callable[..., Any]]


def _wrap(owner: Any, name: str, listener: TrainerListener, wrapper: Wrapper) -> None:
    by_method: dict[str, list[TrainerListener]] = vars(owner).setdefault(_LISTENERS, {})
    listeners = by_method.get(name)
    if listeners is None:
        listeners = by_method[name] = []
        original = getattr(owner, name)
        setattr(owner, name, functools.wraps(original)(wrapper(original, listeners)))
    if all(one is not listener for one in listeners):
        listeners.append(listener)


def _reporting_exceptions(original: Callable[..., Any], listeners: Sequence[TrainerListener]) -> Callable[..., Any]:
    def train(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            for listener in listeners:
                listener.saw_exception(error)
            raise

    return train


def _reporting_losses(original: Callable[..., Any], listeners: Sequence[TrainerListener]) -> Callable[..., Any]:
    def training_step(*args: Any, **kwargs: Any) -> Any:
        loss = original(*args, **kwargs)
        for listener in listeners:
            listener.saw_loss(loss)
        return loss

    return training_step


def _reporting_clipping(original: Callable[..., Any], listeners: Sequence[TrainerListener]) -> Callable[..., Any]:
    def clip_grad_norm_(parameters: Any, max_norm: Any, norm_type: Any = 2) -> Any:
        total = original(parameters, max_norm, norm_type)
        if float(norm_type) == 2.0:
            for listener in listeners:
                listener.saw_clipping(total, float(max_norm))
        return total

    return clip_grad_norm_
