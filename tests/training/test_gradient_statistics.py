"""Five statistics per tensor against the definition in float64, and what clipping and placement do to them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_audit_producers.hooks import device_stats
from rlhf_audit_producers.hooks.gradient_stats import (
    BLOCK,
    EMPTY,
    TensorStats,
    ask,
    packed,
    statistics,
    unpacked,
)
from training.tiny import ListRecording, need, need_now

need("torch")
import torch  # noqa: E402 - after the check that it is there

from rlhf_audit_producers.hooks.later import Later  # noqa: E402
from rlhf_audit_producers.hooks.plain import watch  # noqa: E402
from rlhf_audit_producers.hooks.tensor_table import build_table, layer_of  # noqa: E402
from training.gradient_cases import agree, by_the_book, cases, check  # noqa: E402


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**99), max_value=2.0**99),
        min_size=1,
        max_size=70,
    )
)
def test_any_finite_gradient_gives_the_numbers_of_the_definition(values: list[float]) -> None:
    gradient = torch.tensor(values, dtype=torch.float32)
    agree(statistics([gradient])[0], by_the_book(gradient), float(gradient.abs().max()))


@pytest.mark.parametrize("shape", [(), (1,), (BLOCK,), (BLOCK + 1,), (3 * BLOCK - 5,), (700, 513), (3, 5, 7, 2)])
def test_every_shape_gives_the_numbers_of_the_definition(shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.01
    if gradient.ndim:
        gradient[gradient.abs() < 0.004] = 0
    agree(statistics([gradient])[0], by_the_book(gradient), 0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_added_up_in_float32_or_better(dtype: Any) -> None:
    gradient = (torch.randn(300_000, generator=torch.Generator().manual_seed(4)) * 300).to(dtype)
    agree(statistics([gradient])[0], by_the_book(gradient), 300)


def test_every_kind_of_gradient_gives_the_numbers_of_the_definition() -> None:
    check(statistics(cases("cpu")), cases("cpu"))


def test_transposed_and_strided_gradients_are_read_in_place() -> None:
    base = torch.randn(64, 48, generator=torch.Generator().manual_seed(5))
    for view in (base.t(), base[::2], base[:, 3:9]):
        agree(statistics([view])[0], by_the_book(view), 1.0)


def test_non_finite_elements_are_counted_and_nothing_else_is_invented() -> None:
    gradient = torch.ones(200_000)
    gradient[7], gradient[8], gradient[150_000] = math.nan, math.inf, -math.inf
    found = statistics([gradient])[0]
    assert found.non_finite == 3
    assert math.isnan(found.max_abs)
    assert math.isnan(found.squared_norm)
    gradient[7] = 1.0
    assert statistics([gradient])[0].max_abs == math.inf


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_squares_that_float32_cannot_hold_are_made_in_float64(size: float) -> None:
    gradient = torch.full((10,), size)
    agree(statistics([gradient])[0], by_the_book(gradient), size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_very_numbers_of_the_same_values_in_float32(dtype: Any) -> None:
    gradient = (torch.randn(3 * BLOCK - 5, generator=torch.Generator().manual_seed(8)) * 30).to(dtype)
    assert statistics([gradient]) == statistics([gradient.float()])
    gradient[7], gradient[BLOCK] = math.inf, -math.inf
    narrow, wide = statistics([gradient])[0], statistics([gradient.float()])[0]
    assert narrow._replace(mean=0.0) == wide._replace(mean=0.0)
    assert math.isnan(narrow.mean)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Main memory passes for a device: the operations are the same, their place is another. Counts answers read."""
    waits: list[int] = []
    real = Later.read

    def read(later: Later) -> Any:
        waits.append(1)
        return real(later)

    monkeypatch.setattr("rlhf_audit_producers.hooks.gradient_stats._MAIN_MEMORY", "elsewhere")
    monkeypatch.setattr(Later, "read", read)
    return waits


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever would wait for a device raises."""

    def waits(tensor: Any, *args: Any) -> Any:
        raise AssertionError("a device would have been waited for")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "item", "numpy", "cpu", "__float__", "__int__", "__bool__", "__array__"):
            patch.setattr(torch.Tensor, name, waits)
        yield


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_way_for_other_devices_gives_the_same_numbers(dtype: Any, elsewhere: list[int]) -> None:
    gradient = torch.randn(200_000, generator=torch.Generator().manual_seed(6)).to(dtype)
    gradient[gradient.abs() < 0.3] = 0
    agree(statistics([gradient])[0], by_the_book(gradient), 1.0)
    gradient[3], gradient[4] = math.nan, math.inf
    assert statistics([gradient])[0].non_finite == 2


def test_torch_operations_on_a_device_give_the_numbers_of_the_definition(elsewhere: list[int]) -> None:
    check(statistics(cases("cpu")), cases("cpu"))


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_a_device_is_asked_without_a_wait_and_answers_once_for_all_gradients(elsewhere: list[int]) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 3, 3]]), torch.tensor([2.0, 1.0, 1.0]), (10,))
    with no_waiting():
        asked = ask([torch.tensor([3.0, -4.0]), None, sparse, torch.zeros(0, 5), torch.zeros(4).half()])
    found = asked.read()
    expected = [(25.0, 4.0, -0.5, 0.0, 0, 2), EMPTY, (8.0, 2.0, 0.4, 0.8, 0, 10), EMPTY, (0.0, 0.0, 0.0, 1.0, 0, 4)]
    assert [tuple(one) for one in found] == [pytest.approx(tuple(one)) for one in expected]
    assert len(elsewhere) == 1


def test_a_kernel_that_cannot_be_compiled_is_given_up_once_and_said(
    elsewhere: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    class NoCompiler:
        TILE, WARPS, ALIGNMENT = 512, 8, 16
        DTYPES = dict.fromkeys(("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"))

        def __getattr__(self, name: str) -> Any:
            tried.append(name)
            raise RuntimeError("no C compiler was found")

    given_up: list[str] = []
    monkeypatch.setattr(device_stats, "_given_up", given_up)
    monkeypatch.setattr(device_stats, "_kernel", lambda _: None if given_up else NoCompiler())
    for _ in range(2):
        check(statistics(cases("cpu")), cases("cpu"))
    assert tried == ["read_blocks"]
    assert [record.message for record in caplog.records] == [
        "gradients are read by torch operations, tensor by tensor, which makes a step up to twice as long: "
        "Triton's kernel failed with RuntimeError; it needs a C compiler (gcc or clang) on this machine"
    ]


def test_infinities_of_both_signs_in_two_blocks_of_a_device_are_no_warning() -> None:
    rows = torch.tensor([[math.inf, math.inf, math.inf, 3.0, 1.0], [math.inf, math.inf, -math.inf, 2.0, 1.0]]).double()
    (found,) = device_stats.Asked(Later(rows), starts=[0], order=[0]).read().tolist()
    assert (found[:2], found[3:]) == ([math.inf, math.inf], [5.0, 2.0])
    assert math.isnan(found[2])


def run_child(name: str, **environment: str) -> list[str]:
    """What a script beside this one prints."""
    need_now("triton")
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(tests / "training" / name)],
        env=os.environ | {"PYTHONPATH": str(tests)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_kernel_for_devices_gives_the_numbers_of_the_definition() -> None:
    assert len(run_child("kernel_child.py", TRITON_INTERPRET="1")) == len(cases("cpu"))


def test_the_kernel_for_devices_can_be_compiled_for_them(tmp_path: Path) -> None:
    found = run_child("kernel_compile_child.py", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 5 * 4


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_missing_empty_and_sparse_gradients_have_their_own_numbers() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 3, 3]]), torch.tensor([2.0, 1.0, 1.0]), (10,))
    found = statistics([None, torch.zeros(0, 5), sparse, torch.zeros(4)])
    assert found[0] == found[1] == EMPTY
    assert found[2] == TensorStats(8.0, 2.0, 0.4, 0.8, 0, 10)
    assert found[3] == TensorStats(0.0, 0.0, 0.0, 1.0, 0, 4)


def test_columns_are_little_endian_and_come_back() -> None:
    stats = statistics([torch.tensor([3.0, -4.0]), None])
    columns = packed(stats)
    assert columns["squared_norm_f64le"][:8].hex() == "0000000000003940"
    assert columns["element_count_i64le"].hex() == "02" + "00" * 15
    assert unpacked(columns) == stats
    assert unpacked(packed([])) == []


def test_looking_changes_no_gradient_and_no_random_state() -> None:
    gradient = torch.randn(100_000)
    before, state = gradient.clone(), torch.random.get_rng_state()
    statistics([gradient])
    assert torch.equal(gradient, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def step_once(limit: float | None, *, clip_by: str) -> tuple[dict[str, Any], list[TensorStats]]:
    """One step of a small model; the gradients before any clipping, and the event."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    recording = ListRecording()
    watcher = watch(model, optimizer, recording)
    (model(torch.ones(3, 6)).pow(2).sum() * 10).backward()
    before = [by_the_book(one.grad) for one in model.parameters()]
    if limit is not None and clip_by == "watcher":
        watcher.clip_grad_norm_(limit)
    elif limit is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    watcher.close()
    return recording.of("gradient_stats")[0], before


@pytest.mark.parametrize(("limit", "scales"), [(0.5, True), (1e6, False)])
def test_the_factor_leads_from_clipped_values_back_to_those_before(limit: float, scales: bool) -> None:
    event, before = step_once(limit, clip_by="watcher")
    assert event["is_clipped"] is scales
    assert event["max_grad_norm"] == limit
    assert event["total_norm"] == pytest.approx(math.sqrt(sum(one.squared_norm for one in before)), rel=1e-6)
    for after, expected in zip(unpacked(event), before, strict=True):
        assert after.max_abs * event["clip_factor"] == pytest.approx(expected.max_abs, rel=1e-5)
        assert after.squared_norm * event["clip_factor"] ** 2 == pytest.approx(expected.squared_norm, rel=1e-5)


def test_tensors_are_logged_as_the_numbers_they_hold() -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ListRecording()
    with watch(model, optimizer, recording) as watcher:
        loss = model(torch.ones(2, 3)).sum()
        loss.backward()
        optimizer.step()
        watcher.log(loss=loss, reward=torch.tensor([2.0]), kl=torch.zeros(3))
    update = recording.of("policy_update")[0]
    assert (update["loss"], update["reward"], update["kl"]) == (loss.item(), 2.0, None)
    assert update["metric_names"] == ["loss", "reward"]


def test_clipping_that_nobody_tells_of_leaves_the_factor_unknown() -> None:
    event, before = step_once(0.5, clip_by="torch")
    assert sum(one.squared_norm for one in unpacked(event)) < sum(one.squared_norm for one in before)
    assert [event[one] for one in ("is_clipped", "clip_factor", "max_grad_norm", "total_norm")] == [None] * 4


def test_clipping_told_in_one_step_says_nothing_of_the_next() -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ListRecording()
    with watch(model, optimizer, recording) as watcher:
        for clip in (True, False):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            if clip:
                watcher.clip_grad_norm_(0.5)
            else:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
    assert [one["is_clipped"] for one in recording.of("gradient_stats")] == [True, None]


def test_an_optimizer_that_makes_its_gradients_itself_is_looked_at_afterwards() -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ListRecording()
    watcher = watch(model, optimizer, recording)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    watcher.close()
    assert unpacked(recording.of("gradient_stats")[0])[0].max_abs == 2.0


def test_the_table_names_what_the_optimizer_steps() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    model[1].bias.requires_grad_(False)
    table = build_table(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert table.columns["names"] == ["0.weight", "0.bias", "1.weight"]
    assert table.columns["shapes"] == ["3x4", "3", "2x3"]
    assert table.placement == "replicate"
    assert table.coverage == "per_tensor"
    assert table.digest == build_table(model, torch.optim.SGD(model.parameters(), lr=0.2)).digest


def test_a_flat_part_of_all_parameters_is_called_one() -> None:
    model = torch.nn.Linear(4, 3)
    flat = torch.nn.Parameter(torch.zeros(8))
    table = build_table(model, torch.optim.SGD([flat], lr=0.1))
    assert (table.coverage, table.placement, table.columns["names"]) == ("flat_shard", "shard", ["group0.0"])


def test_parameters_added_later_get_a_new_table() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    recording = ListRecording()
    with watch(model, optimizer, recording):
        for _ in range(2):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            if len(optimizer.param_groups) == 1:
                optimizer.add_param_group({"params": list(model[1].parameters())})
    tables, stats = recording.of("tensor_table"), recording.of("gradient_stats")
    assert [len(one["names"]) for one in tables] == [2, 4]
    assert [one["table_sha256"] for one in stats] == [one["table_sha256"] for one in tables]


def test_a_layer_that_is_unfrozen_or_frozen_on_the_way_gets_a_new_table() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ListRecording()
    with watch(model, optimizer, recording, update_norm=True) as watcher:
        for step in range(4):
            optimizer.zero_grad(set_to_none=step != 3)
            if step in (1, 3):
                model[0].requires_grad_(step == 1)
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        assert watcher.run.guard.missed == 0
    first, second = recording.of("tensor_table")
    assert (first["names"], second["names"]) == (
        ["1.weight", "1.bias"],
        ["0.weight", "0.bias", "1.weight", "1.bias"],
    )
    stats = recording.of("gradient_stats")
    assert [one["table_sha256"] for one in stats] == [first["table_sha256"], *[second["table_sha256"]] * 3]
    assert unpacked(stats[1])[0].squared_norm > 0
    assert unpacked(stats[3])[0].zero_fraction == 1.0  # frozen, but stepped: its gradient was zeroed and kept


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("weight", "weight"),
    ],
)
def test_layers_group_parameters(name: str, layer: str) -> None:
    assert layer_of(name) == layer
