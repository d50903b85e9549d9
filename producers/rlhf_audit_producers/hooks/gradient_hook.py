"""Looks at gradients just before the innermost optimizer uses them.

``register_step_pre_hook`` of that optimizer is the one point where gradients
are complete, reduced over ranks, unscaled, clipped and noised exactly as they
will be used, in plain PyTorch, transformers, Opacus and FSDP2 alike. A step
that a gradient scaler skips never comes here. An optimizer that is given a
closure makes its gradients after this point, so it is looked at afterwards.

Clipping comes before. Torch scales by ``min(1, limit / (norm + 1e-6))``; who
clipped tells the norm (``saw_clipping``), or it is learned from a log line
before the event goes out (``flush``). Without either, gradients shorter than
the limit were not clipped, and of others the factor stays unknown.

The event waits until ``flush``: that is why a log line of the same step can
still complete it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_audit_producers.hooks.gradient_stats import TensorStats, packed, statistics
from rlhf_audit_producers.hooks.recording import Guard
from rlhf_audit_producers.hooks.tensor_table import TensorTable, build_table, group_sizes, innermost

_CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_
_SURELY_BELOW = 1 - 1e-3  # rounding of a clipped norm stays far within this


@dataclass(slots=True)
class Clipping:
    """What is known of clipping in one step; ``limit`` None: gradients are not clipped."""

    limit: float | None = None
    total_norm: Any = None  # a number, or a tensor not yet read


@dataclass(slots=True)
class _Seen:
    step: int
    table: TensorTable
    stats: list[TensorStats]
    clipping: Clipping = field(default_factory=Clipping)


class GradientHook:
    """Observes one optimizer. ``step_now`` gives the number of the step that is being made."""

    def __init__(
        self,
        guard: Guard,
        model: Any,
        optimizer: Any,
        *,
        step_now: Callable[[], int],
        limit: float | None = None,
        update_norm: bool = False,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self._guard, self._model = guard, model
        self._optimizer = innermost(optimizer)
        self._step_now, self._after_step = step_now, after_step
        self._limit = limit
        self._wants_update_norm = update_norm
        self._before: list[Any] = []
        self._table: TensorTable | None = None
        self._seen: _Seen | None = None
        self._total_norm: Any = None
        self.update_norm: float | None = None
        self._handles: list[Any] = []
        self.listen()

    @property
    def optimizer(self) -> Any:
        """The optimizer whose steps are observed."""
        return self._optimizer

    def saw_clipping(self, total_norm: Any, limit: float | None = None) -> None:
        """Gradients of the step to come were clipped; ``total_norm`` is what the clipping returned."""
        self._total_norm = total_norm
        if limit is not None:
            self._limit = limit

    def flush(self, logged_norm: float | None = None) -> None:
        """Hand over what was seen. ``logged_norm``: global norm before clipping, if a log line told it."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        with self._guard.observing("gradient_stats"):
            if seen.clipping.total_norm is None:
                seen.clipping.total_norm = logged_norm
            self._guard.record("gradient_stats", _event(seen))

    def listen(self) -> None:
        """Observe the steps to come; ``remove`` stops it."""
        if not self._handles:
            self._handles = [
                self._optimizer.register_step_pre_hook(self._pre_step),
                self._optimizer.register_step_post_hook(self._post_step),
            ]

    def remove(self) -> None:
        """Stop observing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _pre_step(self, optimizer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.flush()
        if self._wants_update_norm:
            with self._guard.observing():
                self._before = [one.detach().clone() for one in self._current_table().parameters]
        if _has_closure(args, kwargs):
            return
        self._look()

    def _post_step(self, optimizer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if _has_closure(args, kwargs):
            self._look()
        if self._wants_update_norm:
            with self._guard.observing():
                self.update_norm = self._moved()
        if self._after_step is not None:
            self._after_step()

    def _look(self) -> None:
        with self._guard.observing("gradient_stats"):
            table = self._current_table()
            stats = statistics([parameter.grad for parameter in table.parameters])
            clipping = Clipping(self._limit, self._total_norm)
            self._total_norm = None
            self._seen = _Seen(self._step_now(), table, stats, clipping)

    def _current_table(self) -> TensorTable:
        table = self._table
        if table is None or table.group_sizes != group_sizes(self._optimizer):
            table = self._table = build_table(self._model, self._optimizer)
            self._guard.record("tensor_table", table.event)
        return table

    def _moved(self) -> float:
        table, before, self._before = self._current_table(), self._before, []
        moves = [now.detach() - then for now, then in zip(table.parameters, before, strict=True)]
        return math.sqrt(math.fsum(one.squared_norm for one in statistics(moves)))


def _has_closure(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Hooks are given the arguments of ``step``, on some versions with the optimizer in front."""
    given = [one for one in args if not hasattr(one, "param_groups")]
    return bool(given and given[0] is not None) or kwargs.get("closure") is not None


def _event(seen: _Seen) -> dict[str, Any]:
    is_clipped, factor, total = _clipped(seen)
    return {
        "step": seen.step,
        "table_sha256": seen.table.digest,
        "tensor_count": len(seen.stats),
        "placement": seen.table.placement,
        "coverage": seen.table.coverage,
        "method": "exact",
        "is_clipped": is_clipped,
        "clip_factor": factor,
        "max_grad_norm": seen.clipping.limit,
        "total_norm": total,
        **packed(seen.stats),
    }


def _clipped(seen: _Seen) -> tuple[bool | None, float | None, float | None]:
    """(whether gradients were scaled, post-clip to pre-clip factor, global norm before), None where unknown."""
    limit = seen.clipping.limit
    total = None if seen.clipping.total_norm is None else float(seen.clipping.total_norm)
    if limit is None:
        return False, 1.0, total
    if total is not None:
        factor = max(1.0, (total + _CLIP_EPSILON) / limit) if math.isfinite(total) else None
        return (None if factor is None else factor > 1.0), factor, total
    own = math.sqrt(math.fsum(one.squared_norm for one in seen.stats))
    if seen.table.placement == "replicate" and own < limit * _SURELY_BELOW:
        return False, 1.0, own
    return None, None, None
