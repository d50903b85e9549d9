"""Reward functions of GRPO and RLOO, recorded: one ``rollout`` event per completion, one reward per function.

A trainer calls its functions one after another on the same batch; the events
go out when the last one has answered. What a function returns reaches the
trainer untouched, and what it raises too (the batch is then recorded with the
rewards there are). No person judges here: a rollout makes no annotator claim.

A conversation is digested as canonical JSON.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_audit_producers.hooks.recording import Guard, Recording

RewardFunction = Callable[..., Any]


class _Round:
    """The answers of all functions to one batch."""

    def __init__(self, guard: Guard, names: Sequence[str]) -> None:
        self._guard, self._names = guard, names
        self._batch: tuple[Any, Any] | None = None
        self._step: int | None = None
        self._answers: dict[int, list[float | None]] = {}

    def begin(self, number: int, prompts: Any, completions: Any, state: Any) -> None:
        """Function ``number`` is asked about a batch."""
        with self._guard.observing("rollout"):
            if self._batch is not None and (number in self._answers or self._batch[1] is not completions):
                self._emit()
            if self._batch is None:
                self._batch = (prompts, completions)
                self._step = getattr(state, "global_step", None)

    def answer(self, number: int, rewards: Any) -> None:
        """Function ``number`` has answered."""
        with self._guard.observing("rollout"):
            self._answers[number] = [None if one is None else float(one) for one in rewards]
            if len(self._answers) == len(self._names):
                self._emit()

    def _emit(self) -> None:
        batch, self._batch = self._batch, None
        answers, self._answers = self._answers, {}
        if batch is None or not answers:
            return
        self._guard.log_rollouts(
            prompts=[_text(one) for one in batch[0]],
            completions=[_text(one) for one in batch[1]],
            rewards={self._names[number]: answers[number] for number in sorted(answers)},
            step=self._step,
        )


def recorded_rewards(to: Recording | Guard, functions: Sequence[RewardFunction]) -> list[RewardFunction]:
    """The same functions, in the same order, recorded. Reward models (not functions) are given back as they are."""
    guard = to if isinstance(to, Guard) else Guard(to)
    plain = [one for one in functions if _is_function(one)]
    names = _distinct([getattr(one, "__name__", type(one).__name__) for one in plain])
    together = _Round(guard, names)
    numbers = {id(one): number for number, one in enumerate(plain)}
    return [_recorded(one, numbers[id(one)], together) if id(one) in numbers else one for one in functions]


def _recorded(function: RewardFunction, number: int, together: _Round) -> RewardFunction:
    name = getattr(function, "__name__", type(function).__name__)
    if inspect.iscoroutinefunction(function):

        async def rewards_later(*args: Any, **kwargs: Any) -> Any:
            together.begin(number, *_batch(args, kwargs))
            rewards = await function(*args, **kwargs)
            together.answer(number, rewards)
            return rewards

        return _named(rewards_later, function, name)

    def rewards_now(*args: Any, **kwargs: Any) -> Any:
        together.begin(number, *_batch(args, kwargs))
        rewards = function(*args, **kwargs)
        together.answer(number, rewards)
        return rewards

    return _named(rewards_now, function, name)


def _batch(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    completions = kwargs.get("completions", args[1] if len(args) > 1 else ())
    prompts = kwargs.get("prompts", args[0] if args else [""] * len(completions))
    return prompts, completions, kwargs.get("trainer_state")


def _named(wrapped: RewardFunction, function: RewardFunction, name: str) -> RewardFunction:
    functools.update_wrapper(wrapped, function)
    wrapped.__name__ = name  # trainers log under it
    return wrapped


def _is_function(one: Any) -> bool:
    return callable(one) and not hasattr(one, "parameters")  # a torch module has parameters


def _distinct(names: Sequence[str]) -> list[str]:
    """Two functions of one name get numbers, as columns must differ."""
    return [name if names.count(name) == 1 else f"{name}_{at}" for at, name in enumerate(names)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
