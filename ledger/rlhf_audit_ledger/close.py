"""Close records: a window's statement about itself, signed through the checkpoint (``docs/format.md`` section 5)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rlhf_audit_ledger.entries import EntryClass, entry
from rlhf_audit_ledger.genesis import SchemaEntry
from rlhf_audit_ledger.header import OUTCOMES, Outcome
from rlhf_audit_schemas.codec import StrictCodec
from rlhf_audit_schemas.errors import FormatError

_CODEC = StrictCodec("envelope/close.avsc")
_HEAD = bytes((1, EntryClass.CLOSE))

Counts = tuple[int, ...]  # source messages by outcome, in the order of OUTCOMES
NO_COUNTS: Counts = (0,) * len(OUTCOMES)


def count_one(counts: Counts, outcome: Outcome) -> Counts:
    """``counts`` with one more of ``outcome``."""
    at = OUTCOMES.index(outcome)
    return (*counts[:at], counts[at] + 1, *counts[at + 1 :])


@dataclass(frozen=True, slots=True)
class TickState:
    """The last valid tick so far, and the number of the last one that closed a window."""

    counter: int = 0
    number: int = -1
    closed_number: int = -1


@dataclass(frozen=True, slots=True)
class Close:
    """A decoded close record. Its entries are ``[first_index, end_index)``; it stands itself at ``end_index``.

    The tick state and the added schemas stand here because ticks add no entry: without them a worker could not take
    its state from the evidence alone.
    """

    format: int
    ledger_id: bytes
    stream: str
    partition: int
    window: int
    first_index: int
    end_index: int
    tick: bytes | None
    opened_us: int
    source_id: bytes
    first_offset: int
    next_offset: int
    counts: Counts
    events: int
    open_gaps: int
    window_root: bytes
    m: int
    link: bytes
    lanes_digest: bytes
    lanes: int
    previous_close: int | None
    ticks: TickState
    added_schemas: tuple[SchemaEntry, ...]

    @property
    def size(self) -> int:
        """Size of the partition log with this record: that of its checkpoint."""
        return self.end_index + 1

    def encode(self) -> bytes:
        """The entry: ``01 81 || Avro Close``."""
        raw = {name: getattr(self, name) for name in _PLAIN}
        raw["counts"] = dict(zip(OUTCOMES, self.counts, strict=True))
        raw["tick_counter"] = self.ticks.counter
        raw["tick_number"] = self.ticks.number
        raw["closed_number"] = self.ticks.closed_number
        raw["added_schemas"] = [asdict(added) for added in self.added_schemas]
        return entry(EntryClass.CLOSE, _CODEC.encode(raw))

    @classmethod
    def decode(cls, data: bytes) -> Close:
        """Raises FormatError on anything ``encode`` would not make."""
        if data[:2] != _HEAD:
            raise FormatError("entry is no close record")
        raw = _CODEC.decode(data[2:])
        counts = raw.pop("counts")
        ticks = TickState(raw.pop("tick_counter"), raw.pop("tick_number"), raw.pop("closed_number"))
        added = tuple(SchemaEntry(**item) for item in raw.pop("added_schemas"))
        return cls(counts=tuple(counts[outcome] for outcome in OUTCOMES), ticks=ticks, added_schemas=added, **raw)


_PLAIN = tuple(name for name in Close.__dataclass_fields__ if name not in ("counts", "ticks", "added_schemas"))
