"""Many Avro bodies read side by side: one field of all of them at a time, in numpy.

The bodies lie in one buffer, each with a position of its own that never passes
its body's end. A body that is not exactly what Avro's one spelling of a value
asks for (minimal varints, branches 0 or 1, lengths inside the body) is marked
as refused and read on harmlessly: whatever it holds, the positions and values
of the others do not depend on it. Values of refused bodies mean nothing.

``strict_decoder`` states the same rules for one body; it reads here what is
rare: numbers of more than 56 bits, and arrays, whose items have no common
place. ``Rows`` are the bodies that a reading is about: all, or positions in
ascending order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rlhf_audit_schemas.strict_decoder import Decoder, StrictDecodeError, read_varint

Integers: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = "Integers | slice"

ALL: Rows = slice(None)
WIDEST_FIXED = 64  # bytes behind the last body, so that a fixed value read from any position stays inside the buffer

_STOPS = np.uint64(0x8080_8080_8080_8080)  # the bit of each byte that a varint's last byte does not have
_ONE = np.uint64(1)
# From 7 bits in each byte to 56 bits in a row: pairs of bytes, then of pairs, then of both halves.
_FOLDS = (
    (np.uint64(0x007F_007F_007F_007F), np.uint64(0x7F00_7F00_7F00_7F00), _ONE),
    (np.uint64(0x0000_3FFF_0000_3FFF), np.uint64(0x3FFF_0000_3FFF_0000), np.uint64(2)),
    (np.uint64(0x0000_0000_0FFF_FFFF), np.uint64(0x0FFF_FFFF_0000_0000), np.uint64(4)),
)


class BodyCursors:
    """One cursor a body. Each ``read_...`` moves those of ``rows`` and returns their values in order."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
        self.accepted = np.ones(len(bodies), np.bool_)
        """False from the first fault of a body on."""
        self._bodies = bodies
        self._buffer = b"".join((*bodies, bytes(WIDEST_FIXED)))
        self._octets = np.frombuffer(self._buffer, np.uint8)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._at = self._starts.copy()

    @property
    def count(self) -> int:
        """Number of bodies."""
        return len(self._at)

    def end(self) -> None:
        """Refuse the bodies that hold more than was read."""
        self.accepted &= self._at == self._ends

    def skip(self, size: int) -> None:
        """Move every cursor by ``size`` bytes."""
        self._advance(ALL, size)

    def read_branch(self, rows: Rows) -> Rows:
        """Index of a union of null and one type; returns the rows that have a value."""
        tags = self._octets[self._at[rows]]
        self._advance(rows, 1)
        self._refuse(rows, (tags != 0) & (tags != 2))  # zigzag: 2 is branch 1
        return _where(rows, tags != 0)

    def read_integers(self, rows: Rows, bits: int) -> Integers:
        """Zigzag varints, each minimal and of at most ``bits`` bits."""
        at = self._at[rows]
        words = self._every(np.dtype("<u8"))[at]
        stops = ~words & _STOPS
        last = stops & -stops  # the stop bit of the first byte that has one
        payload = words & (last | (last - _ONE)) & ~_STOPS
        sizes = np.frexp(last.astype(np.float64))[1].astype(np.int64) >> 3  # exact: powers of two
        self._refuse(rows, (payload & (last - (last >> np.uint64(7))) == 0) & (sizes > 1))
        raw = payload
        for low, high, shift in _FOLDS:
            raw = (raw & low) | ((raw & high) >> shift)
        values: Integers = (raw >> _ONE).astype(np.int64) ^ -(raw & _ONE).astype(np.int64)
        for n in np.flatnonzero(stops == 0):  # longer than a word
            values[n], sizes[n] = self._long_varint(rows, int(n), int(at[n]))
        if bits < 64:
            half = 1 << (bits - 1)
            self._refuse(rows, (values < -half) | (values >= half))
        self._advance(rows, sizes)
        return values

    def read_doubles(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Eight bytes each, little-endian."""
        values: npt.NDArray[np.float64] = self._every(np.dtype("<f8"))[self._at[rows]]
        self._advance(rows, 8)
        return values

    def read_booleans(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """One byte each, 0 or 1."""
        values: npt.NDArray[np.uint8] = self._octets[self._at[rows]]
        self._advance(rows, 1)
        self._refuse(rows, values > 1)
        return values.astype(np.bool_)

    def read_fixed(self, rows: Rows, size: int) -> Any:
        """An Arrow array of ``size`` bytes each."""
        values = self._every(np.dtype(f"V{size}"))[self._at[rows]]
        self._advance(rows, size)
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(values), [None, pa.py_buffer(values)])

    def read_bytes(self, rows: Rows) -> Any:
        """An Arrow array of bytes with their length in front."""
        lengths = self.read_integers(rows, 64)
        starts = self._at[rows].copy()  # a view of all rows would move with them
        self._advance(rows, lengths)
        ends = self._at[rows]
        buffer = self._buffer
        found = [buffer[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return pa.array(found, type=pa.binary())

    def read_lists(self, decode: Decoder) -> list[list[Any]] | None:
        """An array of every body, decoded one by one where it is not empty; None if all are."""
        filled = np.flatnonzero(self._octets[self._at])
        if not len(filled):
            self._advance(ALL, 1)
            return None
        values: list[list[Any]] = [[]] * self.count
        sizes = np.ones(self.count, np.int64)
        for row in filled.tolist():
            at = int(self._at[row] - self._starts[row])
            try:
                values[row], end = decode(self._bodies[row], at)
            except StrictDecodeError:
                self.accepted[row] = False
            else:
                sizes[row] = end - at
        self._advance(ALL, sizes)
        return values

    def _long_varint(self, rows: Rows, n: int, at: int) -> tuple[int, int]:
        try:
            value, end = read_varint(self._buffer, at, 64)
        except StrictDecodeError:
            self.accepted[n if isinstance(rows, slice) else rows[n]] = False
            return 0, 1
        return value, end - at

    def _every(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Values of a type as they would stand at each position of the buffer, aligned or not."""
        return np.ndarray((len(self._buffer) - dtype.itemsize + 1,), dtype, self._buffer, strides=(1,))

    def _refuse(self, rows: Rows, where: npt.NDArray[np.bool_]) -> None:
        if where.any():
            self.accepted[_where(rows, where)] = False

    def _advance(self, rows: Rows, sizes: Integers | int) -> None:
        """Move on; a body that does not have so many bytes is refused and stays where it is."""
        at = self._at[rows]
        inside = (sizes >= 0) & (sizes <= self._ends[rows] - at)
        self._at[rows] = at + np.where(inside, sizes, 0)
        self._refuse(rows, ~inside)


def _where(rows: Rows, mask: npt.NDArray[np.bool_]) -> Rows:
    """Those of the rows where the mask is true."""
    if mask.all():
        return rows
    return np.flatnonzero(mask) if isinstance(rows, slice) else rows[mask]
