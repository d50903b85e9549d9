"""Byte building blocks of every hash and signature input (``docs/format.md`` section 0).

Each of our own inputs begins with a domain string of its own, so that bytes
made for one purpose can never be read as another. ``r`` (0x72) keeps them
apart from RFC 9162 leaves (0x00) and nodes (0x01); the zero byte at the end
keeps them apart from every signed note, which is text.

No I/O, no clock, no randomness anywhere in this package.
"""

from __future__ import annotations

import hashlib


def domain(name: str) -> bytes:
    """``D(name)``: ASCII ``rlhf-audit/<name>/v1`` and one zero byte."""
    return b"rlhf-audit/" + name.encode("ascii") + b"/v1\x00"


def sha256(*parts: bytes) -> bytes:
    """SHA-256 over the concatenation of ``parts``, 32 bytes."""
    return hashlib.sha256(b"".join(parts)).digest()


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return value.to_bytes(8, "big")


def lp(value: bytes) -> bytes:
    """Length-prefixed: four-byte big-endian length, then the bytes."""
    return len(value).to_bytes(4, "big") + value
