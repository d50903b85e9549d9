"""What is in a trail and how far it has come: read from its files, and in SQL where a query copy is at hand.

Three sources, each for what it knows best: locks in the spool say who lives,
logs and segments say what is sealed and stored, the query copy says what the
events are about. Without the copy the rest is still told. Nothing is checked
here: that is ``verify``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.checkpoint import parse_checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.note import split_note
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT, SEGMENT, log_prefix, segment_name
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.tiles import TileReader
from rlhf_audit_producers.spool_files import done_epoch, is_alive, producers
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.objects import NotStoredError, ObjectStore
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_ask import Asker, rows_of
from rlhf_audit_trail.runtime_start import is_running

_COUNTED = ("accepted", "gap_filled")
# In ClickHouse an alias hides a column of its name everywhere in the query, so columns are asked for by table.
_LANES = """
SELECT m.producer AS producer, m.epoch AS epoch, sumIf(m.events, m.outcome IN ('accepted', 'gap_filled')) AS events,
    sumMapIf(map(m.kind, toUInt64(m.events)), m.outcome IN ('accepted', 'gap_filled')) AS kinds,
    maxIf(m.final, m.stream = 'lifecycle') AS ended, toUnixTimestamp64Micro(max(m.ts)) AS last_us
FROM audit.messages AS m WHERE m.producer != '' GROUP BY m.producer, m.epoch
"""
_RUNS = """
SELECT s.run_id AS run_id, max(s.world_size) AS world_size, groupArray(s.expected_ranks) AS expected,
    any(s.algorithm) AS algorithm, any(s.parent_run_id) AS parent_run_id,
    toUnixTimestamp64Micro(min(s.ts)) AS started_us
FROM run_start AS s GROUP BY s.run_id
"""
_ENDS = "SELECT e.run_id AS run_id, argMax(e.outcome, e.ts) AS outcome FROM run_end AS e GROUP BY e.run_id"
_STEPS = """
SELECT p.run_id AS run_id, max(p.step) AS step, argMax(p.loss, p.step) AS loss FROM policy_update AS p GROUP BY p.run_id
"""
Place = tuple[str, int]  # stream and partition

_COPIED = "SELECT stream, partition, max(window) + 1 AS n FROM audit.windows GROUP BY stream, partition"
_LOST = "SELECT l.reason AS reason, sum(l.count) AS n FROM loss AS l GROUP BY l.reason"


@dataclass(slots=True)
class PartitionState:
    """One log. ``copied`` counts the windows in the query copy, None where that is not known."""

    stream: str
    partition: int
    entries: int
    windows: int
    closed_us: int
    copied: int | None = None


@dataclass(slots=True)
class ProducerState:
    """One epoch of a producer. ``state``: recording, ended, lost, superseded, being read, or no end said."""

    producer: str
    epoch: int
    events: int
    kinds: dict[str, int]
    last_us: int
    is_ended: bool
    state: str = "no end said"


@dataclass(slots=True)
class RunState:
    """One training run, or one file that was ingested."""

    run_id: str
    kind: str
    events: int
    kinds: dict[str, int]
    state: str
    ranks_seen: list[int] = field(default_factory=list)
    ranks_alive: list[int] = field(default_factory=list)
    ranks_missing: list[int] = field(default_factory=list)
    step: int | None = None
    loss: float | None = None
    algorithm: str | None = None
    parent_run_id: str | None = None
    started_us: int | None = None
    last_us: int = 0


@dataclass(slots=True)
class TrailState:
    """Everything, at one moment."""

    directory: str
    origin: str
    size: int
    root: str
    is_sealing: bool
    asked: str | None
    verified: str
    spool_bytes: int
    partitions: list[PartitionState]
    producers: list[ProducerState]
    runs: list[RunState]
    lost: dict[str, int]
    findings: int | None
    at_us: int
    not_asked: str | None = None
    brokers: str | None = None
    """Where the records are shipped to; None if they are sealed here."""
    workers: dict[str, int] = field(default_factory=dict)
    """With brokers: how many of which workers run on this directory."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def read_state(trail: StoredTrail, asker: Asker | None, *, not_asked: str | None = None) -> TrailState:
    """State of the trail; ``not_asked`` says why there is no asker. Raises CouldNotCheckError if there is no ledger."""
    places = trail.partitions()
    directory, objects = trail.directory, trail.objects
    text, _ = split_note(objects.get(GLOBAL_CHECKPOINT))
    head = parse_checkpoint(text)
    partitions = [
        state for stream, number in places if (state := stored_partition(objects, stream, number)) is not None
    ]
    lanes = _lanes(objects, partitions, asker)
    _judge(directory, lanes, asker)
    lost: dict[str, int] = {}
    findings: int | None = None
    if asker is not None:
        have = copied_windows(asker)
        for each in partitions:
            each.copied = have.get((each.stream, each.partition), 0)
        lost = {row["reason"]: int(row["n"]) for row in rows_of(asker, _LOST)}
        findings = int(rows_of(asker, "SELECT count() AS n FROM findings")[0]["n"])
    return TrailState(
        directory=str(directory),
        origin=head.origin,
        size=head.size,
        root=head.root.hex(),
        is_sealing=is_running(directory),
        asked=None if asker is None else asker.source,
        verified=_verified(head.origin),
        spool_bytes=_spool_bytes(directory),
        partitions=partitions,
        producers=lanes,
        runs=_runs(lanes, asker),
        lost=lost,
        findings=findings,
        at_us=time.time_ns() // 1000,
        not_asked=not_asked,
    )


def copied_windows(asker: Asker) -> dict[Place, int]:
    """How many windows of each partition whoever answers has."""
    return {(row["stream"], int(row["partition"])): int(row["n"]) for row in rows_of(asker, _COPIED)}


def stored_windows(objects: ObjectStore, place: Place) -> int:
    """How many windows of a partition are stored."""
    state = stored_partition(objects, *place)
    return 0 if state is None else state.windows


def missing_windows(trail: StoredTrail, asker: Asker) -> dict[Place, int]:
    """How many stored windows whoever answers lacks, by partition; those that lack none are left out."""
    have = copied_windows(asker)
    behind = {place: stored_windows(trail.objects, place) - have.get(place, 0) for place in trail.partitions()}
    return {place: count for place, count in behind.items() if count > 0}


def stored_partition(objects: ObjectStore, stream: str, number: int) -> PartitionState | None:
    prefix = log_prefix(stream, number)
    try:
        size = parse_checkpoint(split_note(objects.get(f"{prefix}/checkpoint"))[0]).size
    except NotStoredError:
        return None
    close = Close.decode(TileReader(size, lambda path: objects.get(f"{prefix}/{path}")).entry(size - 1))
    records = window_headers(objects, stream, number, close.window)
    return PartitionState(stream, number, size, close.window + 1, records[-1].ts_us)


def window_headers(objects: ObjectStore, stream: str, partition: int, window: int) -> list[SealHeader]:
    """Headers of one stored window."""
    name = segment_name(stream, partition, window)
    records = (SealedRecord.from_segment(raw) for raw in SEGMENT.decode(name, objects.get(name)))
    return [SealHeader.decode(record.header) for record in records]


def _lanes(objects: ObjectStore, partitions: Iterable[PartitionState], asker: Asker | None) -> list[ProducerState]:
    if asker is not None:
        return [
            ProducerState(
                producer=row["producer"],
                epoch=int(row["epoch"]),
                events=int(row["events"]),
                kinds={name: int(count) for name, count in sorted(row["kinds"].items()) if int(count)},
                last_us=int(row["last_us"]),
                is_ended=bool(row["ended"]),
            )
            for row in rows_of(asker, _LANES)
        ]
    found: dict[tuple[str, int], ProducerState] = {}
    for header in _headers(objects, partitions):
        batch = header.batch
        if batch is None:
            continue
        key = (batch.producer, batch.epoch)
        lane = found.setdefault(key, ProducerState(batch.producer, batch.epoch, 0, {}, 0, is_ended=False))
        lane.last_us = max(lane.last_us, header.ts_us)
        known = KINDS_BY_NUMBER.get(batch.kind)
        if header.outcome in _COUNTED:
            name = f"{batch.kind:#06x}" if known is None else known.name
            lane.events += batch.count
            lane.kinds[name] = lane.kinds.get(name, 0) + batch.count
        if batch.final and known is not None and known.stream == "lifecycle":
            lane.is_ended = True
    return list(found.values())


def _headers(objects: ObjectStore, partitions: Iterable[PartitionState]) -> Iterator[SealHeader]:
    for each in partitions:
        for window in range(each.windows):
            yield from window_headers(objects, each.stream, each.partition, window)


def _judge(directory: Path, lanes: list[ProducerState], asker: Asker | None) -> None:
    """Say of each epoch whether it records, ended, was lost or superseded; sort by last sign of life."""
    disk = RealDisk()
    alive: dict[str, int] = {}
    waiting: dict[tuple[str, int], None] = {}
    for folder, refs in producers(disk, directory / "spool"):
        if refs and is_alive(folder):
            alive[refs[-1].producer] = refs[-1].epoch
        waiting |= {(ref.producer, ref.epoch): None for ref in refs if ref.epoch > done_epoch(disk, folder)}
    known = {(lane.producer, lane.epoch) for lane in lanes}
    now_us = time.time_ns() // 1000
    lanes += [ProducerState(*key, 0, {}, now_us, is_ended=False) for key in waiting if key not in known]
    lost: set[tuple[str, int]] = set()
    if asker is not None:
        rows = rows_of(asker, "SELECT event_producer AS producer, event_epoch AS epoch FROM producer_lost")
        lost = {(row["producer"], int(row["epoch"])) for row in rows}
    newest: dict[str, int] = {}
    for lane in lanes:
        newest[lane.producer] = max(newest.get(lane.producer, 0), lane.epoch)
    for lane in lanes:
        if lane.is_ended:
            lane.state = "ended"
        elif alive.get(lane.producer) == lane.epoch:
            lane.state = "recording"
        elif (lane.producer, lane.epoch) in lost:
            lane.state = "lost"
        elif lane.epoch < newest[lane.producer]:
            lane.state = "superseded"
        else:
            lane.state = "being read" if (lane.producer, lane.epoch) in waiting else "no end said"
    lanes.sort(key=lambda lane: (lane.last_us, lane.producer), reverse=True)


def _runs(lanes: Iterable[ProducerState], asker: Asker | None) -> list[RunState]:
    found: dict[str, RunState] = {}
    for lane in lanes:
        run_id, kind, rank = _run_of(lane.producer)
        if kind == "runtime":
            continue
        run = found.setdefault(run_id, RunState(run_id, kind, 0, {}, ""))
        run.events += lane.events
        run.last_us = max(run.last_us, lane.last_us)
        for name, count in lane.kinds.items():
            run.kinds[name] = run.kinds.get(name, 0) + count
        if rank is not None:
            run.ranks_seen = sorted({*run.ranks_seen, rank})
            if lane.state == "recording":
                run.ranks_alive = sorted({*run.ranks_alive, rank})
        run.state = _worse(run.state, lane.state)
    if asker is not None:
        _add_facts(found, asker)
    return sorted(found.values(), key=lambda run: run.last_us, reverse=True)


def _add_facts(runs: Mapping[str, RunState], asker: Asker) -> None:
    """What the events themselves say of a run."""
    for row in rows_of(asker, _RUNS):
        run = runs.get(row["run_id"])
        if run is not None:
            announced = {int(rank) for ranks in row["expected"] for rank in ranks}
            expected = sorted(announced) or range(int(row["world_size"]))
            run.ranks_missing = [rank for rank in expected if rank not in run.ranks_seen]
            run.algorithm, run.parent_run_id = row["algorithm"], row["parent_run_id"]
            run.started_us = int(row["started_us"])
    for row in rows_of(asker, _STEPS):
        if row["run_id"] in runs:
            runs[row["run_id"]].step, runs[row["run_id"]].loss = int(row["step"]), row["loss"]
    for row in rows_of(asker, _ENDS):
        run = runs.get(row["run_id"])
        if run is not None and run.state == "ended":
            run.state = str(row["outcome"])


_NODE = re.compile(r"@[0-9a-f]{8}(?=/[0-9]+$|$)")  # a rank of a node that has a kit
_BADNESS = ("", "superseded", "ended", "being read", "no end said", "lost", "recording")


def _worse(one: str, other: str) -> str:
    """A run is as far as its ranks: while one records it does, and one that was lost shows."""
    return max(one, other, key=_BADNESS.index)


def _run_of(producer: str) -> tuple[str, str, int | None]:
    """Run id, what it is, and rank: ``<run>/<rank>[@node][/n]``, ``ingest/<hex>``, ``runtime|shipper/<hex>[/n]``."""
    head, _, _ = producer.partition("/")
    if head in ("ingest", "runtime", "shipper"):
        return producer, "ingest" if head == "ingest" else "runtime", None
    producer = _NODE.sub("", producer)
    run_id, _, last = producer.rpartition("/")
    before, _, rank = run_id.rpartition("/")
    if before and rank.isdigit() and last.isdigit():
        return before, "run", int(rank)
    return (run_id, "run", int(last)) if run_id and last.isdigit() else (producer, "run", None)


def _spool_bytes(directory: Path) -> int:
    """Bytes that are recorded and not stored yet."""
    root = directory / "spool" / "producers"
    total = 0
    for path in root.glob("*/*/*") if root.exists() else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # stored and deleted meanwhile
    return total


def _verified(origin: str) -> str:
    """What the last ``verify`` of this user on this machine accepted of this ledger, in words."""
    if find_spec("rlhf_audit_auditor.memory") is None:
        return "never here"
    memory = import_module("rlhf_audit_auditor.memory")
    import os

    try:
        ledger_id = bytes.fromhex(origin.split("/")[-2])
        data = memory.default_memory(os.environ).read(ledger_id)
        return "never here" if data is None else f"up to size {parse_checkpoint(split_note(data)[0]).size}"
    except (AuditTrailError, ValueError, IndexError):
        return "not known"
