"""Log lines: every number is kept, whatever it is wrapped in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf_audit_producers.hooks.metrics import numbers


class Tensor:
    """What of torch's tensors is asked for: ``size`` is a method."""

    def __init__(self, *values: float) -> None:
        self._values = values

    def numel(self) -> int:
        return len(self._values)

    def size(self) -> tuple[int, ...]:
        return (len(self._values),)

    def item(self) -> float:
        return self._values[0]


class Spread(Tensor):
    """A DTensor: reading it is for all ranks together."""

    def full_tensor(self) -> Tensor:
        raise AssertionError("the other ranks may never come")

    def item(self) -> float:
        raise AssertionError("the other ranks may never come")


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), Tensor(0.5)])
def test_a_number_in_any_wrapping_is_one(value: Any) -> None:
    assert numbers({"loss": value}) == {"loss": 0.5}


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], np.array([0.5, 1.0]), Tensor(0.5, 1.0), Spread(0.5)])
def test_what_is_not_one_number_is_left_out(value: Any) -> None:
    assert numbers({"loss": value}) == {}
