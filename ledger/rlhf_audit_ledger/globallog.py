"""Entries of the global log: the ledger's table of contents (``docs/format.md`` section 6).

Leaf 0 is the genesis, leaf 1 its signature; every later entry is the exact
bytes of a signed partition checkpoint (first byte printable) or, by first
byte, something ledger-wide. Its order depends on time and is no function of
the source logs.
"""

from __future__ import annotations

from rlhf_audit_schemas.errors import FormatError

GENESIS_HEAD = b"\x01\x80"
SIGNATURE_HEAD = b"\x01\x88"
SIGNATURE_BYTES = 64


def genesis_leaf(genesis: bytes) -> bytes:
    """Leaf 0: ``01 80 || genesis bytes``."""
    return GENESIS_HEAD + genesis


def signature_leaf(signature: bytes) -> bytes:
    """Leaf 1: ``01 88 || root key's signature over the genesis``."""
    return SIGNATURE_HEAD + signature


def genesis_of(leaf: bytes) -> bytes:
    """Genesis bytes of leaf 0. Raises FormatError if it is none."""
    if leaf[:2] != GENESIS_HEAD:
        raise FormatError("global log: leaf 0 is no genesis")
    return leaf[2:]


def signature_of(leaf: bytes) -> bytes:
    """Signature of leaf 1. Raises FormatError if it is none."""
    if leaf[:2] != SIGNATURE_HEAD or len(leaf) != len(SIGNATURE_HEAD) + SIGNATURE_BYTES:
        raise FormatError("global log: leaf 1 is no genesis signature")
    return leaf[2:]


def is_checkpoint(entry: bytes) -> bool:
    """Whether an entry is a partition checkpoint: its first byte is printable."""
    return entry[:1].isascii() and entry[:1].isalnum()
