"""From the names trainers log under to the columns of ``policy_update``.

TRL's trainers name the same thing differently; the first name found wins.
Every number is kept under its own name too, so nothing is lost by the mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_audit_producers.hooks.later import all_later

COLUMNS: Mapping[str, Sequence[str]] = {
    "loss": ("loss", "train_loss"),
    "learning_rate": ("learning_rate", "lr"),
    "grad_norm": ("grad_norm",),
    "reward": ("reward", "mean_reward", "objective/scores", "env_reward_mean"),
    "reward_std": ("reward_std",),
    "reward_chosen": ("rewards/chosen", "reward_chosen"),
    "reward_rejected": ("rewards/rejected", "reward_rejected"),
    "reward_margin": ("rewards/margins", "margin", "reward_margin"),
    "reward_accuracy": ("rewards/accuracies", "accuracy", "reward_accuracy"),
    "kl": ("kl", "objective/kl"),
    "entropy": ("entropy", "objective/entropy"),
    "completion_tokens": ("completions/mean_length", "completion_length"),
    "num_tokens": ("num_tokens",),
}


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """What of a log line is a number, by its own name. Not a DTensor, which every rank would have to read at once."""
    return {name: float(value) for name, value in taken(logs).items()}


def taken(logs: Mapping[str, Any]) -> dict[str, Any]:
    """The same, not waited for: ``float`` makes numbers of them."""
    found: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
        elif hasattr(value, "item") and _count(value) == 1 and not hasattr(value, "full_tensor"):
            found[name] = value if hasattr(value, "detach") else float(value.item())
    return all_later(found)


def _count(value: Any) -> Any:
    """Elements of an array or a tensor, whose ``size`` is a method."""
    numel = getattr(value, "numel", None)
    return numel() if callable(numel) else getattr(value, "size", 1)


def columns(logged: Mapping[str, float]) -> dict[str, float | None]:
    """The known ones, by the column they belong to."""
    return {column: next((logged[name] for name in names if name in logged), None) for column, names in COLUMNS.items()}
