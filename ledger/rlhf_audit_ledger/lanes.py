"""Lanes: the numbering of one producer's events in one partition (``docs/format.md`` section 4).

``judge`` is the whole rule: given the producer's row and the facts of a batch
it says accepted, duplicate, gap filled, conflict or quarantined, which
entries that adds and what the row becomes. It sees no payload, so a verifier
re-runs it from headers alone.

A row describes the newest lane of its producer here. A later epoch replaces
it; an ended one keeps only that it ended, so that a late resend is a
duplicate and never opens a lane again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rlhf_audit_ledger.batch import NO_BATCH
from rlhf_audit_ledger.domain import domain, lp, sha256
from rlhf_audit_ledger.entries import CONFLICT, GAP, GAP_FILLED, EntryClass, entry
from rlhf_audit_ledger.header import BatchFacts, Outcome
from rlhf_audit_ledger.ids import lane_id
from rlhf_audit_schemas.codec import StrictCodec

MAX_GAP = 1 << 20  # numbers ahead of the next one; further is a broken producer, not a lost message
MAX_OPEN_GAPS = 64  # bounds the row
MAX_SEQ = (1 << 63) - 1

LaneState = Literal["unopened", "open", "final", "ended"]
Gaps = tuple[tuple[int, int], ...]  # (first number, count), ascending

_ROW = StrictCodec("envelope/lane_row.avsc")
_LANES = domain("lanes")


@dataclass(frozen=True, slots=True)
class LaneRow:
    """State of the newest lane of one producer in this partition.

    ``state``: unopened (its first batch has not come, so its key is unknown), open, final (its last batch has come,
    gaps are still open), ended.
    """

    lane_id: bytes
    producer: str
    epoch: int
    next_seq: int = 0
    gaps: Gaps = ()
    last_batch: bytes = NO_BATCH
    last_first_seq: int = 0
    last_count: int = 0
    key: bytes | None = None
    state: LaneState = "unopened"

    def encode(self) -> bytes:
        """Avro LaneRow."""
        return _ROW.encode(
            {
                "lane_id": self.lane_id,
                "producer": self.producer,
                "epoch": self.epoch,
                "next_seq": self.next_seq,
                "gaps": [{"first_seq": first, "count": count} for first, count in self.gaps],
                "last_batch": self.last_batch,
                "last_first_seq": self.last_first_seq,
                "last_count": self.last_count,
                "key": self.key,
                "state": self.state,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> LaneRow:
        """Raises FormatError on anything ``encode`` would not make."""
        raw = _ROW.decode(data)
        gaps = tuple((gap["first_seq"], gap["count"]) for gap in raw.pop("gaps"))
        return cls(gaps=gaps, **raw)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a batch is. ``reason`` only when quarantined; ``row`` None leaves the table as it is."""

    outcome: Outcome
    entries: tuple[bytes, ...] = ()
    row: LaneRow | None = None
    reason: str | None = None


def judge(row: LaneRow | None, facts: BatchFacts, stream: str, partition: int) -> Verdict:
    """Apply the lane rules to a batch whose form and signature are in order."""
    if row is not None and (facts.epoch < row.epoch or (facts.epoch == row.epoch and row.state == "ended")):
        return Verdict("duplicate")
    if row is None or facts.epoch > row.epoch:
        row = LaneRow(lane_id(facts.producer, facts.epoch, stream, partition), facts.producer, facts.epoch)
    if facts.first_seq >= row.next_seq:
        return _ahead(row, facts)
    return _behind(row, facts)


def _quarantined(reason: str) -> Verdict:
    return Verdict("quarantined", reason=reason)


def _ahead(row: LaneRow, facts: BatchFacts) -> Verdict:
    """At the next number, or beyond it with a gap."""
    if row.state == "final":
        return Verdict("duplicate") if facts.digest == row.last_batch else _quarantined("after_final")
    missing = facts.first_seq - row.next_seq
    entries: tuple[bytes, ...] = ()
    gaps = row.gaps
    if missing == 0:
        if facts.prev_batch != row.last_batch:
            return _quarantined("broken_lane")
    else:
        if missing > MAX_GAP:
            return _quarantined("too_far")
        if len(gaps) >= MAX_OPEN_GAPS:
            return _quarantined("too_many_gaps")
        gaps = (*gaps, (row.next_seq, missing))
        body = {"lane_id": row.lane_id, "first_seq": row.next_seq, "count": missing}
        entries = (entry(EntryClass.GAP, GAP.encode(body)),)
    moved = replace(
        row,
        next_seq=facts.end_seq,
        gaps=gaps,
        last_batch=facts.digest,
        last_first_seq=facts.first_seq,
        last_count=facts.count,
        key=facts.open_key if facts.open_key is not None else row.key,
        state=_state_after(row.state, facts, gaps),
    )
    return Verdict("accepted", entries, _without_history(moved))


def _state_after(state: LaneState, facts: BatchFacts, gaps: Gaps) -> LaneState:
    if facts.final:
        return "final" if gaps else "ended"
    return "open" if facts.first_seq == 0 else state


def _without_history(row: LaneRow) -> LaneRow:
    """An ended lane keeps its numbers and nothing that only a living one needs."""
    if row.state != "ended":
        return row
    return replace(row, gaps=(), last_batch=NO_BATCH, last_first_seq=0, last_count=0, key=None)


def _behind(row: LaneRow, facts: BatchFacts) -> Verdict:
    """Numbers below the next one: inside a gap, taken, or partly both."""
    if facts.count == 0:
        return _quarantined("overlap")
    for first, count in row.gaps:
        if first <= facts.first_seq and facts.end_seq <= first + count:
            return _fill(row, facts, (first, count))
        if facts.first_seq < first + count and first < facts.end_seq:
            return _quarantined("overlap")
    if facts.end_seq > row.next_seq:
        return _quarantined("overlap")
    if (facts.first_seq, facts.count) == (row.last_first_seq, row.last_count) and facts.digest != row.last_batch:
        body = {
            "lane_id": row.lane_id,
            "first_seq": facts.first_seq,
            "count": facts.count,
            "accepted": row.last_batch,
            "refused": facts.digest,
        }
        return Verdict("conflict", (entry(EntryClass.CONFLICT, CONFLICT.encode(body)),))
    return Verdict("duplicate")


def _fill(row: LaneRow, facts: BatchFacts, gap: tuple[int, int]) -> Verdict:
    """Close a gap or a part of it. A final batch can stand only at the end of its lane."""
    if facts.final:
        return _quarantined("overlap")
    first, count = gap
    rest = ((first, facts.first_seq - first), (facts.end_seq, first + count - facts.end_seq))
    gaps = tuple(sorted({*row.gaps} - {gap} | {part for part in rest if part[1]}))
    if len(gaps) > MAX_OPEN_GAPS:
        return _quarantined("too_many_gaps")
    body = {"lane_id": row.lane_id, "first_seq": facts.first_seq, "count": facts.count}
    state: LaneState = row.state
    if state == "final" and not gaps:
        state = "ended"
    elif state == "unopened" and facts.first_seq == 0:
        state = "open"
    moved = replace(row, gaps=gaps, state=state, key=facts.open_key if facts.open_key is not None else row.key)
    return Verdict("gap_filled", (entry(EntryClass.GAP_FILLED, GAP_FILLED.encode(body)),), _without_history(moved))


@dataclass(frozen=True, slots=True)
class LaneTable:
    """Rows by producer, persistent: ``with_row`` shares everything but the rows changed in the open window."""

    settled: Mapping[str, LaneRow] = field(default_factory=dict)
    changed: Mapping[str, LaneRow] = field(default_factory=dict)

    def get(self, producer: str) -> LaneRow | None:
        """Row of a producer, or None if none of its lanes was ever seen here."""
        return self.changed.get(producer) or self.settled.get(producer)

    def with_row(self, row: LaneRow) -> LaneTable:
        """The table after a row was set."""
        return LaneTable(self.settled, {**self.changed, row.producer: row})

    def settle(self) -> LaneTable:
        """The same rows, none of them counted as changed: called at a close."""
        if not self.changed:
            return self
        return LaneTable({**self.settled, **self.changed})

    def rows(self) -> Iterator[LaneRow]:
        """All rows in ascending order of lane id."""
        merged = {**self.settled, **self.changed}
        return iter(sorted(merged.values(), key=lambda row: row.lane_id))

    def changed_rows(self) -> Iterator[LaneRow]:
        """Rows changed since the last close, in ascending order of lane id."""
        return iter(sorted(self.changed.values(), key=lambda row: row.lane_id))

    def open_gaps(self) -> int:
        """Open gaps in all lanes."""
        return sum(len(row.gaps) for row in {**self.settled, **self.changed}.values())

    def __len__(self) -> int:
        return len({*self.settled, *self.changed})


def table_digest(rows: Iterator[LaneRow]) -> bytes:
    """``H(D("lanes") || lp(row) ...)`` over encoded rows in ascending order of lane id."""
    return sha256(_LANES, *(lp(row.encode()) for row in rows))
