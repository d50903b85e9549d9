"""``AuditCallback``: records a training with transformers' ``Trainer`` or any of TRL's.

Runs on every rank and records on every rank: ``run_start``, per optimizer step
``gradient_stats`` and ``policy_update``, ``checkpoint`` with digests made on a
thread of its own, ``run_end`` also where training is stopped early or raises.

It returns no control object, so it cannot steer the trainer. It holds state
only to tell a run that resumes which run it came from.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from rlhf_audit_producers.hooks.attachment import attach, calling_trainer
from rlhf_audit_producers.hooks.checkpoint_worker import DRAIN_S, CheckpointWorker, patience_s
from rlhf_audit_producers.hooks.gradient_hook import GradientHook, StepOutcome
from rlhf_audit_producers.hooks.later import later
from rlhf_audit_producers.hooks.metrics import numbers
from rlhf_audit_producers.hooks.recording import Recording
from rlhf_audit_producers.hooks.rollouts import RewardRound
from rlhf_audit_producers.hooks.run_recorder import RunRecorder
from rlhf_audit_producers.hooks.training_facts import beginning_folders, training_facts

_SUMMARY = "train_runtime"  # only in the log line that sums up a whole training
_alive: weakref.WeakValueDictionary[int, AuditCallback] = weakref.WeakValueDictionary()


class AuditCallback(TrainerCallback, ExportableState):  # type: ignore[misc] # transformers is not seen by mypy here
    """Pass it to a trainer as a callback.

    ``gradients`` False: no statistics. ``update_norm``: the length of each update, for one copy of the weights.
    ``store_ids`` False: only the digest of the rows' ids. ``digest_model`` False: weights are not read at the start.
    """

    def __init__(
        self,
        recording: Recording | None = None,
        *,
        gradients: bool = True,
        update_norm: bool = False,
        store_ids: bool = True,
        digest_model: bool = True,
        restored: bool = False,
    ) -> None:
        if restored:  # the trainer makes a callback anew when it resumes: it is the one that lives already
            self.__dict__ = next(reversed(list(_alive.values()))).__dict__
            return
        if recording is None:
            raise TypeError("AuditCallback needs a trail to record to")
        self.run = RunRecorder(recording)
        self.recording = recording
        self._guard = self.run.guard
        self._options = (gradients, update_norm)
        self._store_ids, self._digest_model = store_ids, digest_model
        failed = functools.partial(self._guard.failed_elsewhere, "checkpoint")
        self._checkpoints = CheckpointWorker(self._guard.record, rank=recording.rank, failed=failed)
        self._patience_s = DRAIN_S
        self._hook: GradientHook | None = None
        self._rewards: list[RewardRound] = []
        self._trainer: Callable[[], Any] = lambda: None
        self._state: Any = None
        self._losses: list[Any] = []
        self._used_ids: list[str] | None = None
        self._last_step: int | None = None
        self._metrics: Mapping[str, float] = {}
        self._summary: Mapping[str, float] = {}
        self.seen_run: Mapping[str, Any] = {}
        _alive[id(self)] = self

    def rewards(self, *functions: Callable[..., Any]) -> list[Callable[..., Any]]:
        """The same reward functions, recorded: give them to GRPO or RLOO as ``reward_funcs``."""
        together = RewardRound(self._guard, functions)
        self._rewards.append(together)
        return together.functions

    def use_ids(self, ids: Sequence[str]) -> None:
        """The rows with these ids are trained on in the step to come (``audited``)."""
        self._used_ids = [*(self._used_ids or ()), *ids]

    def record_checkpoint(self, folder: str | Path, *, step: int | None = None) -> None:
        """Record a folder that the trainer does not announce, as that of ``save_model``."""
        with self._guard.observing("checkpoint"):
            self._checkpoints.submit(Path(folder), step=self.run.step if step is None else step, saves=True)

    def wait(self, timeout_s: float = DRAIN_S) -> bool:
        """Until every checkpoint so far is recorded. Returns whether that came to pass."""
        return self._checkpoints.drain(timeout_s)

    # ---- what the trainer says

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the trainer that is being made."""
        self._attach(calling_trainer(Trainer))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say what begins, and start looking at gradients."""
        if self._trainer() is None:
            self._attach(calling_trainer(Trainer))
        self._state, self._last_step, self._losses, self._used_ids = state, None, [], None
        self._summary, self._metrics, self._patience_s = {}, {}, DRAIN_S
        model, trainer = kwargs.get("model"), self._trainer()
        if trainer is not None:
            attach(trainer, self)  # its accelerator may be a new one
        facts: dict[str, Any] = {}
        self._hook = self._hook_up(args, model, kwargs.get("optimizer"))
        with self._guard.observing():
            parent = self._parent(state)
            facts = training_facts(
                args, state, model, trainer, kwargs.get("train_dataloader"), digest_model=self._digest_model
            )
            facts |= parent
        self.run.begin(
            {
                "lineage": "unknown",
                "gradient_hook": "none" if self._hook is None else "optimizer_step_pre_hook",
                **facts,
            },
            step=state.global_step,
            before_end=self._before_end,
        )
        with self._guard.observing("checkpoint"):
            self._digest_beginnings(model, trainer, state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step before is over: nothing more will be logged about it."""
        if self._hook is not None:
            self._hook.flush_if_here()
        self.run.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step was made; its update waits for a log line."""
        if state.global_step == self._last_step:
            return  # trainers may call this twice for one step
        self._last_step = state.global_step
        losses, self._losses = self._losses, []
        ids, self._used_ids = self._used_ids, None
        outcome = StepOutcome() if self._hook is None else self._hook.take_outcome()
        self.run.end_step(
            state.global_step,
            epoch=state.epoch,
            losses=losses,
            update_norm=outcome.update_norm,
            annotation_ids=ids,
            store_ids=self._store_ids,
            was_skipped=outcome.was_skipped or bool(getattr(kwargs.get("optimizer"), "step_was_skipped", False)),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Complete what waits."""
        with self._guard.observing():
            logged = dict(logs or {})
            if _SUMMARY in logged:
                self._summary = numbers(logged)
                return
            norm = numbers({"grad_norm": logged.get("grad_norm")}).get("grad_norm")
            if norm is not None and self._hook is not None:
                self._hook.flush(norm)
            self.run.log(logged)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Remember the metrics for the next checkpoint."""
        with self._guard.observing():
            self._metrics = numbers(metrics or {})

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Digest what was saved, elsewhere."""
        with self._guard.observing("checkpoint"):
            folder = self._output_dir(args) / f"checkpoint-{state.global_step}"
            self._checkpoints.submit(folder, step=state.global_step, saves=args.should_save, metrics=self._metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how it ended."""
        early = state.global_step < state.max_steps
        self.run.end(
            "stopped_early" if early else "finished",
            reason="should_training_stop" if early and control.should_training_stop else None,
            epochs=None if state.epoch is None else float(state.epoch),
            train_loss=self._summary.get("train_loss"),
        )
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def state(self) -> dict[str, Any]:
        """Goes into ``trainer_state.json`` of each checkpoint."""
        return {"args": {"restored": True}, "attributes": {"seen_run": {"run_id": self.recording.run_id}}}

    # ---- what the trainer's methods say (``attachment``)

    def saw_loss(self, loss: Any) -> None:
        """Loss of one micro-batch; read when the step has ended."""
        with self._guard.observing():
            self._losses.append(later(loss))

    def saw_clipping(self, total_norm: Any, limit: float) -> None:
        """Gradients are clipped, the optimizer steps next."""
        with self._guard.observing():
            if self._hook is not None and total_norm is not None:
                self._hook.saw_clipping(total_norm, limit if math.isfinite(limit) else None)

    def saw_exception(self, error: BaseException) -> None:
        """``train`` raises."""
        self._patience_s = patience_s(error)
        self.run.end_with(error)

    # ---- inner parts

    def _attach(self, trainer: Any) -> None:
        with self._guard.observing():
            if trainer is not None:
                self._trainer = weakref.ref(trainer)
                attach(trainer, self)

    def _hook_up(self, args: Any, model: Any, optimizer: Any) -> GradientHook | None:
        gradients, update_norm = self._options
        if self._hook is not None:
            self._hook.remove()
        with self._guard.observing():
            if gradients:
                return GradientHook(
                    self._guard,
                    model,
                    optimizer,
                    step_now=lambda: int(self._state.global_step) + 1,
                    limit=args.max_grad_norm or None,
                    update_norm=update_norm,
                )
        return None

    def _parent(self, state: Any) -> dict[str, Any]:
        """Which run this one resumes; a restart of the same run has no parent."""
        said = getattr(self.recording, "parent_run_id", None)
        if not state.global_step:
            return {"parent_run_id": said}
        found = (state.stateful_callbacks or {}).get(type(self).__name__)
        found = found[0] if isinstance(found, list) else found
        seen = ((found or {}).get("attributes", {}).get("seen_run") or {}).get("run_id")
        parent = said or (seen if seen != self.recording.run_id else None)
        self._checkpoints.follow(run_id=parent, step=state.global_step)
        return {
            "parent_run_id": parent,
            "resumed_from": f"checkpoint-{state.global_step}",
            "resumed_step": state.global_step,
        }

    def _digest_beginnings(self, model: Any, trainer: Any, state: Any) -> None:
        if not self._digest_model:
            return
        for role, folder in beginning_folders(model, trainer):
            self._checkpoints.submit(folder, step=state.global_step, saves=self.recording.rank == 0, role=role)

    def _output_dir(self, args: Any) -> Path:
        trainer = self._trainer()
        if trainer is not None and getattr(self._state, "is_hyper_param_search", False):
            return Path(trainer._get_output_dir(trial=trainer._trial))
        return Path(args.output_dir)

    def _before_end(self) -> None:
        for together in self._rewards:
            together.finish()
        if self._hook is not None:
            self._hook.flush()
        with self._guard.observing():
            self._checkpoints.give_up(self._patience_s)
