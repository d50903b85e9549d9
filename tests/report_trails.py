"""Trails for tests of the report page: a made-up run of two or more ranks with everything that a page can show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy

from rlhf_audit_ledger.batch import NO_BATCH, BatchBody, encode_batch
from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.rows import completed

BEGAN_US = 1_790_000_000_000_000
HOSTILE = "</script><img src=x onerror=alert(1)>"
_STEP_US = 1_000_000
_BATCH = 100  # far below the bytes that a batch may have

Event = tuple[str, int, Mapping[str, Any]]


def run_events(
    *,
    run_id: str,
    steps: int = 40,
    layers: int = 4,
    ranks: int = 2,
    sick: tuple[int, int, int] | None = None,
    annotators: int = 5,
    is_ended: bool = True,
) -> list[Event]:
    """(kind, rank, fields) of a run. ``sick`` is (rank, tensor, first step) of a rank whose gradients go astray."""
    chance = Random(4)  # noqa: S311 - the same in every run
    names, groups = tensors_of(layers)
    events: list[Event] = []

    def say(kind: str, rank: int, at_us: int, **fields: Any) -> None:
        known = KINDS[kind]
        record = completed(known, fields, ts_us=BEGAN_US + at_us, run_id=run_id, rank=rank)
        events.append((kind, rank, record))

    for rank in range(ranks):
        say("run_start", rank, rank, **_start(ranks, steps))
        say("tensor_table", rank, rank, **_table(names, groups))
    for step in range(1, steps + 1):
        moved = 0.2 * chance.random()
        base = [
            [math.exp(-3 * step / steps - 0.3 * at + chance.random()) for at in range(len(names))] for _ in range(2)
        ]
        for rank in range(ranks):
            say("policy_update", rank, step * _STEP_US, **_update(step, steps, moved))
            squares = list(base[0])
            if sick is not None and rank == sick[0] and step >= sick[2]:
                squares[sick[1]] *= 1.001
            say("gradient_stats", rank, step * _STEP_US, **_gradients(step, squares, base[1]))
            for number in range(2):
                say("rollout", rank, step * _STEP_US, **_rollout(step, number, chance))
    for number in range(annotators * 40):
        say("annotation", 0, number * 7 * _STEP_US, **_annotation(number, annotators, chance))
    for step in (steps // 2, steps):
        say("checkpoint", 0, step * _STEP_US, **_checkpoint(step))
    if is_ended:
        for rank in range(ranks):
            say("run_end", rank, (steps + 1) * _STEP_US, **_end(steps))
    return events


def write_run(folder: Path, events: list[Event]) -> None:
    """Seal and store these events: one lane per rank and kind, unsigned, each with its end."""
    with LocalTrail(folder) as trail:
        add_run(trail, events)


def add_run(trail: LocalTrail, events: list[Event], *, prefix: str = "rank", first_epoch: int = 0) -> None:
    """The same in a trail that is open."""
    lanes: dict[tuple[str, int], list[bytes]] = {}
    salts = Random(9)  # noqa: S311 - the same in every run
    for kind, rank, record in events:
        body = KINDS[kind].codec.encode({**record, "salt": salts.randbytes(16)})
        lanes.setdefault((kind, rank), []).append(body)
    for (kind, rank), bodies in lanes.items():
        known = KINDS[kind]
        producer = f"{prefix}-{rank}/{kind}"
        partition = partition_of(trail.routing_key, producer, trail.partitions[known.stream])
        for first in range(0, len(bodies), _BATCH):
            part = bodies[first : first + _BATCH]
            batch = BatchBody(
                ledger_id=trail.ledger_id,
                producer=producer,
                epoch=first_epoch + first // _BATCH,
                stream=known.stream,
                partition=partition,
                first_seq=0,
                kind=known.number,
                schema=1,
                prev_batch=NO_BATCH,
                open_key=None,
                enrolment=None,
                final=True,
                events=part,
            )
            trail.append(known.stream, partition, [encode_batch(batch, None).value])
    trail.drain()


def tensors_of(layers: int) -> tuple[list[str], list[str]]:
    """Names and layers of the tensors."""
    names = ["model.embed_tokens.weight"]
    groups = ["model.embed_tokens"]
    for layer in range(layers):
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"):
            names.append(f"model.layers.{layer}.{part}.weight")
            groups.append(f"model.layers.{layer}")
    return [*names, "lm_head.weight"], [*groups, "lm_head.weight"]


def _start(ranks: int, steps: int) -> dict[str, Any]:
    return {
        "world_size": ranks,
        "expected_ranks": list(range(ranks)),
        "trainer": "DPOTrainer",
        "algorithm": "dpo",
        "objective": "sigmoid",
        "model_name": "tiny-llama",
        "model_class": "LlamaForCausalLM",
        "model_config_sha256": bytes(range(32)),
        "model_parameters_sha256": bytes(range(1, 33)),
        "reward_names": [],
        "parameter_count": 123_456,
        "trainable_count": 123_456,
        "max_grad_norm": 1.0,
        "seed": 42,
        "max_steps": steps,
        "per_device_batch": 2,
        "accumulation_steps": 4,
        "dataset_rows": 1950,
        "lineage": "ids",
        "gradient_hook": "optimizer_step_pre_hook",
        "code_commit": "0123456789abcdef0123456789abcdef01234567",
        "is_code_dirty": True,
        "packages": ["torch==2.9", "trl==1.2", HOSTILE],
        "python": "3.11.9",
        "platform": "Linux x86_64",
        "device": "cpu",
        "device_count": 1,
    }


def _table(names: list[str], groups: list[str]) -> dict[str, Any]:
    count = len(names)
    return {
        "table_sha256": bytes(32),
        "names": names,
        "layers": groups,
        "shapes": ["8x8"] * count,
        "dtypes": ["float32"] * count,
        "placements": ["replicate"] * count,
        "local_counts": [64] * count,
        "global_counts": [64] * count,
    }


def _update(step: int, steps: int, moved: float) -> dict[str, Any]:
    along = step / steps
    return {
        "step": step,
        "epoch": 3 * along,
        "is_logged": True,
        "loss": 0.69 * math.exp(-2 * along) + 0.2 * moved,
        "learning_rate": 1e-5 * (1 - along),
        "grad_norm": 2 * math.exp(-along) + moved,
        "reward_chosen": along + moved,
        "reward_rejected": -along + moved,
        "reward_margin": 2 * along,
        "reward_accuracy": min(1.0, 0.5 + along / 2),
        "entropy": 5.9 - along,
        "metric_names": [],
        "metric_values": [],
        "annotation_ids": [],
        "was_skipped": False,
        "step_us": _STEP_US,
        "audit_us": 4_000,
    }


def _gradients(step: int, squares: list[float], maxima: list[float]) -> dict[str, Any]:
    def floats(values: list[float]) -> bytes:
        return numpy.array(values, dtype="<f8").tobytes()

    def whole(value: int) -> bytes:
        return numpy.full(len(squares), value, dtype="<i8").tobytes()

    return {
        "step": step,
        "table_sha256": bytes(32),
        "tensor_count": len(squares),
        "placement": "replicate",
        "coverage": "per_tensor",
        "method": "exact",
        "is_clipped": True,
        "clip_factor": 1.5,
        "max_grad_norm": 1.0,
        "total_norm": 1.5,
        "squared_norm_f64le": floats(squares),
        "max_abs_f64le": floats(maxima),
        "mean_f64le": floats([0.0] * len(squares)),
        "zero_fraction_f64le": floats([0.0] * len(squares)),
        "non_finite_i64le": whole(0),
        "element_count_i64le": whole(64),
    }


def _rollout(step: int, number: int, chance: Random) -> dict[str, Any]:
    return {
        "step": step - 1,
        "rollout_id": f"{step}-{number}",
        "prompt_sha256": number.to_bytes(32, "big"),
        "prompt_text": "SECRET PROMPT",
        "completion_sha256": step.to_bytes(32, "big"),
        "completion_text": "SECRET COMPLETION",
        "function_names": ["brevity", f"variety {HOSTILE}"],
        "rewards": [chance.random(), None if number else chance.random() - 1],
    }


def _annotation(number: int, annotators: int, chance: Random) -> dict[str, Any]:
    item = number // 2
    first, second = (2 * item).to_bytes(32, "big"), (2 * item + 1).to_bytes(32, "big")
    is_first = chance.random() < 0.8
    return {
        "annotation_id": f"judgement-{number}",
        "annotator": HOSTILE if number % annotators == 0 else f"annotator-{number % annotators}",
        "labeler": "human",
        "judged_at_us": BEGAN_US + number * 600 * _STEP_US,
        "item": f"item-{item}",
        "prompt_text": "SECRET PROMPT",
        "chosen_sha256": first if is_first else second,
        "rejected_sha256": second if is_first else first,
        "score": float(3 + (number % 2 if chance.random() < 0.3 else 0)),
        "label": "SECRET REMARK",
        "ranking_sha256": [],
        "ranking_texts": [],
        "axis_names": ["helpful"],
        "axis_values": [float(item % 5)],
        "axis_labels": [None],
    }


def _checkpoint(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "role": "saved",
        "name": f"checkpoint-{step}",
        "file_names": ["model.safetensors", "optimizer.pt", f"{HOSTILE}.bin"],
        "file_sizes": [494_000, 988_000, 12],
        "file_sha256": [bytes([at]) * 32 for at in range(3)],
        "files_sha256": bytes([7]) * 32,
        "tensor_root": bytes([8]) * 32,
        "tensor_count": 14,
        "is_complete": step % 2 == 0,
        "metric_names": [],
        "metric_values": [],
        "digest_us": 1000,
    }


def _end(steps: int) -> dict[str, Any]:
    return {
        "outcome": "finished",
        "steps": steps,
        "policy_updates": steps,
        "gradient_stats": steps,
        "rollouts": 2 * steps,
        "checkpoints": 2,
        "missed": 0,
        "train_us": steps * _STEP_US,
        "audit_us": steps * 4_000,
    }
