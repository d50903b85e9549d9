"""Hash chain over source messages.

Each link commits to everything before it::

    link(0) = H(D("chain") || ledger_id || lp(stream) || u32 partition)
    link(m) = H(D("link") || link(m-1) || u64 m || lp(header) || u32 n || leaf hash 1 .. leaf hash n)

with the n leaves that message added, a close it caused excluded. One link per
message, not per event: a link per event would double the hashing, is strictly
sequential and proves no more. The chain proves order and completeness up to
its head; it does not prove who wrote it, the checkpoint's signature does.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_audit_ledger.domain import domain, lp, sha256, u32, u64

_CHAIN = domain("chain")
_LINK = domain("link")


def first_link(ledger_id: bytes, stream: str, partition: int) -> bytes:
    """``link(0)`` of a partition."""
    return sha256(_CHAIN, ledger_id, lp(stream.encode("utf-8")), u32(partition))


def next_link(link: bytes, m: int, header: bytes, leaves: Sequence[bytes]) -> bytes:
    """``link(m)`` from ``link(m-1)``, the header bytes and the leaf hashes that the message added."""
    return sha256(_LINK, link, u64(m), lp(header), u32(len(leaves)), *leaves)
