"""What producers say about themselves: lifecycle events decoded from payloads.

A statement holds only for lanes of the producer and epoch whose key signed
it; one about somebody else's lanes is counted and otherwise ignored.
``producer_lost`` is by nature about another: it ends no lane, it tells why
completeness is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rlhf_audit_ledger.header import BatchFacts
from rlhf_audit_schemas.codec import AvroCodec
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS, KINDS_BY_NUMBER

READ = frozenset(
    KINDS[name].number for name in ("producer_start", "heartbeat", "producer_end", "producer_lost", "loss")
)
FAULT = KINDS["fault"].number


@dataclass(frozen=True, slots=True)
class Head:
    """A lane as a statement names it."""

    stream: str
    partition: int
    next_seq: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One decoded statement. ``heads`` are of ``epoch``, for a producer_start of the epoch before."""

    kind: str
    producer: str
    epoch: int
    heads: tuple[Head, ...] = ()
    previous_epoch: int | None = None
    first_seq: int = 0
    count: int = 0
    reason: str = ""
    public_key: bytes | None = None


@dataclass(slots=True)
class Heard:
    """Statements of one partition. ``foreign`` were about lanes of others, ``undecodable`` were no such event."""

    statements: list[Statement]
    beats: dict[tuple[str, int], Statement] = field(default_factory=dict)  # the last one of each producer and epoch
    foreign: int = 0
    undecodable: int = 0

    def hear(self, facts: BatchFacts, events: Sequence[bytes]) -> None:
        """Decode the events of an accepted lifecycle batch."""
        kind = KINDS_BY_NUMBER[facts.kind]
        codec = _codec(facts.kind, facts.schema)
        for event in events:
            try:
                if codec is None:
                    raise FormatError("a schema this version does not ship")
                statement = _statement(kind.name, codec.decode(event))
            except FormatError:
                self.undecodable += 1
                continue
            is_own = (statement.producer, statement.epoch) == (facts.producer, facts.epoch)
            if is_own and kind.name == "heartbeat":
                self.beats[statement.producer, statement.epoch] = statement
            elif is_own or kind.name == "producer_lost":
                self.statements.append(statement)
            else:
                self.foreign += 1


@cache
def _codec(kind: int, schema: int) -> AvroCodec | None:
    known = KINDS_BY_NUMBER.get(kind)
    return AvroCodec(known.path(schema)) if known is not None and schema in known.versions else None


def _statement(kind: str, raw: dict[str, Any]) -> Statement:
    if kind == "loss":
        head = Head(raw["stream"], raw["partition"], raw["first_seq"] + raw["count"])
        return Statement(
            kind,
            raw["producer"],
            raw["epoch"],
            (head,),
            first_seq=raw["first_seq"],
            count=raw["count"],
            reason=raw["reason"],
        )
    named = raw["previous_lanes"] if kind == "producer_start" else raw["lanes"]
    return Statement(
        kind,
        raw["producer"],
        raw["epoch"],
        tuple(Head(**head) for head in named),
        previous_epoch=raw.get("previous_epoch"),
        reason=raw.get("reason", ""),
        public_key=raw.get("public_key"),
    )
