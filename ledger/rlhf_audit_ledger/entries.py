"""Entries: the leaves of a partition log (``docs/format.md`` section 3).

First byte 01 = format, second = class. Below 0x80 an event (34 bytes: only
stream and digest are public), from 0x80 on what the sealer itself states.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from enum import IntEnum

from rlhf_audit_ledger.batch import event_prefix
from rlhf_audit_ledger.domain import domain, sha256, u64
from rlhf_audit_schemas.codec import StrictCodec
from rlhf_audit_schemas.kinds import STREAM_NUMBERS

EVENT_ENTRY_BYTES = 34


class EntryClass(IntEnum):
    """Second byte of an entry that is not an event."""

    PARTITION_GENESIS = 0x80
    CLOSE = 0x81
    GAP = 0x82
    GAP_FILLED = 0x83
    CONFLICT = 0x84
    QUARANTINE = 0x85
    SOURCE_HOLE = 0x86
    CONTROL = 0x87


PARTITION_GENESIS = StrictCodec("envelope/partition_genesis.avsc")
GAP = StrictCodec("envelope/gap.avsc")
GAP_FILLED = StrictCodec("envelope/gap_filled.avsc")
CONFLICT = StrictCodec("envelope/conflict.avsc")
QUARANTINE = StrictCodec("envelope/quarantine.avsc")
SOURCE_HOLE = StrictCodec("envelope/source_hole.avsc")
CONTROL_ENTRY = StrictCodec("envelope/control_entry.avsc")

_QUARANTINE = domain("quarantine")


def entry(kind: EntryClass, body: bytes) -> bytes:
    """``01 || class || Avro body``."""
    return bytes((1, kind)) + body


def event_class(stream: str) -> int:
    """Class byte of the stream's events: 0x11 annotations, 0x12 gradients, 0x13 lifecycle, 0x14 released."""
    return 0x10 + STREAM_NUMBERS[stream]


def event_entries(stream: str, kind: int, schema: int, events: Sequence[bytes]) -> list[bytes]:
    """``01 || class || event digest`` for each event, in order."""
    head = bytes((1, event_class(stream)))
    prefix = event_prefix(kind, schema)
    sha = hashlib.sha256
    return [head + sha(prefix + event).digest() for event in events]


def partition_genesis_entry(ledger_id: bytes, stream: str, partition: int, genesis_digest: bytes) -> bytes:
    """Leaf 0 of a partition log."""
    body = {"ledger_id": ledger_id, "stream": stream, "partition": partition, "genesis": genesis_digest}
    return entry(EntryClass.PARTITION_GENESIS, PARTITION_GENESIS.encode(body))


def offset_salt(quarantine_key: bytes, source_id: bytes, offset: int) -> bytes:
    """16-byte salt of a source offset: keyed, so that nobody can test guesses, and the same at every replay."""
    return hmac.digest(quarantine_key, source_id + u64(offset), "sha256")[:16]


def quarantine_digest(salt: bytes, value: bytes) -> bytes:
    """``H(D("quarantine") || salt || source value)``."""
    return sha256(_QUARANTINE, salt, value)
