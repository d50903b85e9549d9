"""``watch``: records a plain PyTorch training loop.

    watcher = watch(model, optimizer, trail)
    ...
    optimizer.step(); watcher.log(loss=loss.item())

Every ``optimizer.step()`` is one step: gradients are looked at before it, the
update goes out when the next step begins, so that ``log`` can say more about it.
A step that a gradient scaler skips is one too, recorded as skipped. Clip with
``watcher.clip_grad_norm_(limit)`` and the factor is recorded; without it gradients
are recorded as they are used, and whether somebody clipped them is unknown.

Needs torch and nothing else.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlhf_audit_producers.hooks.checkpoint_worker import DRAIN_S, CheckpointWorker, patience_s
from rlhf_audit_producers.hooks.gradient_hook import GradientHook, StepOutcome
from rlhf_audit_producers.hooks.recording import Recording
from rlhf_audit_producers.hooks.run_facts import argument_facts, environment_facts, model_facts
from rlhf_audit_producers.hooks.run_recorder import RunRecorder


class TrainingWatch:
    """What ``watch`` returns. A context manager; without one, the training ends when the process does."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        recording: Recording,
        *,
        facts: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        update_norm: bool = False,
        digest_model: bool = True,
        first_step: int = 0,
    ) -> None:
        self._model = model
        self.run = RunRecorder(recording)
        self._guard = self.run.guard
        self._step = first_step
        failed = functools.partial(self._guard.failed_elsewhere, "checkpoint")
        self._checkpoints = CheckpointWorker(self._guard.record, rank=recording.rank, failed=failed)
        self._patience_s = DRAIN_S
        self._ids: list[str] | None = None
        self._hook = self._look_at(optimizer, update_norm=update_norm)
        about: dict[str, Any] = {}
        with self._guard.observing():
            about = {
                **environment_facts(),
                **model_facts(model, digest=digest_model),
                "hyperparameters_json": argument_facts(settings or {}),
                "parent_run_id": getattr(recording, "parent_run_id", None),
            }
        self.run.begin(
            {
                "lineage": "unknown",
                "gradient_hook": "none" if self._hook is None else "optimizer_step_pre_hook",
                **about,
                **(facts or {}),
            },
            step=first_step,
            before_end=self._before_end,
        )
        self.run.restart_clock()

    def clip_grad_norm_(self, max_norm: float) -> Any:
        """Clip the model's parameters as torch does (FSDP1 does so itself), with the factor recorded."""
        import torch

        of_the_model = getattr(self._model, "clip_grad_norm_", None)
        if of_the_model is not None:
            total = of_the_model(max_norm)
        else:
            total = torch.nn.utils.clip_grad_norm_(self._model.parameters(), max_norm)
        if self._hook is not None:
            with self._guard.observing():
                self._hook.saw_clipping(total, max_norm if math.isfinite(max_norm) else None)
        return total

    def use_ids(self, ids: Sequence[str]) -> None:
        """The step to come is made with the rows of these ids."""
        self._ids = [*(self._ids or ()), *ids]

    def log(self, **metrics: Any) -> None:
        """Numbers about the step made last: loss, reward, kl, entropy, learning_rate or names of your own."""
        with self._guard.observing():
            self.run.log(metrics)

    def record_checkpoint(self, folder: str | Path, *, saves: bool = True) -> None:
        """Digest a folder just saved, on a thread of its own."""
        with self._guard.observing("checkpoint"):
            self._checkpoints.submit(Path(folder), step=self._step, saves=saves)

    def close(self, error: BaseException | None = None) -> None:
        """The training has ended. Idempotent."""
        self._patience_s = patience_s(error)
        if error is None:
            self.run.end("finished")
        else:
            self.run.end_with(error)
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    def _look_at(self, optimizer: Any, *, update_norm: bool) -> GradientHook | None:
        with self._guard.observing():
            return GradientHook(
                self._guard,
                self._model,
                optimizer,
                step_now=lambda: self._step + 1,
                update_norm=update_norm,
                after_step=self._after_step,
            )
        return None

    def _after_step(self) -> None:
        self._step += 1
        ids, self._ids = self._ids, None
        outcome = StepOutcome() if self._hook is None else self._hook.take_outcome()
        self.run.end_step(
            self._step,
            update_norm=outcome.update_norm,
            annotation_ids=ids,
            was_skipped=outcome.was_skipped,
        )
        self.run.restart_clock()

    def _before_end(self) -> None:
        if self._hook is not None:
            self._hook.flush()
        with self._guard.observing():
            self._checkpoints.give_up(self._patience_s)


def watch(model: Any, optimizer: Any, recording: Recording, **options: Any) -> TrainingWatch:
    """Record every step of ``optimizer`` from now on. Options: see ``TrainingWatch``."""
    return TrainingWatch(model, optimizer, recording, **options)
