"""What the lane rules leave to a verifier, one partition at a time.

``fold`` has already judged every batch again. Here:

1. A lane whose opening batch came late: batches accepted before it must be signed by the key that it brought.
2. A gap that was filled: the batches on both sides of each of its borders must name one another (``prev_batch``).
3. A lane that a later epoch replaced leaves the table: how far it had come is kept here.
4. Duplicates are remembered, to be compared with what they repeat (``duplicates``).

1 contradicts the ledger's own rules: a finding. 2 is the producer's doing: it spoils his lane, not the ledger, and is
counted as a broken lane.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rlhf_audit_auditor.findings import Findings, printable
from rlhf_audit_ledger.batch import open_envelope, signed_message
from rlhf_audit_ledger.ed25519 import SignatureError, verify
from rlhf_audit_ledger.entries import QUARANTINE
from rlhf_audit_ledger.header import BatchFacts
from rlhf_audit_ledger.lanes import LaneRow
from rlhf_audit_ledger.step import Move

MAX_EXAMPLES = 10  # of conflicts, with both digests


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """How far a lane had come when the records end, or when a later epoch replaced it."""

    producer: str
    epoch: int
    stream: str
    partition: int
    next_seq: int
    missing: tuple[tuple[int, int], ...]
    state: str
    is_replaced: bool

    @property
    def name(self) -> str:
        return f"{printable(self.producer)} epoch {self.epoch} in {self.stream}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Early:
    """A batch accepted before its lane's opening was known."""

    facts: BatchFacts
    signature: bytes | None
    is_read: bool
    window: int
    offset: int


@dataclass(slots=True)
class LaneWatch:
    """Fed with every move of the partition, in order."""

    stream: str
    partition: int
    findings: Findings
    events: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    conflicts: list[str] = field(default_factory=list)
    conflict_count: int = 0
    broken: int = 0
    replaced: list[LaneEnd] = field(default_factory=list)
    keys: dict[tuple[str, int], set[bytes]] = field(
        default_factory=dict
    )  # that lanes of a producer's epoch opened with
    _early: dict[bytes, list[Early]] = field(default_factory=dict)
    _ends: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    _starts: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def see(self, before: LaneRow | None, move: Move, value: bytes | None, window: int) -> None:
        """``before`` is the producer's row before the move; ``value`` the source value where it was read."""
        facts, outcome = move.header.batch, move.header.outcome
        if outcome == "quarantined":
            self.reasons[QUARANTINE.decode(move.entries[0][2:])["reason"]] += 1
        if facts is None:
            return
        if outcome == "conflict" and before is not None:
            self.add_conflict(facts, before.last_batch)
        if move.row is None:
            return
        self.events[facts.kind] += facts.count
        if before is not None and before.epoch < move.row.epoch:
            self.replaced.append(self.end_of(before, is_replaced=True))
            before = None
        self._see_borders(before, move.row, facts, outcome == "gap_filled")
        self._see_signature(move.row, facts, value, window, move.header.offset)

    def add_conflict(self, facts: BatchFacts, accepted: bytes) -> None:
        """Two batches under one number, by the producer's hand."""
        self.conflict_count += 1
        if len(self.conflicts) < MAX_EXAMPLES:
            lane = f"{printable(facts.producer)} epoch {facts.epoch} in {self.stream}/{self.partition}"
            self.conflicts.append(
                f"{lane}, numbers {facts.first_seq} to {facts.end_seq - 1}: "
                f"accepted {accepted.hex()}, repeated as {facts.digest.hex()}"
            )

    def end_of(self, row: LaneRow, *, is_replaced: bool) -> LaneEnd:
        """The lane of a row as it stands."""
        return LaneEnd(
            row.producer, row.epoch, self.stream, self.partition, row.next_seq, row.gaps, row.state, is_replaced
        )

    def _see_borders(self, before: LaneRow | None, row: LaneRow, facts: BatchFacts, is_fill: bool) -> None:
        next_seq = 0 if before is None else before.next_seq
        if is_fill:
            self._border(row.lane_id, facts.first_seq, start=facts.prev_batch)
            self._border(row.lane_id, facts.end_seq, end=facts.digest)
        elif facts.first_seq > next_seq:
            self._border(row.lane_id, next_seq, end=bytes(32) if before is None else before.last_batch)
            self._border(row.lane_id, facts.first_seq, start=facts.prev_batch)

    def _border(self, lane: bytes, number: int, *, end: bytes | None = None, start: bytes | None = None) -> None:
        """Note one side of a border between two batches; when both are known they must agree."""
        at = (lane, number)
        if end is None:
            end = self._ends.get(at)
        if start is None:
            start = self._starts.get(at)
        if end is None or start is None:
            if end is not None:
                self._ends[at] = end
            if start is not None:
                self._starts[at] = start
            return
        self._ends.pop(at, None)
        self._starts.pop(at, None)
        if end != start:
            self.broken += 1

    def _see_signature(self, row: LaneRow, facts: BatchFacts, value: bytes | None, window: int, offset: int) -> None:
        if facts.first_seq == 0:
            if facts.open_key is not None:
                self.keys.setdefault((row.producer, row.epoch), set()).add(facts.open_key)
            for early in self._early.pop(row.lane_id, ()):
                self._check_early(early, facts.open_key)
        elif row.gaps and row.gaps[0][0] == 0:  # the lane's first batch has not come
            signature = None if value is None else open_envelope(value)[1]
            early = Early(facts, signature, value is not None, window, offset)
            self._early.setdefault(row.lane_id, []).append(early)

    def _check_early(self, early: Early, key: bytes | None) -> None:
        where = f"offset {early.offset}: a batch accepted before its lane opened"
        if early.facts.signature == "unsigned":
            if key is not None:
                self.findings.add("lane", f"{where} is unsigned, the lane opened with a key", window=early.window)
        elif key is None:
            self.findings.add("lane", f"{where} is signed, the lane opened without a key", window=early.window)
        elif not early.is_read or early.signature is None:
            self.findings.could_not_read(f"{self.stream}/{self.partition} window {early.window}: {where}: no payload")
        else:
            try:
                verify(key, signed_message(early.facts.digest), early.signature)
            except SignatureError:
                self.findings.add("lane", f"{where} is not signed by the lane's key", window=early.window)
