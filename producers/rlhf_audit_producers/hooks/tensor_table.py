"""Names, shapes and placement of the tensors an optimizer steps, in the order of its groups.

DDP gradients are replicas and FSDP's are shards (``shards``): only the squares
of shards may be summed over ranks, so each tensor says which it is. A parameter
that the model does not know (DeepSpeed steps one flat float32 part of all of
them) has a made-up name; the coverage says so, as of FSDP1's flat parameters.

Built once per optimizer and again when its parameters change, or which of them
are trained. Nothing here looks at values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_audit_producers.hooks.shards import flattened, held

Placement = Literal["replicate", "shard", "mixed"]
Coverage = Literal["per_tensor", "flat_shard"]
Stepped = tuple[tuple[int, bool], ...]  # id of each parameter in the groups, and whether it is trained

_WRAPPERS = frozenset({"module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"})
_MAX_UNWRAPPING = 8


@dataclass(frozen=True, slots=True, eq=False)
class TensorTable:
    """``parameters`` are in the order of the columns; ``stepped`` tells whether what the optimizer steps changed."""

    parameters: tuple[Any, ...]
    columns: Mapping[str, list[Any]]
    digest: bytes
    placement: Placement
    coverage: Coverage
    stepped: Stepped

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


def stepped(optimizer: Any) -> Stepped:
    """What ``optimizer`` steps at the moment; cheap enough to ask at every step."""
    return tuple((id(one), _is_trained(one)) for group in optimizer.param_groups for one in group["params"])


def build_table(model: Any, optimizer: Any) -> TensorTable:
    """The table of everything ``optimizer`` steps that needs or has a gradient."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        names.setdefault(id(parameter), _plain(name))
    columns: dict[str, list[Any]] = {
        key: [] for key in ("names", "layers", "shapes", "dtypes", "placements", "local_counts", "global_counts")
    }
    units = flattened(model)
    parameters = []
    flat = 0
    for name, parameter in _trained(optimizer, names):
        is_unknown = id(parameter) not in names
        found = held(parameter, units)
        flat += is_unknown or found.is_flat
        parameters.append(parameter)
        columns["names"].append(name)
        columns["layers"].append(layer_of(name))
        columns["shapes"].append("x".join(map(str, found.shape)))
        columns["dtypes"].append(str(parameter.dtype).removeprefix("torch."))
        columns["placements"].append("shard" if found.is_shard or is_unknown else "replicate")
        columns["local_counts"].append(found.local_count)
        columns["global_counts"].append(found.global_count)
    kinds = set(columns["placements"])
    placement: Placement = "mixed" if len(kinds) > 1 else "shard" if kinds == {"shard"} else "replicate"
    return TensorTable(
        parameters=tuple(parameters),
        columns=columns,
        digest=table_digest(columns),
        placement=placement,
        coverage="flat_shard" if parameters and flat == len(parameters) else "per_tensor",
        stepped=stepped(optimizer),
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


def _is_trained(parameter: Any) -> bool:
    """A frozen parameter that still has a gradient is stepped as well."""
    return bool(parameter.requires_grad or parameter.grad is not None)


def _trained(optimizer: Any, names: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
    for at, group in enumerate(optimizer.param_groups):
        for number, parameter in enumerate(group["params"]):
            if _is_trained(parameter) or id(parameter) not in names:
                yield names.get(id(parameter), f"group{at}.{number}"), parameter
