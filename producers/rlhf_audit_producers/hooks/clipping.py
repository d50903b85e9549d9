"""What is known of clipping in one step: scaled by a known factor, known not to be scaled, or unknown.

Torch scales by ``min(1, limit / (norm + 1e-6))``. Who clips tells limit and norm; where only
the limit is known (a trainer's setting), a log line may tell the norm. Without it, gradients
shorter than the limit were not clipped to it, and of others the factor stays unknown.

Gradients are clipped before anything of ours sees them. So where nobody tells of a limit, that
is unknown and not "not clipped"; and so it is where they were clipped more than once in a step,
because other micro-batches may have been added in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_
_SURELY_BELOW = 1 - 1e-3  # rounding of a clipped norm stays far within this


@dataclass(frozen=True, slots=True)
class Clipping:
    """What somebody tells: ``limit`` None if none is known of, ``total_norm`` a number or a ``Later``."""

    limit: float | None = None
    total_norm: Any = None
    unit: float = 1.0  # both are so many times what the gradients really are (a gradient scaler's scale)


@dataclass(frozen=True, slots=True)
class Clipped:
    """Fields of ``gradient_stats``, in the units of the gradients as they are used; None where unknown."""

    is_clipped: bool | None
    clip_factor: float | None
    max_grad_norm: float | None
    total_norm: float | None


def together(told: Sequence[Clipping], trainers_limit: float | None) -> Clipping:
    """What all that was told before one step comes to; norms told without a limit clip nothing."""
    limited = [one for one in told if one.limit is not None]
    if len(limited) == 1:
        return limited[0]
    if limited:
        return Clipping()
    return Clipping(trainers_limit, told[-1].total_norm if told else None)


def clipped(clipping: Clipping, *, own_norm: float | None) -> Clipped:
    """Read what is to be read. ``own_norm``: of the gradients as used, None if this rank holds a part of them."""
    total = None if clipping.total_norm is None else float(clipping.total_norm)
    used_total = None if total is None else total / clipping.unit
    if clipping.limit is None:
        return Clipped(None, None, None, used_total)
    limit = clipping.limit / clipping.unit
    if total is not None:
        factor = max(1.0, (total + _CLIP_EPSILON) / clipping.limit) if math.isfinite(total) else None
        return Clipped(None if factor is None else factor > 1.0, factor, limit, used_total)
    if own_norm is not None and own_norm < limit * _SURELY_BELOW:
        return Clipped(False, 1.0, limit, own_norm)
    return Clipped(None, None, limit, None)
