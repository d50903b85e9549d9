"""Identity: who wrote what, where it belongs, what it is called (``docs/format.md`` section 1).

Ids are computed from what they name and never stored beside it, so they
cannot disagree with it.
"""

from __future__ import annotations

import hmac
from typing import NewType

from rlhf_audit_ledger.domain import domain, lp, sha256, u32, u64

LedgerId = NewType("LedgerId", bytes)
LaneId = NewType("LaneId", bytes)
EventId = NewType("EventId", bytes)
KeyId = NewType("KeyId", bytes)

MAX_PRODUCER_BYTES = 200  # a name, not a document: it stands in every header
MAX_EPOCH = (1 << 32) - 1  # u32 in the lane id

_LANE = domain("lane")
_EVENT_ID = domain("event-id")
_SOURCE = domain("source")
_KEY = domain("key")


def lane_id(producer: str, epoch: int, stream: str, partition: int) -> LaneId:
    """First 16 bytes of ``H(D("lane") || lp(producer) || u32 epoch || lp(stream) || u32 partition)``."""
    named = lp(producer.encode("utf-8")) + u32(epoch) + lp(stream.encode("utf-8")) + u32(partition)
    return LaneId(sha256(_LANE, named)[:16])


def event_id(lane: LaneId, seq: int) -> EventId:
    """First 16 bytes of ``H(D("event-id") || lane_id || u64 seq)``."""
    return EventId(sha256(_EVENT_ID, lane, u64(seq))[:16])


def source_id(cluster_id: str, topic_uuid: str) -> bytes:
    """Identity of a Kafka topic as a source log, 16 bytes; a local source log stores 16 random bytes instead.

    Both parts carry their length: without it, ("ab", "c") and ("a", "bc") would be one source.
    """
    return sha256(_SOURCE, lp(cluster_id.encode("utf-8")), lp(topic_uuid.encode("utf-8")))[:16]


def key_id(public_key: bytes) -> KeyId:
    """Names a control signer: first 8 bytes of ``H(D("key") || public key)``."""
    return KeyId(sha256(_KEY, public_key)[:8])


def partition_of(routing_key: bytes, identity: str, partitions: int) -> int:
    """Partition of an annotator (or, without one, of a producer): ``u64(HMAC-SHA-256(routing key, id)[:8]) mod P``.

    Keyed, because partition numbers are public and an unkeyed hash would let anyone test names against them.
    """
    mac = hmac.digest(routing_key, identity.encode("utf-8"), "sha256")
    return int.from_bytes(mac[:8], "big") % partitions


def log_origin(log_name: str, ledger: bytes, stream: str, partition: int) -> str:
    """Origin of a partition log, which is also its key name."""
    return f"{log_name}/{ledger.hex()}/{stream}/{partition}"


def global_origin(log_name: str, ledger: bytes) -> str:
    """Origin of the global log."""
    return f"{log_name}/{ledger.hex()}/global"
