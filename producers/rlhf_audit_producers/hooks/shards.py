"""What a rank holds of a parameter: all of it, or a part, and then of how much.

A DTensor says so itself. FSDP1 (``FullyShardedDataParallel``) steps plain tensors: one flat
tensor per unit that holds this rank's part of it, padding included, or with
``use_orig_params`` the pieces that parameters have in that part, some of them empty. What they
are parts of stands in the unit's handle, which is not public: where it cannot be read, a marked
parameter still counts as a part, and only how much there is in all is not known.

Where a parameter is both sharded and replicated (hybrid sharding), it counts as a part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Held:
    """``shape`` is that of the whole."""

    is_shard: bool
    is_flat: bool
    shape: tuple[int, ...]
    local_count: int
    global_count: int


@dataclass(frozen=True, slots=True)
class Flattened:
    """What FSDP1 knows of a parameter it has put into a flat one."""

    is_shard: bool
    shape: tuple[int, ...]


def flattened(model: Any) -> dict[int, Flattened]:
    """By the id of each parameter that a unit of FSDP1 in ``model`` manages."""
    found: dict[int, Flattened] = {}
    for module in model.modules():
        handle = getattr(module, "_handle", None)
        flat = getattr(handle, "flat_param", None)
        if flat is None:
            continue
        is_shard = bool(getattr(handle, "uses_sharded_strategy", True))
        whole: Sequence[int] = getattr(flat, "_unpadded_unsharded_size", flat.shape)
        found[id(flat)] = Flattened(is_shard, tuple(whole))
        pieces = zip(getattr(flat, "_params", None) or (), getattr(flat, "_shapes", ()), strict=False)
        found |= {id(piece): Flattened(is_shard, tuple(shape)) for piece, shape in pieces}
    return found


def held(parameter: Any, units: Mapping[int, Flattened]) -> Held:
    """``units``: what ``flattened`` found."""
    shape, is_flat = tuple(parameter.shape), bool(getattr(parameter, "_is_flat_param", False))
    if hasattr(parameter, "to_local"):
        is_shard = any(one.is_shard() for one in parameter.placements)
        return Held(is_shard, is_flat, shape, parameter.to_local().numel(), parameter.numel())
    local = parameter.numel()
    unit = units.get(id(parameter))
    if unit is not None:
        return Held(unit.is_shard, is_flat, unit.shape, local, math.prod(unit.shape))
    return Held(is_flat or bool(getattr(parameter, "_fsdp_flattened", False)), is_flat, shape, local, local)
