"""Headers: what became of one source message, in public (``docs/format.md`` section 4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from rlhf_audit_schemas.codec import StrictCodec

Outcome = Literal["accepted", "duplicate", "gap_filled", "conflict", "quarantined", "control", "ignored", "hole"]
OUTCOMES: tuple[Outcome, ...] = (
    "accepted",
    "duplicate",
    "gap_filled",
    "conflict",
    "quarantined",
    "control",
    "ignored",
    "hole",
)
SignatureState = Literal["unsigned", "valid", "unchecked"]

_CODEC = StrictCodec("envelope/seal_header.avsc")


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What the header says of a batch: enough to re-run the lane rules without its payload."""

    producer: str
    epoch: int
    first_seq: int
    count: int
    kind: int
    schema: int
    prev_batch: bytes
    final: bool
    signature: SignatureState
    open_key: bytes | None
    digest: bytes

    @property
    def end_seq(self) -> int:
        """Number after the batch's last event."""
        return self.first_seq + self.count


@dataclass(frozen=True, slots=True)
class SealHeader:
    """One per source message. ``batch`` is None for all that is no readable, accepted-for-judgement batch."""

    source_id: bytes
    offset: int
    ts_us: int
    outcome: Outcome
    end_offset: int | None
    value_digest: bytes
    batch: BatchFacts | None

    def encode(self) -> bytes:
        """Avro SealHeader."""
        batch = self.batch
        return _CODEC.encode(
            {
                "source_id": self.source_id,
                "offset": self.offset,
                "ts_us": self.ts_us,
                "outcome": self.outcome,
                "end_offset": self.end_offset,
                "value_digest": self.value_digest,
                "batch": None if batch is None else asdict(batch),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> SealHeader:
        """Raises FormatError on anything ``encode`` would not make."""
        raw = _CODEC.decode(data)
        batch = raw.pop("batch")
        return cls(batch=None if batch is None else BatchFacts(**batch), **raw)
