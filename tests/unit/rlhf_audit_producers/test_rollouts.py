"""Reward functions, recorded: one event per completion whatever they answer, and the trainer gets just that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from rlhf_audit_producers.hooks.recording import Guard
from rlhf_audit_producers.hooks.rollouts import RewardRound, recorded_rewards
from training.tiny import ListRecording

PROMPTS = ["p"] * 4


def good(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def bad(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    raise ValueError("the judge is down")


def odd(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[Any]:
    return [object()] * len(completions)


async def slow(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    await asyncio.sleep(0)
    return [2.0] * len(completions)


async def down(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    raise ValueError("the judge is down")


def ask(functions: Sequence[Any], completions: list[str]) -> list[Any]:
    """As a trainer does."""
    return [one(prompts=PROMPTS, completions=completions) for one in functions]


def said(recording: ListRecording) -> list[tuple[list[str], list[float | None]]]:
    return [(one["function_names"], one["rewards"]) for one in recording.of("rollout")]


def test_a_function_that_raises_has_its_batch_recorded_at_once() -> None:
    recording = ListRecording()
    functions = recorded_rewards(recording, [good, bad])
    with pytest.raises(ValueError, match="judge"):
        ask(functions, ["c"] * 4)
    assert said(recording) == [(["good", "bad"], [1.0, None])] * 4
    assert recording.undecodable == []


def test_a_trainer_that_asks_on_after_an_exception_gets_no_second_events_of_the_batch() -> None:
    recording = ListRecording()
    first, second, third = recorded_rewards(recording, [good, bad, good])
    completions = ["c"] * 4
    first(prompts=PROMPTS, completions=completions)
    with pytest.raises(ValueError, match="judge"):
        second(prompts=PROMPTS, completions=completions)
    third(prompts=PROMPTS, completions=completions)
    assert said(recording) == [(["good_0", "bad"], [1.0, None])] * 4


def test_an_answer_that_cannot_be_read_is_declared_row_by_row_and_given_back() -> None:
    recording = ListRecording()
    functions = recorded_rewards(recording, [good, odd, good])
    answers = ask(functions, ["c"] * 4)
    assert [type(one) for one in answers[1]] == [object] * 4
    assert recording.of("rollout") == []
    assert recording.undecodable == ["rollout"] * 4
    ask([functions[0]], ["d"] * 4)  # the next batch is another story
    assert recording.undecodable == ["rollout"] * 4


def test_too_few_rewards_lose_the_batch_and_say_so() -> None:
    recording = ListRecording()
    (short,) = recorded_rewards(recording, [lambda completions, **_: [1.0]])
    assert short(prompts=PROMPTS, completions=["c"] * 4) == [1.0]
    assert recording.of("rollout") == []
    assert recording.undecodable == ["rollout"] * 4


def test_the_same_function_twice_is_two_columns_of_one_event() -> None:
    recording = ListRecording()
    functions = recorded_rewards(recording, [good, good])
    for _ in range(3):
        ask(functions, ["c"] * 4)
    assert said(recording) == [(["good_0", "good_1"], [1.0, 1.0])] * 12


def test_a_batch_that_not_every_function_was_asked_about_is_recorded_in_the_end() -> None:
    recording = ListRecording()
    together = RewardRound(Guard(recording), [good, good])
    ask(together.functions[:1], ["c"] * 4)
    assert recording.of("rollout") == []
    for _ in range(2):
        together.finish()
    assert said(recording) == [(["good_0"], [1.0])] * 4


def test_functions_that_are_awaited_together_make_one_event() -> None:
    recording = ListRecording()
    functions = recorded_rewards(recording, [slow, down])

    async def together() -> list[Any]:
        completions = ["c"] * 4
        calls = [one(prompts=PROMPTS, completions=completions) for one in functions]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert asyncio.run(together())[0] == [2.0] * 4
    assert said(recording) == [(["slow", "down"], [2.0, None])] * 4


def test_arguments_that_nobody_foresaw_reach_the_function_all_the_same() -> None:
    (function,) = recorded_rewards(ListRecording(), [lambda *, completions: completions])
    assert function(completions=7) == 7
