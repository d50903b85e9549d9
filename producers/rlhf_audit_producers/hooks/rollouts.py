"""Reward functions of GRPO and RLOO, recorded: one ``rollout`` event per completion, one reward per function.

A trainer calls its functions one after another on the same batch; the events
go out when the last one has answered; if one raises, when all that were asked
have, and that function's rewards are null. What a function
returns or raises reaches the trainer untouched. An answer that is no list of
numbers makes the batch's events lost. No person judges here: a rollout makes
no annotator claim.

A conversation is digested as canonical JSON.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence, Sized
from typing import Any

from rlhf_audit_producers.hooks.recording import Guard, Recording

RewardFunction = Callable[..., Any]


class RewardRound:
    """``functions``: the same in the same order, recorded. Reward models (not functions) are given back as they are."""

    def __init__(self, guard: Guard, functions: Sequence[RewardFunction]) -> None:
        self._guard = guard
        self._names = _distinct([_name(one) for one in functions if _is_function(one)])
        self._batch: tuple[Any, Any] | None = None  # also after it was recorded, to know it again
        self._is_open = self._has_failed = False
        self._step: int | None = None
        self._asked: list[int] = []
        self._answers: dict[int, list[float | None]] = {}
        numbers = iter(range(len(self._names)))
        self.functions = [_recorded(one, next(numbers), self) if _is_function(one) else one for one in functions]

    def begin(self, number: int, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Function ``number`` is asked about a batch."""
        with self._guard.observing():
            prompts, completions, state = _batch(args, kwargs)
            if self._batch is None or number in self._asked or self._batch[1] is not completions:
                self.finish()
                self._batch, self._step = (prompts, completions), getattr(state, "global_step", None)
                self._is_open, self._has_failed, self._asked, self._answers = True, False, [], {}
            self._asked.append(number)

    def answer(self, number: int, rewards: Any) -> None:
        """Function ``number`` has answered."""
        if not self._is_open:
            return
        self._is_open = False  # stays so if the answer cannot be read
        with self._guard.observing("rollout", self._rows):
            self._answers[number] = [None if one is None else float(one) for one in rewards]
            self._is_open = True
        self._finish_if_answered()

    def gave_none(self, number: int) -> None:
        """Function ``number`` has raised; those that were not asked yet will hardly be."""
        if self._is_open:
            self._answers[number] = [None] * self._rows
            self._has_failed = True
            self._finish_if_answered()

    def finish(self) -> None:
        """Record the batch with the rewards there are, if that is still to be done."""
        if not self._is_open or self._batch is None:
            return
        self._is_open = False
        with self._guard.observing("rollout", self._rows):
            prompts, completions = self._batch
            nothing = [None] * self._rows
            self._guard.log_rollouts(
                prompts=[_text(one) for one in prompts],
                completions=[_text(one) for one in completions],
                rewards={self._names[number]: self._answers.get(number, nothing) for number in sorted(self._asked)},
                step=self._step,
            )

    def _finish_if_answered(self) -> None:
        if len(self._answers) == len(self._asked if self._has_failed else self._names):
            self.finish()

    @property
    def _rows(self) -> int:
        completions = None if self._batch is None else self._batch[1]
        return len(completions) if isinstance(completions, Sized) else 1


def recorded_rewards(to: Recording | Guard, functions: Sequence[RewardFunction]) -> list[RewardFunction]:
    """The same functions, in the same order, recorded."""
    return RewardRound(to if isinstance(to, Guard) else Guard(to), functions).functions


def _recorded(function: RewardFunction, number: int, together: RewardRound) -> RewardFunction:
    if inspect.iscoroutinefunction(function):

        async def rewards_later(*args: Any, **kwargs: Any) -> Any:
            together.begin(number, args, kwargs)
            try:
                rewards = await function(*args, **kwargs)
            except BaseException:
                together.gave_none(number)
                raise
            together.answer(number, rewards)
            return rewards

        return _named(rewards_later, function)

    def rewards_now(*args: Any, **kwargs: Any) -> Any:
        together.begin(number, args, kwargs)
        try:
            rewards = function(*args, **kwargs)
        except BaseException:
            together.gave_none(number)
            raise
        together.answer(number, rewards)
        return rewards

    return _named(rewards_now, function)


def _batch(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    completions = kwargs.get("completions", args[1] if len(args) > 1 else ())
    prompts = kwargs.get("prompts", args[0] if args else [""] * len(completions))
    return prompts, completions, kwargs.get("trainer_state")


def _name(function: RewardFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _named(wrapped: RewardFunction, function: RewardFunction) -> RewardFunction:
    functools.update_wrapper(wrapped, function)
    wrapped.__name__ = _name(function)  # trainers log under it
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
