"""Zigzag varints of a whole column, three times faster than one by one."""

from __future__ import annotations

from collections.abc import Sequence

_MAX_BYTES = 10  # of a 64-bit varint


def zigzag_column(values: Sequence[int]) -> list[bytes]:
    """Minimal zigzag varints of 64-bit integers, as ``strict_encoder.zigzag`` makes them."""
    import numpy as np  # not at the top: a process that records a few events a step need not load it

    signed = np.array(values, dtype=np.int64)
    rest = ((signed << 1) ^ (signed >> 63)).view(np.uint64)
    octets = np.zeros((len(values), _MAX_BYTES), dtype=np.uint8)
    lengths = np.ones(len(values), dtype=np.int64)
    for at in range(_MAX_BYTES):
        octets[:, at] = (rest & np.uint64(0x7F)).astype(np.uint8)
        rest >>= np.uint64(7)
        goes_on = rest != 0
        if not goes_on.any():
            break
        octets[goes_on, at] |= 0x80
        lengths += goes_on
    packed = octets.tobytes()
    starts = range(0, len(packed), _MAX_BYTES)
    return [packed[start : start + size] for start, size in zip(starts, lengths.tolist(), strict=True)]
