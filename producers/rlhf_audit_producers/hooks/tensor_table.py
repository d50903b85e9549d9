"""Names, shapes and placement of the tensors an optimizer steps, in the order of its groups.

DDP gradients are replicas and FSDP2's are shards: only the squares of shards
may be summed over ranks, so each tensor says which it is. A parameter that the
model does not know (DeepSpeed steps one flat float32 part of all of them) has a
made-up name, and the coverage says so.

Built once per optimizer and again when its parameters change. Nothing here
looks at values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Placement = Literal["replicate", "shard", "mixed"]
Coverage = Literal["per_tensor", "flat_shard"]

_WRAPPERS = frozenset({"module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"})
_MAX_UNWRAPPING = 8


@dataclass(frozen=True, slots=True, eq=False)
class TensorTable:
    """``parameters`` are in the order of the columns; ``group_sizes`` tell whether the optimizer changed."""

    parameters: tuple[Any, ...]
    columns: Mapping[str, list[Any]]
    digest: bytes
    placement: Placement
    coverage: Coverage
    group_sizes: tuple[int, ...]

    @property
    def event(self) -> dict[str, Any]:
        """Fields of the ``tensor_table`` event."""
        return {"table_sha256": self.digest, **self.columns}


def innermost(optimizer: Any) -> Any:
    """The optimizer that does the stepping, below what accelerate, Opacus and others wrap around it."""
    for _ in range(_MAX_UNWRAPPING):
        inner = getattr(optimizer, "original_optimizer", None) or getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "param_groups"):
            break
        optimizer = inner
    return optimizer


def group_sizes(optimizer: Any) -> tuple[int, ...]:
    """Parameters in each group."""
    return tuple(len(group["params"]) for group in optimizer.param_groups)


def build_table(model: Any, optimizer: Any) -> TensorTable:
    """The table of everything ``optimizer`` steps that needs a gradient."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        names.setdefault(id(parameter), _plain(name))
    columns: dict[str, list[Any]] = {
        key: [] for key in ("names", "layers", "shapes", "dtypes", "placements", "local_counts", "global_counts")
    }
    parameters = []
    unknown = 0
    for name, parameter in _stepped(optimizer, names):
        unknown += id(parameter) not in names
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        sharded = local is not parameter and any(one.is_shard() for one in parameter.placements)
        sharded = sharded or id(parameter) not in names
        parameters.append(parameter)
        columns["names"].append(name)
        columns["layers"].append(layer_of(name))
        columns["shapes"].append("x".join(map(str, parameter.shape)))
        columns["dtypes"].append(str(parameter.dtype).removeprefix("torch."))
        columns["placements"].append("shard" if sharded else "replicate")
        columns["local_counts"].append(local.numel())
        columns["global_counts"].append(parameter.numel())
    kinds = set(columns["placements"])
    placement: Placement = "mixed" if len(kinds) > 1 else "shard" if kinds == {"shard"} else "replicate"
    return TensorTable(
        parameters=tuple(parameters),
        columns=columns,
        digest=table_digest(columns),
        placement=placement,
        coverage="flat_shard" if parameters and unknown == len(parameters) else "per_tensor",
        group_sizes=group_sizes(optimizer),
    )


def table_digest(columns: Mapping[str, list[Any]]) -> bytes:
    """SHA-256 of the columns as canonical JSON."""
    text = json.dumps(dict(columns), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).digest()


def layer_of(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` belongs to ``model.layers.3``; without a number, two parts."""
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: at + 1])
    return ".".join(parts[: max(1, min(2, len(parts) - 1))])


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name


def _stepped(optimizer: Any, names: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
    for at, group in enumerate(optimizer.param_groups):
        for number, parameter in enumerate(group["params"]):
            if parameter.requires_grad or id(parameter) not in names:
                yield names.get(id(parameter), f"group{at}.{number}"), parameter
