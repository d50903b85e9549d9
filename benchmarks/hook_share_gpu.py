"""What the training hook costs a step on a GPU.

    python benchmarks/hook_share_gpu.py [--rounds 15]

Llamas in float32 under bfloat16 autocast, fused AdamW, 8,192 tokens a step, clipped, loss logged as a tensor: a loop
that never waits for the GPU. Modes take turns, ten steps each, in an order drawn anew each round; a turn is timed from
an idle GPU to an idle GPU.

* ``none_a``, ``none_b``: nothing is recorded, twice: their difference is what this machine cannot tell apart (A/A);
* ``hook``: all five statistics of every tensor, exact, and ``policy_update``, into a real trail (spool on disk);
* ``hook_without_kernel``: the same where Triton cannot compile: torch operations, tensor by tensor;
* ``naive``: the same statistics as one would write them first, one JSON line a step.

``difference``: to ``none_a`` of the same round, in percent of the step, with a bootstrap interval. ``inside``: time of
the training thread in our code; part of it is waiting for a GPU that is busy with the training, which costs nothing.
Prints JSON; says so where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hook_share import SEQUENCE, Hook, Naive, Nothing, difference
from machine import machine
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_audit_producers.hooks import device_stats

TOKENS = 8192
STEPS = 10  # a turn
WARM_UP = 3
MODELS = {  # hidden size, intermediate size, layers, heads
    "25 M": (512, 1152, 6, 8),
    "350 M": (1024, 4096, 18, 16),
    "1.1 B": (2048, 5632, 20, 16),
}


class HookWithoutKernel(Hook):
    """As without a C compiler."""

    def before(self) -> None:
        device_stats._given_up.append("benchmark")
        super().before()

    def after(self) -> None:
        super().after()
        device_stats._given_up.clear()


def measure(size: str, rounds: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    hidden, intermediate, layers, heads = MODELS[size]
    config = LlamaConfig(
        vocab_size=8192, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=SEQUENCE,
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = torch.randint(0, config.vocab_size, (TOKENS // SEQUENCE, SEQUENCE), device="cuda")
    order = random.Random(seed)  # noqa: S311 - no secret
    times: dict[str, list[float]] = {}
    inside: dict[str, list[float]] = {}
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        modes: dict[str, Nothing] = {
            "none_a": Nothing(),
            "none_b": Nothing(),
            "hook": Hook(model, optimizer, Path(folder) / "hook"),
            "hook_without_kernel": HookWithoutKernel(model, optimizer, Path(folder) / "without"),
            "naive": Naive(model, Path(folder)),
        }
        for turn in range(rounds + WARM_UP):
            for name in order.sample(list(modes), len(modes)):
                mode = modes[name]
                mode.before()
                torch.cuda.synchronize()
                began = time.perf_counter_ns()
                for _ in range(STEPS):
                    number += 1
                    optimizer.zero_grad()
                    with torch.autocast("cuda", torch.bfloat16):
                        loss = model(input_ids=batch, labels=batch).loss
                    loss.backward()
                    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    mode.clipped(norm)
                    optimizer.step()
                    mode.loss_seen(number, loss.detach(), norm)
                torch.cuda.synchronize()
                took = time.perf_counter_ns() - began
                mode.after()
                if turn >= WARM_UP:
                    times.setdefault(name, []).append(took / STEPS / 1e6)
                    inside.setdefault(name, []).append((mode.inside_ns or 0) / STEPS / 1e6)
        for mode in modes.values():
            mode.close()
        assert not device_stats._given_up
    step_ms = statistics.median(times["none_a"])
    print(f"{size}: done", file=sys.stderr, flush=True)
    return {
        "model": size,
        "parameters": sum(one.numel() for one in model.parameters()),
        "tensors": len(list(model.parameters())),
        "tokens_per_step": TOKENS,
        "step_ms_median": round(step_ms, 2),
        "modes": {
            name: {
                "step_ms_median": round(statistics.median(times[name]), 2),
                "difference_percent": difference(times[name], times["none_a"], seed),
                "inside_ms_median": round(statistics.median(inside[name]), 3),
            }
            for name in times
            if name != "none_a"
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    args = parser.parse_args()
    found: dict[str, Any] = {"benchmark": "hook_share_gpu", **machine(), "bound": "1 % at 8,192 tokens, stretch 0.3 %"}
    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "versions": {one: version(one) for one in ("torch", "triton", "transformers")},
            "results": [measure(size, args.rounds, args.seed) for size in args.models],
        }
    else:
        found["skipped"] = "this machine has no GPU"
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
