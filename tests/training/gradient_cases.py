"""Gradients of every kind, and the definition of their statistics: what main memory, a device and its kernel share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rlhf_audit_producers.hooks.gradient_stats import EMPTY, TensorStats

LONG = 70_001  # more than one block of the kernel, and no multiple of anything


def by_the_book(values: Any) -> TensorStats:
    """The definition, in float64."""
    wide = values.detach().double().cpu().reshape(-1).numpy()
    return TensorStats(
        float((wide * wide).sum()),
        float(np.abs(wide).max()),
        float(wide.sum() / wide.size),
        float((wide == 0).mean()),
        int((~np.isfinite(wide)).sum()),
        wide.size,
    )


def agree(found: TensorStats, expected: TensorStats, scale: float) -> None:
    """Float32 sums in blocks err by parts in a million, relative to the size of what is added up."""
    assert found.squared_norm == pytest.approx(expected.squared_norm, rel=2e-6, abs=1e-300, nan_ok=True)
    assert found.max_abs == pytest.approx(expected.max_abs, rel=0, abs=0, nan_ok=True)
    assert found.mean == pytest.approx(expected.mean, abs=2e-6 * scale, nan_ok=True)
    assert found.zero_fraction == expected.zero_fraction
    assert (found.non_finite, found.element_count) == (expected.non_finite, expected.element_count)


def cases(device: str) -> list[Any]:
    """In an order that mixes types, lengths and alignments; the same on every device."""
    chance = torch.Generator().manual_seed(9)

    def some(*shape: int, scale: float = 1.0) -> Any:
        values = torch.randn(shape, generator=chance) * scale
        return torch.where(values.abs() < 0.3 * scale, 0.0, values)

    spoiled = some(LONG)
    spoiled[7], spoiled[8], spoiled[-1] = math.nan, math.inf, -math.inf
    infinite = some(5000)
    infinite[4999] = -math.inf
    found = [
        some(LONG),
        some(3).bfloat16(),
        None,
        some(1),
        some(700, 513),
        some(LONG).half(),
        torch.zeros(0, 5),
        some(40, 33).t(),
        some(5001)[1:],  # not aligned
        some(1024),
        some(2048).double(),
        torch.full((1500,), 1e-41),  # no normal number
        torch.full((70,), 3e38),
        torch.full((70,), 1e-25),
        spoiled,
        infinite,
        spoiled.bfloat16(),
        torch.zeros(4),
        -torch.ones(()),
        torch.complex(some(50), some(50)),
    ]
    return [one if one is None else one.to(device) for one in found]


def check(found: Sequence[TensorStats], gradients: Sequence[Any]) -> None:
    """Every case against the definition."""
    assert len(found) == len(gradients)
    for one, gradient in zip(found, gradients, strict=True):
        if gradient is None or not gradient.numel():
            assert one == EMPTY
            continue
        expected = by_the_book(torch.view_as_real(gradient) if gradient.is_complex() else gradient)
        agree(one, expected, expected.max_abs if math.isfinite(expected.max_abs) else 1.0)
