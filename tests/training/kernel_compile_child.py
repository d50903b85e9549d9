"""Compiles the kernel for GPUs that need not be there."""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from rlhf_audit_producers.hooks import device_kernel

TARGETS = [
    GPUTarget("cuda", 75, 32),  # T4
    GPUTarget("cuda", 80, 32),  # A100
    GPUTarget("cuda", 90, 32),  # H100
    GPUTarget("cuda", 100, 32),  # B200
    GPUTarget("hip", "gfx942", 64),  # MI300
]
POINTERS = {"addresses": "*i64", "counts": "*i64", "tensor_of_block": "*i64", "first_of_block": "*i64"}
SIGNATURE = POINTERS | {"answers": "*fp64", "row": "i32", "length": "i32"}


def loads(target: GPUTarget, dtype: Any, *, is_aligned: bool) -> int:
    """How many instructions of the compiled kernel read memory; 0 where it is not known."""
    constants = {"dtype": dtype, "is_aligned": is_aligned, "tile": device_kernel.TILE}
    source = ASTSource(device_kernel.read_blocks, SIGNATURE | dict.fromkeys(constants, "constexpr"), constants)
    done = compile(source, target, {"num_warps": device_kernel.WARPS, "enable_fp_fusion": True})
    return done.asm["ptx"].count("ld.global") if target.backend == "cuda" else 0


for target, dtype in product(TARGETS, device_kernel.DTYPES.values()):
    aligned, other = loads(target, dtype, is_aligned=True), loads(target, dtype, is_aligned=False)
    assert aligned < other or target.backend != "cuda"  # several elements in one instruction
    sys.stdout.write(f"{target.backend} {target.arch} {dtype}\n")
