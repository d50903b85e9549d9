"""Asks a device for the five statistics of gradients that lie there, without waiting for it.

On CUDA and ROCm one kernel reads every gradient once (``device_kernel``). On another device,
or where that kernel cannot be compiled (no C compiler, say), torch operations do, several
for each tensor: correct, and on a small model several times slower than the kernel, because
launching them costs more than what they do.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rlhf_audit_producers.hooks.later import Later

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.float64]  # squared norm, largest absolute value, sum, non-zeros, elements that are not finite

_ANSWERS, _BIGGEST = 5, 1
_BLOCKS = 2048  # about as many as keep a large GPU busy; each leaves 40 bytes to be copied
_MIN_LENGTH = 16_384  # elements of a block
_PLANS = 16


class Asked:
    """What a device will answer about some tensors: rows to be put together from ``starts`` on, if there are any."""

    def __init__(self, answers: Later, starts: Sequence[int] = (), order: Sequence[int] = ()) -> None:
        self._answers, self._starts, self._order = answers, starts, order

    @property
    def is_here(self) -> bool:
        """Whether reading would not wait."""
        return self._answers.is_here

    def read(self) -> Rows:
        """One row per tensor. A largest absolute value may ignore NaN; the squared norm never does."""
        rows = self._answers.read()
        if not self._starts:
            return rows
        found: Rows = np.empty((len(self._order), _ANSWERS))
        with np.errstate(invalid="ignore"):  # infinities of both signs are a finding, not a warning
            together = np.add.reduceat(rows, self._starts, axis=0)
        together[:, _BIGGEST] = np.maximum.reduceat(rows[:, _BIGGEST], self._starts)
        found[np.asarray(self._order)] = together
        return found


def ask(tensors: Sequence[Any]) -> Asked:
    """``tensors``: on one device, not empty, strided, of 16 to 64 bits of real floating type. Not to be called while a
    CUDA graph is captured.
    """
    import torch

    kernel = _kernel(tensors[0].device.type)
    if kernel is not None and all(type(one) is torch.Tensor for one in tensors):
        try:
            return _by_kernel(torch, kernel, tensors)
        except Exception as error:  # noqa: BLE001 - a compiler that is missing or fails, in as many ways as there are
            _give_up_kernel(error)
    return Asked(Later(torch.stack([_by_operations(torch, one) for one in tensors])))


# ---- one kernel

_given_up: list[str] = []


def _kernel(device_type: str) -> ModuleType | None:
    if device_type != "cuda" or _given_up:
        return None
    try:
        from rlhf_audit_producers.hooks import device_kernel
    except ImportError as error:
        _give_up_kernel(error)
        return None
    return device_kernel


def _give_up_kernel(error: Exception) -> None:
    _given_up.append(type(error).__name__)
    logger.warning(
        "gradients are read by torch operations, tensor by tensor, which makes a step up to twice as long: Triton's "
        "kernel failed with %s; it needs a C compiler (gcc or clang) on this machine",
        type(error).__name__,
    )


class _Place(NamedTuple):
    """A device and the stream there in whose order things are sent and used."""

    device: Any
    stream: int


class _Plan(NamedTuple):
    """How tensors are cut into blocks. The first three lie on the device; ``starts``: first block of each tensor."""

    counts: Any
    tensor_of_block: Any
    first_of_block: Any
    starts: list[int]
    blocks: int


def _by_kernel(torch: Any, kernel: ModuleType, tensors: Sequence[Any]) -> Asked:
    device = tensors[0].device
    counts = [one.numel() for one in tensors]
    by_dtype: dict[Any, list[int]] = {}
    for at, one in enumerate(tensors):
        by_dtype.setdefault(one.dtype, []).append(at)
    length = _length(sum(counts), kernel.TILE)
    is_gpu = device.type == "cuda"  # not so where it is interpreted
    with torch.cuda.device(device) if is_gpu else nullcontext():
        place = _Place(device, torch.cuda.current_stream(device).cuda_stream if is_gpu else 0)
        plans = {
            dtype: _plan(place, length, tuple([counts[at] for at in members])) for dtype, members in by_dtype.items()
        }
        blocks = sum(plan.blocks for plan in plans.values())
        answers = torch.empty((blocks, _ANSWERS), dtype=torch.float64, device=device)
        starts: list[int] = []
        order: list[int] = []
        row = 0
        for dtype, members in by_dtype.items():
            plan = plans[dtype]
            flat = [tensors[at].contiguous() for at in members]
            addresses = tuple([one.data_ptr() for one in flat])
            kernel.read_blocks[(plan.blocks,)](
                _addresses(place, addresses),
                plan.counts,
                plan.tensor_of_block,
                plan.first_of_block,
                answers,
                row,
                length,
                dtype=kernel.DTYPES[str(dtype)],
                is_aligned=not any(address % kernel.ALIGNMENT for address in addresses),
                tile=kernel.TILE,
                num_warps=kernel.WARPS,
                enable_fp_fusion=True,
            )
            starts += [row + start for start in plan.starts]
            order += members
            row += plan.blocks
    return Asked(Later(answers), starts, order)


def _length(total: int, tile: int) -> int:
    """Elements of a block, a multiple of ``tile``."""
    return max(_MIN_LENGTH, -(-total // _BLOCKS // tile) * tile)


@functools.lru_cache(_PLANS)
def _plan(place: _Place, length: int, counts: tuple[int, ...]) -> _Plan:
    per_tensor = np.asarray([-(-count // length) for count in counts])
    starts = np.concatenate(([0], np.cumsum(per_tensor)[:-1]))
    tensor_of_block = np.repeat(np.arange(len(counts)), per_tensor)
    first_of_block = (np.arange(len(tensor_of_block)) - starts[tensor_of_block]) * length
    return _Plan(
        counts=_sent(place, counts),
        tensor_of_block=_sent(place, tensor_of_block),
        first_of_block=_sent(place, first_of_block),
        starts=starts.tolist(),
        blocks=len(tensor_of_block),
    )


@functools.lru_cache(4 * _PLANS)
def _addresses(place: _Place, addresses: tuple[int, ...]) -> Any:
    """Sent only where the same do not lie there already: gradients mostly come to the same addresses."""
    return _sent(place, addresses)


def _sent(place: _Place, numbers: Sequence[int] | npt.NDArray[np.int64]) -> Any:
    import torch

    here = torch.tensor(numbers, dtype=torch.int64, pin_memory=place.device.type == "cuda")
    return here.to(place.device, non_blocking=True)


# ---- torch operations


def _by_operations(torch: Any, tensor: Any) -> Any:
    squared = torch.linalg.vector_norm(tensor, 2, dtype=torch.float64).square()
    low, high = torch.aminmax(tensor)
    total = tensor.sum(dtype=torch.float64)
    non_finite = tensor.numel() - torch.isfinite(tensor).sum()
    answers = [squared, torch.maximum(-low, high), total, torch.count_nonzero(tensor), non_finite]
    return torch.stack([answer.double() for answer in answers])
