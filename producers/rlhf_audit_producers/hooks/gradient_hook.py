"""Looks at gradients just before the innermost optimizer uses them.

``register_step_pre_hook`` of that optimizer is the one point where gradients
are complete, reduced over ranks, clipped and noised exactly as they will be
used, in plain PyTorch, transformers, Opacus and FSDP2 alike. They are unscaled
too, except where a fused optimizer divides by the scale itself: then so do we.
An optimizer that is given a closure makes its gradients after this point, so
it is looked at afterwards.

A step that is skipped because gradients overflowed uses none, so nothing is
recorded of its gradients. A gradient scaler does not call the optimizer then
(``skipped_steps``); a fused optimizer is called and told so (``found_inf``).

A step that is captured into a CUDA graph is none: nothing is computed then. Its
replays are steps that no hook hears of; one loss is declared in their place.

The event waits until ``flush``: that is why a log line of the same step can
still complete what is known of clipping (``clipping``), and why a device that
works on the statistics is not waited for: it is asked in one step and its answer
read in the next. Only under a gradient scaler with a fused optimizer is it waited
for, which has to be asked whether the step is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_audit_producers.hooks import skipped_steps
from rlhf_audit_producers.hooks.clipping import Clipping, clipped, together
from rlhf_audit_producers.hooks.gradient_stats import Statistics, TensorStats, ask, packed, statistics, unscaled
from rlhf_audit_producers.hooks.later import CapturedStepError, is_capturing, later
from rlhf_audit_producers.hooks.recording import Guard
from rlhf_audit_producers.hooks.tensor_table import TensorTable, build_table, innermost, stepped


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What became of one step."""

    was_skipped: bool = False
    update_norm: float | None = None


@dataclass(slots=True)
class _Seen:
    step: int
    table: TensorTable
    stats: Statistics
    clipping: Clipping
    scale: float | None  # the optimizer will divide the gradients by it


class GradientHook:
    """Observes one optimizer. ``step_now`` gives the number of the step that is being made.

    ``limit``: to which the trainer clips without telling; None if there is none that is known.
    """

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
        self._before: list[tuple[Any, Any]] = []
        self._table: TensorTable | None = None
        self._seen: _Seen | None = None
        self._told: list[Clipping] = []
        self._outcome = StepOutcome()
        self.steps_begun = 0
        self._handles: list[Any] = []
        self.listen()

    @property
    def optimizer(self) -> Any:
        """The optimizer whose steps are observed."""
        return self._optimizer

    def saw_clipping(self, total_norm: Any, limit: float | None = None) -> None:
        """Gradients of the step to come have the norm ``total_norm`` and were clipped to ``limit`` (None: not).

        Every rank is told at the same time, so that a norm which is spread over them can be put together.
        """
        if is_capturing():
            return
        together_on = getattr(total_norm, "full_tensor", None)  # of a DTensor
        self._told.append(Clipping(limit, later(total_norm if together_on is None else together_on())))

    def saw_skip(self) -> None:
        """A gradient scaler did not call the optimizer."""
        self.flush()
        self._told, self._outcome = [], StepOutcome(was_skipped=True)
        if self._after_step is not None:
            self._after_step()

    def take_outcome(self) -> StepOutcome:
        """Of the step made last, once."""
        outcome, self._outcome = self._outcome, StepOutcome()
        return outcome

    def flush(self, logged_norm: float | None = None) -> None:
        """Hand over what was seen. ``logged_norm``: global norm before clipping, if a log line told it."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        with self._guard.observing("gradient_stats"):
            if seen.clipping.total_norm is None:
                seen.clipping = replace(seen.clipping, total_norm=logged_norm)
            self._guard.record("gradient_stats", _event(seen))

    def flush_if_here(self) -> None:
        """The same, unless a device is still at work on it: then the next step will do it."""
        if self._seen is not None and self._seen.stats.is_here:
            self.flush()

    def listen(self) -> None:
        """Observe the steps to come; ``remove`` stops it."""
        if not self._handles:
            self._handles = [
                self._optimizer.register_step_pre_hook(self._pre_step),
                self._optimizer.register_step_post_hook(self._post_step),
            ]
            skipped_steps.listen(self)

    def remove(self) -> None:
        """Stop observing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        skipped_steps.forget(self)

    def _pre_step(self, optimizer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if is_capturing():
            with self._guard.observing("gradient_stats"):
                raise CapturedStepError
            return
        self.flush()
        self.steps_begun += 1
        self._outcome = StepOutcome()
        if self._wants_update_norm:
            with self._guard.observing():
                self._before = [(one, one.detach().clone()) for one in self._current_table().parameters]
        if _has_closure(args, kwargs):
            return
        self._look()

    def _post_step(self, optimizer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if is_capturing():
            return
        if _has_closure(args, kwargs):
            self._look()
        if self._wants_update_norm:
            with self._guard.observing():
                self._outcome = replace(self._outcome, update_norm=self._moved())
        if self._after_step is not None:
            self._after_step()

    def _look(self) -> None:
        with self._guard.observing("gradient_stats"):
            told, self._told = self._told, []
            table = self._current_table()
            asked = ask([parameter.grad for parameter in table.parameters])
            clipping = together(told, self._limit)
            told_scale = getattr(self._optimizer, "grad_scale", None)  # a fused optimizer will divide by it
            scale = None if told_scale is None else float(told_scale)
            if scale is not None and clipping.total_norm is not None:
                clipping = replace(clipping, unit=scale)
            self._seen = _Seen(self._step_now(), table, asked, clipping, scale)
        with self._guard.observing():
            overflow = getattr(self._optimizer, "found_inf", None)
            if overflow is not None and float(overflow):
                self._seen, self._outcome = None, StepOutcome(was_skipped=True)

    def _current_table(self) -> TensorTable:
        table = self._table
        if table is None or table.stepped != stepped(self._optimizer):
            table = self._table = build_table(self._model, self._optimizer)
            self._guard.record("tensor_table", table.event)
        return table

    def _moved(self) -> float:
        before, self._before = self._before, []
        moves = [now.detach() - then for now, then in before]
        return _norm(statistics(moves))


def _has_closure(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Hooks are given the arguments of ``step``, on some versions with the optimizer in front."""
    given = [one for one in args if not hasattr(one, "param_groups")]
    return bool(given and given[0] is not None) or kwargs.get("closure") is not None


def _norm(stats: Sequence[TensorStats]) -> float:
    """Of all of them together."""
    return math.sqrt(math.fsum(one.squared_norm for one in stats))


def _event(seen: _Seen) -> dict[str, Any]:
    stats = seen.stats.read()
    if seen.scale is not None:
        stats = unscaled(stats, seen.scale)
    is_whole = seen.table.placement == "replicate"
    about = clipped(seen.clipping, own_norm=_norm(stats) if is_whole else None)
    return {
        "step": seen.step,
        "table_sha256": seen.table.digest,
        "tensor_count": len(stats),
        "placement": seen.table.placement,
        "coverage": seen.table.coverage,
        "method": "exact",
        "is_clipped": about.is_clipped,
        "clip_factor": about.clip_factor,
        "max_grad_norm": about.max_grad_norm,
        "total_norm": about.total_norm,
        **packed(stats),
    }
