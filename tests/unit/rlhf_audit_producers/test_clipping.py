"""Clipping of one step: three states, and the numbers that lead back to the gradients before it."""

from __future__ import annotations

import math

import pytest

from rlhf_audit_producers.hooks.clipping import Clipped, Clipping, clipped, together


def test_where_nobody_tells_of_a_limit_it_is_unknown_whether_there_was_one() -> None:
    assert clipped(together([], None), own_norm=0.5) == Clipped(None, None, None, None)
    assert clipped(together([Clipping(None, 3.0)], None), own_norm=0.5) == Clipped(None, None, None, 3.0)


def test_a_norm_above_the_limit_gives_the_factor_and_one_below_says_not_clipped() -> None:
    assert clipped(together([Clipping(2.0, 8.0)], None), own_norm=None) == Clipped(True, (8.0 + 1e-6) / 2, 2.0, 8.0)
    assert clipped(together([Clipping(2.0, 1.0)], None), own_norm=None) == Clipped(False, 1.0, 2.0, 1.0)
    assert clipped(Clipping(2.0, math.nan), own_norm=None).clip_factor is None


@pytest.mark.parametrize(("own", "is_clipped"), [(1.0, False), (1.9999, None), (None, None)])
def test_without_a_norm_only_gradients_shorter_than_the_limit_are_known_not_to_be_clipped(
    own: float | None, is_clipped: bool | None
) -> None:
    assert clipped(together([], 2.0), own_norm=own).is_clipped is is_clipped


def test_what_is_told_counts_more_than_the_trainers_own_limit() -> None:
    assert together([Clipping(2.0, 8.0)], 1.0) == Clipping(2.0, 8.0)
    assert together([Clipping(None, 8.0)], 1.0) == Clipping(1.0, 8.0)
    assert together([Clipping(2.0, 8.0), Clipping(None, 2.0)], None) == Clipping(2.0, 8.0)


def test_clipping_twice_in_a_step_leaves_the_factor_unknown() -> None:
    assert clipped(together([Clipping(2.0, 8.0), Clipping(2.0, 5.0)], None), own_norm=2.0).is_clipped is None


def test_limits_and_norms_of_scaled_gradients_are_told_as_of_unscaled_ones() -> None:
    found = clipped(Clipping(256.0, 1024.0, unit=256.0), own_norm=None)
    assert (found.max_grad_norm, found.total_norm) == (1.0, 4.0)
    assert found.clip_factor == pytest.approx(4.0)
