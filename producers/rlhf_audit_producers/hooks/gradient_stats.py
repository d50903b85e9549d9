"""Five exact statistics of gradient tensors, in the cheapest way that is exact without a compiler.

Squared L2 norm, largest absolute value, mean, zero fraction, count of
non-finite elements, each over the part that this rank holds.

Float32 dot products of a whole tensor err by up to 1e-3; of blocks of 65,536
elements, added up in float64, by less than 1e-6 and at the same speed. In main
memory numpy finds extremes and zeros in a block three times faster than torch,
and all five together take a third less time block by block than one after
another (25 M elements, one core: 18 ms against 27). Non-finite elements are
counted only if the squared norm is not finite: NaN and infinity always reach
it. A squared norm that over- or underflowed in float32 is made again in float64.
Half precision is widened block by block, never a whole gradient of it.

What lies on a device is asked there (``device_stats``), added up in float64, and read later.

Which gradients, at which moment, and what their numbers mean to whom is not
known here (``gradient_hook``, ``tensor_table``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_audit_producers.hooks import device_stats

BLOCK = 65_536  # elements; float32 sums of so many squares err by less than 1e-6
_TINY = 1e-30  # below, squares of float32 may have been flushed to zero
_MAIN_MEMORY = "cpu"


class TensorStats(NamedTuple):
    """Of one tensor's local part; real and imaginary parts are elements of their own."""

    squared_norm: float
    max_abs: float
    mean: float
    zero_fraction: float
    non_finite: int
    element_count: int


EMPTY = TensorStats(0.0, 0.0, 0.0, 0.0, 0, 0)


def local_part(gradient: Any) -> Any:
    """What of a gradient this rank holds: the shard of a DTensor, the values of a sparse one."""
    to_local = getattr(gradient, "to_local", None)
    return gradient if to_local is None else to_local()


class Statistics:
    """Of some gradients. Those on a device are asked for and may not have come yet."""

    def __init__(self, found: Sequence[TensorStats | None], asked: Sequence[_Asked]) -> None:
        self._found, self._asked = found, asked

    @property
    def is_here(self) -> bool:
        """Whether reading would not wait."""
        return all(one.answers.is_here for one in self._asked)

    def read(self) -> list[TensorStats]:
        """One entry per gradient."""
        found = list(self._found)
        for asked in self._asked:
            for at, one in zip(asked.places, _told(asked.answers.read(), asked.counts), strict=True):
                found[at] = one
        return [EMPTY if one is None else one for one in found]


class _Asked(NamedTuple):
    """Of gradients on one device: their places among all, and how many elements each has."""

    answers: device_stats.Asked
    places: list[int]
    counts: list[int]


def ask(gradients: Sequence[Any]) -> Statistics:
    """Nothing is waited for. ``EMPTY`` where there is no gradient (None) or the shard is empty.

    What the gradients are afterwards does not matter.
    """
    import torch

    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found: list[TensorStats | None] = [None] * len(gradients)
    elsewhere: dict[Any, tuple[list[Any], list[int], list[int]]] = {}
    with torch.no_grad(), np.errstate(invalid="ignore"):  # a NaN in a gradient is a finding, not a warning
        for at, gradient in enumerate(gradients):
            if gradient is None:
                continue
            local, count = gradient, gradient.numel()
            if type(local) is not torch.Tensor or local.dtype not in known or local.layout is not torch.strided:
                local, count = _plain(torch, gradient, known)
            if local.numel() == 0:
                found[at] = EMPTY if count == 0 else TensorStats(0.0, 0.0, 0.0, 1.0, 0, count)
            elif local.device.type == _MAIN_MEMORY:
                found[at] = _in_main_memory(torch, local.detach().reshape(-1), count)
            else:
                there, places, counts = elsewhere.setdefault(local.device, ([], [], []))
                there.append(local)
                places.append(at)
                counts.append(count)
        asked = [_Asked(device_stats.ask(there), places, counts) for there, places, counts in elsewhere.values()]
    return Statistics(found, asked)


def statistics(gradients: Sequence[Any]) -> list[TensorStats]:
    """The same, waited for."""
    return ask(gradients).read()


def unscaled(stats: Sequence[TensorStats], scale: float) -> list[TensorStats]:
    """Of the gradients before a loss was multiplied by ``scale``."""
    return [
        one._replace(squared_norm=one.squared_norm / scale / scale, max_abs=one.max_abs / scale, mean=one.mean / scale)
        for one in stats
    ]


def _plain(torch: Any, gradient: Any, known: Sequence[Any]) -> tuple[Any, int]:
    """What is stored of it, as a tensor that every operation knows, and how many elements it has."""
    local = local_part(gradient).detach()
    count = local.numel() * (2 if local.is_complex() else 1)
    if local.layout is not torch.strided:
        local = local.coalesce().values()  # elements that are not stored are zeros
    if local.is_complex():
        local = torch.view_as_real(local)
    return local if local.dtype in known else local.float(), count  # of 8 bits, say


def _told(rows: device_stats.Rows, counts: Sequence[int]) -> Iterator[TensorStats]:
    squared, biggest, total, non_zeros, non_finite = rows.T
    elements = np.asarray(counts)
    return map(
        TensorStats,
        squared.tolist(),
        np.where(np.isnan(squared), np.nan, biggest).tolist(),
        (total / elements).tolist(),
        ((elements - non_zeros) / elements).tolist(),
        non_finite.astype(np.int64).tolist(),
        counts,
    )


def _in_main_memory(torch: Any, flat: Any, count: int) -> TensorStats:
    """Block by block: the first operation brings a block into the cache, the others find it there."""
    mask = np.empty(min(flat.numel(), BLOCK), dtype=np.bool_)
    squares, sums = [], []
    high, low, non_zeros = -math.inf, math.inf, 0
    for part, block in _blocks(torch, flat):
        squares.append(torch.dot(part, part))
        sums.append(part.sum())
        high, low = max(high, np.maximum.reduce(block)), min(low, np.minimum.reduce(block))
        is_set = mask[: block.size]
        np.not_equal(block, 0, out=is_set)
        non_zeros += int(np.count_nonzero(is_set))
    squared, total = _sum(torch.stack(squares).tolist()), _sum(torch.stack(sums).tolist())
    biggest = max(abs(float(low)), abs(float(high)))
    non_finite = 0
    if not math.isfinite(squared):
        non_finite = flat.numel() - int(torch.isfinite(flat).sum())
    if non_finite:
        biggest = math.nan if bool(torch.isnan(flat).any()) else math.inf
    elif not _TINY < squared < math.inf and biggest:
        wide = flat.double()
        squared, total = float(torch.dot(wide, wide)), float(wide.sum())
    return TensorStats(squared, biggest, total / count, (count - non_zeros) / count, non_finite, count)


def _blocks(torch: Any, flat: Any) -> Iterator[tuple[Any, Any]]:
    """Each block as a tensor and as an array over the same memory."""
    if flat.dtype in (torch.float32, torch.float64):
        values = flat.numpy()
        for at, part in enumerate(flat.split(BLOCK)):
            yield part, values[at * BLOCK : (at + 1) * BLOCK]
        return
    for part in flat.split(BLOCK):
        wide = part.float()  # half precision would add up in half precision
        yield wide, wide.numpy()


def _sum(parts: Sequence[float]) -> float:
    """``fsum`` refuses infinities of both signs; their sum is what float arithmetic says."""
    return math.fsum(parts) if all(map(math.isfinite, parts)) else sum(parts)


def packed(stats: Sequence[TensorStats]) -> dict[str, bytes]:
    """The columns of a ``gradient_stats`` event."""
    columns: Mapping[str, Sequence[float]] = dict(
        zip(TensorStats._fields, zip(*stats, strict=True) if stats else [()] * len(TensorStats._fields), strict=True)
    )
    return {
        "squared_norm_f64le": np.asarray(columns["squared_norm"], dtype="<f8").tobytes(),
        "max_abs_f64le": np.asarray(columns["max_abs"], dtype="<f8").tobytes(),
        "mean_f64le": np.asarray(columns["mean"], dtype="<f8").tobytes(),
        "zero_fraction_f64le": np.asarray(columns["zero_fraction"], dtype="<f8").tobytes(),
        "non_finite_i64le": np.asarray(columns["non_finite"], dtype="<i8").tobytes(),
        "element_count_i64le": np.asarray(columns["element_count"], dtype="<i8").tobytes(),
    }


def unpacked(event: Mapping[str, Any]) -> list[TensorStats]:
    """The inverse of ``packed``, for readers."""
    columns = [
        np.frombuffer(event[f"{name}_{'i64le' if name in ('non_finite', 'element_count') else 'f64le'}"], dtype=kind)
        for name, kind in zip(TensorStats._fields, ("<f8", "<f8", "<f8", "<f8", "<i8", "<i8"), strict=True)
    ]
    return [TensorStats(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
