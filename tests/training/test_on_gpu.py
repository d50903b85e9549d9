"""What only a GPU shows: its kernel, that nothing waits for it, and that a recorded training is the same there.

Skipped aloud where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from training import tiny
from training.tiny import ListRecording, need, need_now

need("torch")
import torch  # noqa: E402 - after the check that it is there

if not torch.cuda.is_available():
    pytest.skip("this machine has no GPU", allow_module_level=True)

from rlhf_audit_producers.hooks import device_stats  # noqa: E402
from rlhf_audit_producers.hooks.gradient_stats import ask, statistics, unpacked  # noqa: E402
from rlhf_audit_producers.hooks.plain import watch  # noqa: E402
from training.gradient_cases import by_the_book, cases, check  # noqa: E402

GPU = "cuda"
STEPS = 6
LIMIT = 0.5


pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")


@contextmanager
def no_waiting(is_on: bool = True) -> Iterator[None]:
    """Torch raises where anything waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error" if is_on else "default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_kernel_gives_the_numbers_of_the_definition() -> None:
    gradients = cases(GPU)
    check(statistics(gradients), gradients)
    check(statistics(gradients[::-1]), gradients[::-1])
    for gradient in gradients:
        check(statistics([gradient]), [gradient])
    assert device_stats._given_up == []


def test_torch_operations_give_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_stats, "_given_up", ["as without a compiler"])
    check(statistics(cases(GPU)), cases(GPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_of_many_blocks_gives_the_very_same_numbers_each_time(dtype: Any) -> None:
    gradient = torch.randn(40_000_003, device=GPU).to(dtype)
    first = statistics([gradient])
    check(first, [gradient])
    assert all(statistics([gradient.clone()]) == first for _ in range(3))


def test_asking_waits_for_nothing_and_what_happens_afterwards_does_not_matter() -> None:
    gradients = [one for one in cases(GPU) if one is not None and one.numel()]
    expected = [one.clone() for one in gradients]
    statistics(gradients)  # compiles
    torch.cuda.synchronize()
    with no_waiting():
        asked = ask(gradients)
        for one in gradients:
            one.zero_()
    check(asked.read(), expected)


def train(*, recorded: bool, waiting: bool = True) -> tuple[ListRecording, list[Any], list[list[Any]]]:
    """Steps of a small model on the GPU; the events, the weights, and what each step's gradients were by definition."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(300, 700), torch.nn.GELU(), torch.nn.Linear(700, 5)).to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    batch = torch.randn(64, 300, device=GPU)
    recording = ListRecording()
    watcher = watch(model, optimizer, recording, digest_model=False) if recorded else None
    definitions = []
    for step in range(STEPS):
        torch.cuda.synchronize()
        with no_waiting(not waiting and step > 1):
            optimizer.zero_grad()
            loss = model(batch).pow(2).mean() * 10
            loss.backward()
            if watcher is None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), LIMIT)
            else:
                watcher.clip_grad_norm_(LIMIT)
            if waiting:
                definitions.append([by_the_book(one.grad) for one in model.parameters()])
            optimizer.step()
            if watcher is not None:
                watcher.log(loss=loss, kl=loss.detach() / 2)
    if watcher is not None:
        watcher.close()
    return recording, [one.detach().clone() for one in model.parameters()], definitions


def test_a_recorded_training_is_the_same_and_its_statistics_are_those_of_each_step() -> None:
    _, alone, _ = train(recorded=False)
    recording, weights, definitions = train(recorded=True)
    assert all(torch.equal(one, other) for one, other in zip(weights, alone, strict=True))
    events = recording.of("gradient_stats")
    assert [one["step"] for one in events] == list(range(1, STEPS + 1))
    for event, expected in zip(events, definitions, strict=True):
        for one, other in zip(unpacked(event), expected, strict=True):
            assert one.squared_norm == pytest.approx(other.squared_norm, rel=1e-9)
            assert one.max_abs == other.max_abs
        own = math.sqrt(sum(one.squared_norm for one in expected))
        assert own * event["clip_factor"] == pytest.approx(event["total_norm"], rel=1e-5)
    updates = recording.of("policy_update")
    assert all(one["loss"] == pytest.approx(2 * one["kl"]) for one in updates)
    assert recording.of("run_end")[0]["missed"] == 0


def test_a_recorded_step_never_waits_for_the_gpu() -> None:
    recording, _, _ = train(recorded=True, waiting=False)
    assert recording.of("run_end")[0]["missed"] == 0
    assert [len(recording.of(kind)) for kind in ("gradient_stats", "policy_update")] == [STEPS, STEPS]


def test_a_training_on_a_stream_of_its_own_is_recorded_the_same() -> None:
    expected, _, _ = train(recorded=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        found, _, _ = train(recorded=True)
    for one, other in zip(found.of("gradient_stats"), expected.of("gradient_stats"), strict=True):
        assert one["squared_norm_f64le"] == other["squared_norm_f64le"]


def test_a_step_captured_into_a_graph_goes_on_and_is_declared_lost() -> None:
    model = torch.nn.Linear(4, 1).to(GPU)
    optimizer = torch.optim.AdamW(model.parameters(), capturable=True, fused=True)
    batch = torch.ones(2, 4, device=GPU)
    recording = ListRecording()

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        model(batch).sum().backward()
        optimizer.step()

    with watch(model, optimizer, recording, digest_model=False):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        before = model.weight.detach().clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graph.replay()
        torch.cuda.synchronize()
    assert not torch.equal(model.weight, before)
    assert len(recording.of("gradient_stats")) == 3
    assert recording.undecodable == ["gradient_stats"]
    assert recording.of("run_end")[0]["missed"] == 1


@pytest.mark.filterwarnings("ignore")  # deprecations of other people's libraries
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_a_trainer_of_trl_on_the_gpu_gives_the_same_bits_and_every_event(name: str, model_folder: Path) -> None:
    need_now("trl", "datasets")
    from rlhf_audit_producers.hooks import AuditCallback, audited

    def run(callback: Any) -> Any:
        trainer = tiny.make_trainer(
            name, model_folder, callback, wrap=None if callback is None else audited, use_cpu=False
        )
        trainer.train()
        assert next(trainer.model.parameters()).device.type == GPU
        return trainer

    recording = ListRecording()
    alone, watched = run(None), run(AuditCallback(recording, update_norm=True))
    assert tiny.numbers_of(watched) == tiny.numbers_of(alone)
    assert all(
        torch.equal(one, other) for one, other in zip(watched.model.parameters(), alone.model.parameters(), strict=True)
    )
    lines = [line for line in watched.state.log_history if "loss" in line]
    events = recording.of("gradient_stats")
    assert len(events) == len(recording.of("policy_update")) == len(lines) == 4
    for event, line in zip(events, lines, strict=True):
        norm = math.sqrt(sum(one.squared_norm for one in unpacked(event)))
        assert norm * event["clip_factor"] == pytest.approx(line["grad_norm"], rel=1e-4)
    assert recording.of("run_end")[0]["missed"] == 0
