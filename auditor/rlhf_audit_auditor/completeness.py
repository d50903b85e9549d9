"""Is anything missing? Yes, no or unknown, each reason counted.

*no*: gaps still open, losses, faults, conflicts, broken lanes, late or quarantined messages, a lane that holds fewer
events than its producer announced. *unknown*: a lane without an end whose producer never said how far it came, or
statements that could not be read. A lane is accounted for by its ``final`` batch, by ``producer_end``, or by the
``producer_start`` of the epoch that replaced it, when the number named there is the one sealed.

A hostile producer can spoil his own lanes with this, never the ledger: nothing here is a finding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_audit_auditor.findings import printable
from rlhf_audit_auditor.lane_watch import LaneEnd
from rlhf_audit_auditor.partition_result import PartitionResult
from rlhf_audit_auditor.statements import FAULT, Statement
from rlhf_audit_schemas.kinds import KINDS

Verdict = Literal["yes", "no", "unknown"]
MAX_EXAMPLES = 20

_LOSS = KINDS["loss"].number
_LaneKey = tuple[str, int, str, int]


@dataclass(frozen=True, slots=True)
class Completeness:
    """``counts`` holds every reason that was looked for, zeros too; ``examples`` name lanes and digests."""

    verdict: Verdict
    counts: dict[str, int]
    reasons: tuple[str, ...]
    examples: tuple[str, ...]


def judge_completeness(results: Sequence[PartitionResult], *, are_statements_read: bool) -> Completeness:
    """Merge lanes and statements of all partitions."""
    lanes = [lane for result in results for lane in result.lanes]
    spoken = [one for result in results for one in result.heard.statements]
    beats = [one for result in results for one in result.heard.beats.values()]
    counts: Counter[str] = Counter()
    examples: list[str] = []
    announced = _announced([*spoken, *beats])
    lost = _losses(spoken)
    for lane in lanes:
        _judge_lane(lane, announced, lost, counts, examples)
    sealed = {(lane.producer, lane.epoch, lane.stream, lane.partition) for lane in lanes}
    _judge_unseen(announced, sealed, counts, examples)
    counts["other_keys"] = _other_keys(spoken, results)
    for result in results:
        counts["quarantined"] += result.outcomes["quarantined"]
        counts["conflicts"] += result.conflict_count
        counts["broken_lanes"] += result.broken
        counts["late"] += result.late
        counts["faults"] += result.events[FAULT]
        counts["loss_events"] += result.events[_LOSS]
        counts["foreign_statements"] += result.heard.foreign
        counts["undecodable_statements"] += result.heard.undecodable
        examples += result.conflicts
    counts["producers_lost"] = sum(one.kind == "producer_lost" for one in spoken)
    missing = [_said(text, counts[name]) for name, text in _MISSING.items() if counts[name]]
    unsure = [_said(text, counts[name]) for name, text in _UNSURE.items() if counts[name]]
    if not are_statements_read:
        unsure.append("producers' own statements are in payloads that were not read")
    verdict: Verdict = "no" if missing else "unknown" if unsure else "yes"
    shown = {name: counts[name] for name in (*_MISSING, *_UNSURE, "foreign_statements")}
    return Completeness(verdict, shown, (*missing, *unsure), tuple(examples[:MAX_EXAMPLES]))


def _said(text: str, count: int) -> str:
    """The sentence with its number; what stands in brackets is there for any number but 1."""
    return re.sub(r"\[(\w+)\]", "" if count == 1 else r"\1", text).format(count)


_MISSING = {
    "gap_numbers": "{} number[s] missing in gaps that are still open",
    "announced_unsealed": "{} number[s] announced by producers and not sealed",
    "loss_numbers": "{} number[s] declared lost by producers",
    "loss_events": "{} loss event[s]",
    "faults": "{} input row[s] that could not be read (fault events)",
    "quarantined": "{} quarantined message[s]",
    "conflicts": "{} conflict[s]: two batches by one producer under one number",
    "broken_lanes": "{} place[s] where a lane's batches do not name one another",
    "late": "{} batch[es] sent after the epoch was replaced",
}
_UNSURE = {
    "open_lanes": "{} lane[s] without an end",
    "producers_lost": "{} producer[s] found dead without an end",
    "undecodable_statements": "{} undecodable statement[s] of producers",
    "other_keys": "{} opening key[s] of lanes that no producer's start names",
    "contradicted": "{} lane[s] with batches after the end that was said",
}


def _announced(statements: Sequence[Statement]) -> dict[_LaneKey, tuple[int, bool]]:
    """Lane -> (highest number announced, whether that was said to be its end)."""
    announced: dict[_LaneKey, tuple[int, bool]] = {}
    for one in statements:
        epoch = one.previous_epoch if one.kind == "producer_start" else one.epoch
        if one.kind not in ("producer_start", "producer_end", "heartbeat") or epoch is None:
            continue
        for head in one.heads:
            key = (one.producer, epoch, head.stream, head.partition)
            next_seq, is_end = announced.get(key, (0, False))
            announced[key] = (max(next_seq, head.next_seq), is_end or one.kind != "heartbeat")
    return announced


def _losses(statements: Sequence[Statement]) -> dict[_LaneKey, list[tuple[int, int]]]:
    lost: dict[_LaneKey, list[tuple[int, int]]] = {}
    for one in statements:
        if one.kind == "loss":
            head = one.heads[0]
            key = (one.producer, one.epoch, head.stream, head.partition)
            lost.setdefault(key, []).append((one.first_seq, one.count))
    return lost


def _judge_lane(
    lane: LaneEnd,
    announced: dict[_LaneKey, tuple[int, bool]],
    lost: dict[_LaneKey, list[tuple[int, int]]],
    counts: Counter[str],
    examples: list[str],
) -> None:
    key = (lane.producer, lane.epoch, lane.stream, lane.partition)
    gaps = sum(count for _, count in lane.missing)
    declared = min(gaps, sum(_overlap(part, gap) for part in lost.get(key, ()) for gap in lane.missing))
    counts["gap_numbers"] += gaps - declared
    counts["loss_numbers"] += declared
    if gaps:
        examples.append(f"{lane.name}: {gaps} numbers missing, {declared} of them declared lost")
    next_seq, is_end = announced.get(key, (0, False))
    if next_seq > lane.next_seq:
        trailing = (lane.next_seq, next_seq - lane.next_seq)
        gone = min(trailing[1], sum(_overlap(part, trailing) for part in lost.get(key, ())))
        counts["loss_numbers"] += gone
        counts["announced_unsealed"] += trailing[1] - gone
        examples.append(f"{lane.name}: {lane.next_seq} numbers sealed, {next_seq} announced")
    if lane.state in ("ended", "final"):
        return
    if not is_end:
        counts["open_lanes"] += 1
        examples.append(f"{lane.name}: no end after number {lane.next_seq - 1}")
    elif lane.next_seq > next_seq:
        counts["contradicted"] += 1
        examples.append(f"{lane.name}: {lane.next_seq} numbers sealed, its end was announced at {next_seq}")


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(0, min(one[0] + one[1], other[0] + other[1]) - max(one[0], other[0]))


def _other_keys(statements: Sequence[Statement], results: Sequence[PartitionResult]) -> int:
    """Keys in use that a producer_start of the same producer and epoch does not repeat: somebody used his name."""
    count = 0
    for one in statements:
        if one.kind == "producer_start":
            used = set().union(*(result.keys.get((one.producer, one.epoch), ()) for result in results))
            count += len(used - {one.public_key})
    return count


def _judge_unseen(
    announced: dict[_LaneKey, tuple[int, bool]], sealed: set[_LaneKey], counts: Counter[str], examples: list[str]
) -> None:
    """Lanes that were announced with events and of which nothing is sealed."""
    for key, (next_seq, _) in announced.items():
        if key not in sealed and next_seq:
            producer, epoch, stream, partition = key
            counts["announced_unsealed"] += next_seq
            lane = f"{printable(producer)} epoch {epoch} in {printable(stream)}/{partition}"
            examples.append(f"{lane}: {next_seq} numbers announced, none sealed")
