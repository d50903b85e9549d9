"""Batches: what a producer signs and sends, cut once and never re-cut (``docs/format.md`` section 2).

One batch = one spool record = one source message. Its events are opaque bytes
here; the event digest binds how they are to be read (kind and schema).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_audit_ledger.domain import domain, lp, sha256, u16, u32
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_schemas.codec import StrictCodec, schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.strict_decoder import Decoder, compile_decoder, read_varint

MAX_BATCH_EVENTS = 4096
MAX_BATCH_BYTES = 768 * 1024  # of events; with envelope below brokers left at 1 MB messages
MAX_VALUE_BYTES = 1024 * 1024 - 64 * 1024  # a sealed record adds at most 64 KiB to a source value
NO_BATCH = bytes(32)  # prev_batch of the first batch of a lane

BATCH_TYPE = b"\x01"
CONTROL_TYPE = b"\x02"

_ENVELOPE = StrictCodec("envelope/event_batch.avsc")
_BODY = StrictCodec("envelope/batch_body.avsc")
_LONG_BITS = 64
_EVENT = domain("event")
_BATCH = domain("batch")
_SIGNATURE = domain("batch-signature")
_ENROLMENT = domain("enrolment")
_VALUE = domain("value")


@dataclass(frozen=True, slots=True)
class BatchBody:
    """What a batch's signature covers. Numbers of its events are ``first_seq``, ``first_seq + 1``, ..."""

    ledger_id: bytes
    producer: str
    epoch: int
    stream: str
    partition: int
    first_seq: int
    kind: int
    schema: int
    prev_batch: bytes
    open_key: bytes | None
    enrolment: bytes | None
    final: bool
    events: Sequence[bytes]

    def encode(self) -> bytes:
        """Avro BatchBody. Raises FormatError if a field does not fit."""
        opened = None if self.open_key is None else {"public_key": self.open_key, "enrolment": self.enrolment}
        return _BODY.encode(
            {
                "ledger_id": self.ledger_id,
                "producer": self.producer,
                "epoch": self.epoch,
                "stream": self.stream,
                "partition": self.partition,
                "first_seq": self.first_seq,
                "kind": self.kind,
                "schema": self.schema,
                "prev_batch": self.prev_batch,
                "open": opened,
                "final": self.final,
                "events": self.events,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> BatchBody:
        """Raises FormatError on anything ``encode`` would not make."""
        raw = _BODY.decode(data)
        opened = raw.pop("open")
        return cls(
            open_key=None if opened is None else opened["public_key"],
            enrolment=None if opened is None else opened["enrolment"],
            **raw,
        )


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A source value and the digest that the lane's next batch names."""

    value: bytes
    digest: bytes


def encode_batch(body: BatchBody, signer: Signer | None) -> EncodedBatch:
    """Cut a batch: encode, sign (unless ``signer`` is None), wrap. Same input, same bytes."""
    encoded = body.encode()
    digest = batch_digest(encoded)
    signature = None if signer is None else signer.sign(signed_message(digest))
    value = _ENVELOPE.encode({"type": BATCH_TYPE, "body": encoded, "signature": signature})
    return EncodedBatch(value, digest)


def open_envelope(value: bytes) -> tuple[bytes, bytes | None]:
    """Body bytes and signature of an EventBatch. Raises FormatError on anything else."""
    raw = _ENVELOPE.decode(value)
    return raw["body"], raw["signature"]


@dataclass(frozen=True, slots=True)
class BatchHead:
    """What stands in front of a batch's events: whose they are and which numbers they have."""

    producer: str
    epoch: int
    stream: str
    partition: int
    first_seq: int
    count: int
    final: bool


def batch_head(value: bytes) -> BatchHead:
    """The head of a source value that is a batch, for those who only forward it: events and signature stay unread.

    Raises FormatError where no head can be read; what it accepts may still be no batch.
    """
    if value[:1] != BATCH_TYPE:
        raise FormatError("not a batch")
    _, at = read_varint(value, 1, _LONG_BITS)
    raw, at = _HEAD(value, at)
    count, _ = read_varint(value, at, _LONG_BITS)
    return BatchHead(
        raw["producer"], raw["epoch"], raw["stream"], raw["partition"], raw["first_seq"], count, raw["final"]
    )


def _head_decoder() -> Decoder:
    schema: dict[str, Any] = json.loads(schema_bytes("envelope/batch_body.avsc"))
    if schema["fields"].pop()["name"] != "events":
        raise AssertionError("events are the last field of a batch's body")
    return compile_decoder(schema, {})


_HEAD = _head_decoder()


def batch_digest(body: bytes) -> bytes:
    """``H(D("batch") || body)``."""
    return sha256(_BATCH, body)


def signed_message(digest: bytes) -> bytes:
    """What the lane's key signs: ``D("batch-signature") || batch digest``."""
    return _SIGNATURE + digest


def enrolment_message(ledger_id: bytes, producer: str, epoch: int, public_key: bytes) -> bytes:
    """What an enrolment signer signs: ``D("enrolment") || ledger_id || lp(producer) || u32 epoch || public key``."""
    return _ENROLMENT + ledger_id + lp(producer.encode("utf-8")) + u32(epoch) + public_key


def value_digest(value: bytes) -> bytes:
    """``H(D("value") || source value)``."""
    return sha256(_VALUE, value)


def event_prefix(kind: int, schema: int) -> bytes:
    """What stands before the event bytes in an event digest: ``D("event") || u16 kind || u16 schema``."""
    return _EVENT + u16(kind) + u16(schema)


def event_digest(kind: int, schema: int, event: bytes) -> bytes:
    """``H(D("event") || u16 kind || u16 schema || event bytes)``."""
    return sha256(event_prefix(kind, schema), event)
