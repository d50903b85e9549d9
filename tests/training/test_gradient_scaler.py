"""Steps under a gradient scaler: what is recorded is what the optimizer uses, and a skipped step is one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from training.tiny import ListRecording, need

need("torch")
import torch  # noqa: E402 - after the check that it is there

from rlhf_audit_producers.hooks.gradient_stats import unpacked  # noqa: E402
from rlhf_audit_producers.hooks.plain import watch  # noqa: E402

SKIPPED = 2  # the step whose loss is infinite


def train(*, device: str, fused: bool, clip: str = "", recorded: bool = True) -> tuple[ListRecording, list[Any]]:
    """Three steps with a scale that is no power of two; the events, and the weights at the end."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    recording = ListRecording()
    watcher = watch(model, optimizer, recording, update_norm=True) if recorded else None
    scaler = torch.amp.GradScaler(device, init_scale=1000.0, growth_interval=1)
    for step in range(1, 4):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4, device=device)).mean() * (math.inf if step == SKIPPED else 1.0)
        if watcher is not None:
            watcher.use_ids([f"row-{step}"])
        scaler.scale(loss).backward()
        if clip == "unscaled":
            scaler.unscale_(optimizer)
        if clip and watcher is not None:
            watcher.clip_grad_norm_(1.0)
        elif clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    if watcher is not None:
        watcher.close()
    return recording, [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_is_recorded_as_skipped_with_the_rows_it_was_tried_on(fused: bool, device: str) -> None:
    recording, _ = train(device=device, fused=fused)
    updates = recording.of("policy_update")
    assert [(one["step"], one["was_skipped"], one["annotation_ids"]) for one in updates] == [
        (1, False, ["row-1"]),
        (2, True, ["row-2"]),
        (3, False, ["row-3"]),
    ]
    assert [bool(one["update_norm"]) for one in updates] == [True, False, True]
    assert [one["step"] for one in recording.of("gradient_stats")] == [1, 3]
    assert recording.of("run_end")[0]["missed"] == 0


@pytest.mark.parametrize("fused", [False, True])
def test_statistics_are_of_the_gradients_without_the_scale(fused: bool, device: str) -> None:
    recording, _ = train(device=device, fused=fused)
    for event in recording.of("gradient_stats"):
        for one, count in zip(unpacked(event), (4, 1), strict=True):
            assert one.max_abs == pytest.approx(1.0, rel=1e-6)
            assert one.mean == pytest.approx(1.0, rel=1e-6)
            assert one.squared_norm == pytest.approx(count, rel=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_clipping_after_unscaling_gives_the_factor_also_after_a_skipped_step(fused: bool, device: str) -> None:
    recording, _ = train(device=device, fused=fused, clip="unscaled")
    events = recording.of("gradient_stats")
    assert [one["step"] for one in events] == [1, 3]
    for event in events:
        assert (event["is_clipped"], event["max_grad_norm"]) == (True, 1.0)
        assert event["total_norm"] == pytest.approx(math.sqrt(5))
        assert unpacked(event)[0].max_abs * event["clip_factor"] == pytest.approx(1.0)


@pytest.mark.parametrize("clip", ["", "unscaled", "scaled"])
@pytest.mark.parametrize("fused", [False, True])
def test_watching_changes_no_weight(fused: bool, clip: str, device: str) -> None:
    _, watched = train(device=device, fused=fused, clip=clip)
    _, alone = train(device=device, fused=fused, clip=clip, recorded=False)
    assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))


def test_clipping_scaled_gradients_is_told_in_the_units_of_the_others(device: str) -> None:
    recording, _ = train(device=device, fused=True, clip="scaled")
    event = recording.of("gradient_stats")[0]
    own = math.sqrt(sum(one.squared_norm for one in unpacked(event)))
    assert event["total_norm"] == pytest.approx(math.sqrt(5))
    assert own * event["clip_factor"] == pytest.approx(event["total_norm"], rel=1e-5)
    assert own == pytest.approx(event["max_grad_norm"], rel=1e-5)


def test_a_watch_that_has_ended_hears_of_no_skipped_step() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ListRecording()
    watch(model, optimizer, recording).close()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 2)).sum() * math.inf).backward()
    scaler.step(optimizer)
    assert recording.of("policy_update") == []
