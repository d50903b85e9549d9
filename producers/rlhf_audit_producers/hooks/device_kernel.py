"""Reads gradients on a GPU once for all five statistics, all tensors in one launch.

Written in Triton, which comes with torch for CUDA and ROCm and is compiled at first use.
Each program reads one block of one tensor, whose address it finds in a table, and leaves
five float64 numbers. Everything is added up in float64; a value is widened exactly first.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton reads annotations, and knows no other than constexpr.

from __future__ import annotations

import triton
import triton.language as tl

TILE = 512  # elements that a program reads at once; with so many warps the fastest of eight on an H100
WARPS = 8
ALIGNMENT = 16  # bytes: what a thread can read in one instruction
DTYPES = {
    "torch.float16": tl.float16,
    "torch.bfloat16": tl.bfloat16,
    "torch.float32": tl.float32,
    "torch.float64": tl.float64,
}


@triton.jit
def _add(found, squares, biggest, total, non_zeros, non_finite):
    size = tl.abs(found)
    exact = found.to(tl.float64)
    return (
        squares + exact * exact,
        tl.maximum(biggest, size),
        total + exact,
        non_zeros + (found != 0).to(tl.int32),
        non_finite + (1 - (size < float("inf")).to(tl.int32)),
    )


@triton.jit(do_not_specialize=["row"])
def read_blocks(
    addresses,
    counts,
    tensor_of_block,
    first_of_block,
    answers,
    row,
    length,
    dtype: tl.constexpr,
    is_aligned: tl.constexpr,
    tile: tl.constexpr,
):
    """One row of ``answers`` per block, from ``row`` on.

    Squares, largest absolute value, sum, non-zeros, elements that are not finite. The largest ignores NaN; squares do
    not. ``length``: elements of a block, a multiple of ``tile``.
    """
    block = tl.program_id(0)
    tensor = tl.load(tensor_of_block + block)
    first = tl.multiple_of(tl.load(first_of_block + block), tile)
    left = tl.minimum(tl.load(counts + tensor) - first, length)
    values = tl.load(addresses + tensor).to(tl.pointer_type(dtype))
    if is_aligned:
        values = tl.multiple_of(values, 16)
    wide = tl.float64 if dtype == tl.float64 else tl.float32
    squares = tl.zeros((tile,), tl.float64)
    biggest = tl.zeros((tile,), wide)
    total = tl.zeros((tile,), tl.float64)
    non_zeros = tl.zeros((tile,), tl.int32)
    non_finite = tl.zeros((tile,), tl.int32)
    within = tl.arange(0, tile)
    whole = left // tile * tile
    for at in range(0, whole, tile):  # no mask: it would be read element by element
        found = tl.load(values + (first + at) + within).to(wide)
        squares, biggest, total, non_zeros, non_finite = _add(found, squares, biggest, total, non_zeros, non_finite)
    if whole < left:
        is_in = whole + within < left
        found = tl.load(values + (first + whole) + within, mask=is_in, other=0.0).to(wide)
        squares, biggest, total, non_zeros, non_finite = _add(found, squares, biggest, total, non_zeros, non_finite)
    place = answers + (row + block).to(tl.int64) * 5
    tl.store(place, tl.sum(squares))
    tl.store(place + 1, tl.max(biggest).to(tl.float64))
    tl.store(place + 2, tl.sum(total))
    tl.store(place + 3, tl.sum(non_zeros).to(tl.float64))
    tl.store(place + 4, tl.sum(non_finite).to(tl.float64))
