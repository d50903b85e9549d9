"""What the training hook costs a step: time inside our code over step time, and the difference it makes.

    OMP_NUM_THREADS=1 python benchmarks/hook_share.py [--tokens 512 2048] [--rounds 12]

A Llama of 25 M parameters, float32, AdamW, one CPU thread. Modes take turns step by step in one training, in an order
drawn anew each round, so that load of others hits all alike:

* ``none_a``, ``none_b``: nothing is recorded, twice: their difference is what this machine cannot tell apart (A/A);
* ``hook``: all five statistics of every tensor, exact, and ``policy_update``, into a real trail (spool on disk);
* ``naive``: the same statistics as one would write them first, one JSON line a step;
* ``wandb_log`` (offline), ``wandb_watch``, ``mlflow`` (SQLite file), ``tensorboard``: where installed, ten scalars a
  step (watch: histograms).

``inside``: time on the training thread in the code of that mode, over the median step of ``none_a``; unknown for
``wandb_watch``, which works within the backward pass. ``difference``: to ``none_a`` of the same round, in percent, with
a bootstrap interval. Events are counted at the end. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from machine import machine
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_audit_producers.hooks.gradient_hook import GradientHook
from rlhf_audit_producers.hooks.run_recorder import RunRecorder
from rlhf_audit_trail.recording import AuditTrail

SEQUENCE = 256
SCALARS = 10
WARM_UP = 2


class Nothing:
    """A step as it is."""

    inside_ns: int | None = 0  # in our (their) code since ``before``; None where it is not known

    def before(self) -> None:
        """Not timed: what switches the mode on."""

    def loss_seen(self, step: int, loss: Any, norm: Any) -> None:
        """Timed: after the optimizer has stepped."""

    def clipped(self, total: Any) -> None:
        """Timed: after clipping."""

    def after(self) -> None:
        """Not timed: what switches it off."""

    def close(self) -> None:
        """At the end."""


class Hook(Nothing):
    """Ours."""

    def __init__(self, model: Any, optimizer: Any, folder: Path) -> None:
        self.trail = AuditTrail(folder / "trail", run_id="benchmark", rank=0, world_size=1, runtime=False)
        self.run = RunRecorder(self.trail)
        self.steps = 0
        self.hook = GradientHook(
            self.run.guard, model, optimizer, step_now=lambda: self.steps + 1, limit=1.0, after_step=self._after_step
        )
        self.hook.remove()
        self.run.begin(
            {
                "lineage": "unknown",
                "gradient_hook": "optimizer_step_pre_hook",
                "packages": [],
                "python": "",
                "platform": "",
            },
            step=0,
            before_end=self.hook.flush,
        )

    def before(self) -> None:
        self.hook.listen()
        self.run.restart_clock()
        self._at = self.run.guard.inside_ns

    def clipped(self, total: Any) -> None:
        with self.run.guard.observing():
            self.hook.saw_clipping(total, 1.0)

    def loss_seen(self, step: int, loss: Any, norm: Any) -> None:
        with self.run.guard.observing():
            self.run.log({"loss": loss, "grad_norm": norm, **{f"scalar_{at}": loss for at in range(SCALARS - 2)}})
        self.inside_ns = self.run.guard.inside_ns - self._at

    def after(self) -> None:
        self.hook.remove()

    def close(self) -> None:
        self.run.end("finished")
        assert self.trail.flush(60)
        counts = self.trail.counts
        assert counts is not None
        assert not counts.lost
        assert counts.recorded == 2 * self.steps + 3, counts  # tensor table, run_start, run_end
        assert self.run.guard.missed == 0
        self.trail.close()

    def _after_step(self) -> None:
        self.steps += 1
        self.run.end_step(self.steps)


class Naive(Nothing):
    """Five operations and ``item()`` per tensor, one JSON line."""

    inside_ns: int = 0

    def __init__(self, model: Any, folder: Path) -> None:
        self.model = model
        self.file = (folder / "naive.jsonl").open("w", encoding="utf-8")

    def before(self) -> None:
        self.inside_ns = 0

    def clipped(self, total: Any) -> None:
        began = time.perf_counter_ns()
        rows = []
        for name, one in self.model.named_parameters():
            g = one.grad
            rows.append(
                [name, g.norm().item() ** 2, g.abs().max().item(), g.mean().item(), (g == 0).float().mean().item(),
                 (~torch.isfinite(g)).sum().item()]
            )  # fmt: skip
        self.file.write(json.dumps(rows) + "\n")
        self.inside_ns += time.perf_counter_ns() - began


class WandbLog(Nothing):
    """``wandb.log`` offline."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def loss_seen(self, step: int, loss: float, norm: Any) -> None:
        began = time.perf_counter_ns()
        self.run.log({f"scalar_{at}": loss for at in range(SCALARS)}, step=step)
        self.inside_ns = time.perf_counter_ns() - began


class WandbWatch(WandbLog):
    """``wandb.watch`` of the gradients, every step."""

    inside_ns = None

    def __init__(self, run: Any, model: Any) -> None:
        super().__init__(run)
        self.model = model

    def before(self) -> None:
        self.run.watch(self.model, log="gradients", log_freq=1)

    def loss_seen(self, step: int, loss: float, norm: Any) -> None:
        self.run.log({f"scalar_{at}": loss for at in range(SCALARS)}, step=step)

    def after(self) -> None:
        self.run.unwatch(self.model)


class Mlflow(Nothing):
    """``log_metrics`` into a local SQLite file, as MLflow does by itself."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment("hook-share")
        mlflow.start_run()
        self.mlflow = mlflow

    def loss_seen(self, step: int, loss: float, norm: Any) -> None:
        began = time.perf_counter_ns()
        self.mlflow.log_metrics({f"scalar_{at}": loss for at in range(SCALARS)}, step=step)
        self.inside_ns = time.perf_counter_ns() - began

    def close(self) -> None:
        self.mlflow.end_run()


class TensorBoard(Nothing):
    """``add_scalar`` and flush."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def loss_seen(self, step: int, loss: float, norm: Any) -> None:
        began = time.perf_counter_ns()
        for at in range(SCALARS):
            self.writer.add_scalar(f"scalar_{at}", loss, step)
        self.writer.flush()
        self.inside_ns = time.perf_counter_ns() - began

    def close(self) -> None:
        self.writer.close()


def has(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def make_modes(model: Any, optimizer: Any, folder: Path) -> tuple[dict[str, Nothing], Callable[[], None]]:
    modes: dict[str, Nothing] = {
        "none_a": Nothing(),
        "none_b": Nothing(),
        "hook": Hook(model, optimizer, folder),
        "naive": Naive(model, folder),
    }
    finish: Callable[[], None] = lambda: None  # noqa: E731 - replaced below
    if has("wandb"):
        os.environ |= {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(folder),
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
        }
        import wandb

        run = wandb.init(project="hook-share", dir=str(folder))
        modes |= {"wandb_log": WandbLog(run), "wandb_watch": WandbWatch(run, model)}
        finish = run.finish
    if has("mlflow-skinny") or has("mlflow"):
        modes["mlflow"] = Mlflow(folder)
    if has("tensorboard"):
        modes["tensorboard"] = TensorBoard(folder)
    return modes, finish


def measure(tokens: int, rounds: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1152, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=SEQUENCE,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = torch.randint(0, config.vocab_size, (tokens // SEQUENCE, SEQUENCE))
    order = random.Random(seed)  # noqa: S311 - no secret
    times: dict[str, list[float]] = {}
    inside: dict[str, list[float]] = {}
    step = 0
    with tempfile.TemporaryDirectory() as name:
        modes, finish = make_modes(model, optimizer, Path(name))
        for number in range(rounds + WARM_UP):
            turn = list(modes)
            order.shuffle(turn)
            for one in turn:
                mode = modes[one]
                step += 1
                mode.before()
                began = time.perf_counter_ns()
                optimizer.zero_grad()
                loss = model(input_ids=batch, labels=batch).loss
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                mode.clipped(norm)
                optimizer.step()
                mode.loss_seen(step, loss.item(), norm)
                took = time.perf_counter_ns() - began
                mode.after()
                if number >= WARM_UP:
                    times.setdefault(one, []).append(took / 1e6)
                    if mode.inside_ns is not None:
                        inside.setdefault(one, []).append(mode.inside_ns / 1e6)
        for mode in modes.values():
            mode.close()
        finish()
    step_ms = statistics.median(times["none_a"])
    return {
        "tokens_per_step": tokens,
        "parameters": sum(one.numel() for one in model.parameters()),
        "tensors": len(list(model.parameters())),
        "rounds": rounds,
        "step_ms_median": round(step_ms, 1),
        "modes": {
            one: {
                "inside_ms_median": round(statistics.median(inside[one]), 3) if one in inside else None,
                "inside_percent_of_step": round(100 * statistics.median(inside[one]) / step_ms, 3)
                if one in inside
                else None,
                "difference_percent": difference(times[one], times["none_a"], seed),
            }
            for one in times
            if one != "none_a"
        },
    }


def difference(mine: list[float], base: list[float], seed: int) -> dict[str, Any]:
    """Median over rounds of the relative difference, with a 95 % bootstrap interval."""
    each = [100 * (a / b - 1) for a, b in zip(mine, base, strict=True)]
    draw = random.Random(seed)  # noqa: S311 - no secret
    medians = sorted(statistics.median(draw.choices(each, k=len(each))) for _ in range(2000))
    return {"median": round(statistics.median(each), 2), "low": round(medians[50], 2), "high": round(medians[1949], 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "benchmark": "hook_share",
        **machine(),
        "threads": 1,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            one: version(one) for one in ("torch", "transformers", "wandb", "mlflow-skinny", "tensorboard") if has(one)
        },
        "bound": "1 % at 2,048 tokens, stretch 0.3 %",
        "results": [measure(tokens, args.rounds, args.seed) for tokens in args.tokens],
    }
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
