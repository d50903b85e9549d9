"""A sealed window as blocks of rows: one block per table, in columns.

Events come from the batch in each record's value. Every event is decoded on
its own and exactly, so no event's bytes can reach another event's row; bytes
that do not decode to the end become a row of ``findings`` and nothing else.
An event that was erased (empty bytes whose leaf is not that of empty bytes)
has no row; its leaf stays in the log and the window counts it.

Pure: the same window gives the same blocks, so a retry inserts the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rlhf_audit_ledger.batch import BatchBody, event_digest, open_envelope
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.entries import QUARANTINE, EntryClass, event_class
from rlhf_audit_ledger.header import OUTCOMES, BatchFacts
from rlhf_audit_ledger.merkle import leaf_hash
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_sinks.clickhouse.arrow import array_of, batch_of
from rlhf_audit_sinks.clickhouse.columns import DATABASE, LEDGER_COLUMNS, TIME, Column, event_columns
from rlhf_audit_sinks.clickhouse.event_decoder import decode_events

_QUARANTINE_HEAD = bytes((1, EntryClass.QUARANTINE))


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one table, an Arrow record batch. ``part`` tells two blocks for one table apart."""

    table: str
    batch: Any
    part: str

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.batch.num_rows)


FINDINGS_TABLE = f"{DATABASE}.findings"
MESSAGES_TABLE = "audit.messages"
WINDOWS_TABLE = "audit.windows"

FINDING_COLUMNS = (*LEDGER_COLUMNS, Column("kind", "UInt16", "uint16"), Column("reason", "String", "string"))

MESSAGE_COLUMNS = (
    Column("stream", "LowCardinality(String)", "string"),
    Column("partition", "UInt32", "uint32"),
    Column("window", "UInt64", "uint64"),
    Column("m", "UInt64", "uint64"),
    Column("source_offset", "UInt64", "uint64"),
    Column("end_offset", "Nullable(UInt64)", "?uint64"),
    Column("ts", TIME, "time"),
    Column("outcome", "LowCardinality(String)", "string"),
    Column("reason", "LowCardinality(String)", "string"),
    Column("first_leaf_index", "UInt64", "uint64"),
    Column("leaves", "UInt32", "uint32"),
    Column("producer", "LowCardinality(String)", "string"),
    Column("epoch", "UInt32", "uint32"),
    Column("first_seq", "UInt64", "uint64"),
    Column("events", "UInt32", "uint32"),
    Column("kind", "LowCardinality(String)", "string"),
    Column("schema", "UInt16", "uint16"),
    Column("final", "Bool", "boolean"),
    Column("signature", "LowCardinality(String)", "string"),
    Column("prev_batch", "FixedString(32)", "fixed32"),
    Column("batch_digest", "FixedString(32)", "fixed32"),
    Column("value_digest", "FixedString(32)", "fixed32"),
    Column("link", "FixedString(32)", "fixed32"),
)

WINDOW_COLUMNS = (
    Column("stream", "LowCardinality(String)", "string"),
    Column("partition", "UInt32", "uint32"),
    Column("window", "UInt64", "uint64"),
    Column("close_hash", "FixedString(32)", "fixed32"),
    Column("ledger_id", "FixedString(16)", "fixed16"),
    Column("first_index", "UInt64", "uint64"),
    Column("end_index", "UInt64", "uint64"),
    Column("opened_at", TIME, "time"),
    Column("closed_at", TIME, "time"),
    Column("events", "UInt64", "uint64"),
    *(Column(outcome, "UInt64", "uint64") for outcome in OUTCOMES),
    Column("open_gaps", "UInt64", "uint64"),
    Column("erased", "UInt64", "uint64"),
    Column("findings", "UInt64", "uint64"),
    Column("window_root", "FixedString(32)", "fixed32"),
    Column("source_id", "FixedString(16)", "fixed16"),
    Column("first_offset", "UInt64", "uint64"),
    Column("next_offset", "UInt64", "uint64"),
    Column("m", "UInt64", "uint64"),
    Column("link", "FixedString(32)", "fixed32"),
    Column("lanes", "UInt32", "uint32"),
    Column("lanes_digest", "FixedString(32)", "fixed32"),
    Column("previous_close", "Nullable(UInt64)", "?uint64"),
    Column("tick_counter", "UInt64", "uint64"),
    Column("tick_number", "Int64", "long"),
    Column("closed_number", "Int64", "long"),
    Column("log_size", "UInt64", "uint64"),
    Column("checkpoint", "String", "bytes"),
    Column("close", "String", "bytes"),
)


@dataclass(slots=True)
class _Place:
    """Where the events of one table stand in the record, batch by batch."""

    batches: list[BatchFacts] = field(default_factory=list)
    indexes: list[Any] = field(default_factory=list)
    seqs: list[Any] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def add(
        self, batch: BatchFacts, first_index: int, at: Any, leaves: Sequence[bytes], bodies: Sequence[bytes]
    ) -> None:
        """Gather events of a batch: ``at`` holds their positions in it."""
        self.batches.append(batch)
        self.indexes.append(at + first_index)
        self.seqs.append(at + batch.first_seq)
        self.leaves += leaves
        self.bodies += bodies

    def ledger_batch(self, close: Close, schema: int) -> Any:
        """The columns of the ledger, a row per event."""
        count = len(self.batches)
        of_batch = {
            "stream": [close.stream] * count,
            "partition": [close.partition] * count,
            "window": [close.window] * count,
            "producer": [batch.producer for batch in self.batches],
            "epoch": [batch.epoch for batch in self.batches],
            "schema": [schema] * count,
        }
        of_event = {
            "leaf_index": np.concatenate(self.indexes),
            "leaf_hash": self.leaves,
            "seq": np.concatenate(self.seqs),
            "body": self.bodies,
        }
        batch_of_event = pa.array(np.repeat(np.arange(count), [len(seqs) for seqs in self.seqs]))
        arrays = [
            array_of(column, of_event[column.name])
            if column.name in of_event
            else array_of(column, of_batch[column.name]).take(batch_of_event)
            for column in LEDGER_COLUMNS
        ]
        return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in LEDGER_COLUMNS])


@dataclass(frozen=True, slots=True)
class WindowBlocks:
    """All blocks of one window, in the order of insertion: the window's own row comes last and means "all is there"."""

    close: Close
    close_hash: bytes
    first_m: int
    blocks: tuple[Block, ...]


def blocks_of(window: Sequence[Sealed]) -> WindowBlocks:
    """Blocks of a window: all records since the last close, the last of which closes it."""
    last = window[-1]
    if last.close is None or last.record.close is None or last.record.checkpoint is None:
        raise ValueError("a window ends with its close")
    close = last.close
    first_m = close.m - len(window) + 1
    messages: dict[str, list[Any]] = {column.name: [] for column in MESSAGE_COLUMNS}
    places: dict[tuple[int, int], _Place] = {}
    index, erased = close.first_index, 0
    for n, one in enumerate(window):
        _add_message(messages, close, first_m + n, index, one)
        erased += _add_events(places, close, index, one)
        index += len(one.leaves)
    blocks: dict[str, Block] = {}
    findings: dict[str, list[Any]] = {column.name: [] for column in FINDING_COLUMNS}
    for (kind, schema), place in sorted(places.items()):
        _decode(blocks, findings, (kind, schema), place.ledger_batch(close, schema), place.bodies)
    found = [block for block in blocks.values() if block.rows]
    if findings["leaf_index"]:
        found.append(Block(FINDINGS_TABLE, batch_of(FINDING_COLUMNS, findings), FINDINGS_TABLE))
    found.append(Block(MESSAGES_TABLE, batch_of(MESSAGE_COLUMNS, messages), MESSAGES_TABLE))
    close_hash = leaf_hash(last.record.close)
    row = _window_row(close, close_hash, last, erased=erased, findings=len(findings["leaf_index"]))
    window_row = batch_of(WINDOW_COLUMNS, {name: [value] for name, value in row.items()})
    found.append(Block(WINDOWS_TABLE, window_row, WINDOWS_TABLE))
    return WindowBlocks(close, close_hash, first_m, tuple(found))


def _add_message(into: Mapping[str, list[Any]], close: Close, m: int, index: int, one: Sealed) -> None:
    header, batch = one.header, one.header.batch
    row = {
        "stream": close.stream,
        "partition": close.partition,
        "window": close.window,
        "m": m,
        "source_offset": header.offset,
        "end_offset": header.end_offset,
        "ts": header.ts_us,
        "outcome": header.outcome,
        "reason": _reason(one.record.entries),
        "first_leaf_index": index,
        "leaves": len(one.leaves),
        "value_digest": header.value_digest,
        "link": one.record.link,
        **_batch_row(batch),
    }
    for name, value in row.items():
        into[name].append(value)


def _batch_row(batch: BatchFacts | None) -> dict[str, Any]:
    if batch is None:
        return _NO_BATCH_ROW
    known = KINDS_BY_NUMBER.get(batch.kind)
    return {
        "producer": batch.producer,
        "epoch": batch.epoch,
        "first_seq": batch.first_seq,
        "events": batch.count,
        "kind": f"{batch.kind:#06x}" if known is None else known.name,
        "schema": batch.schema,
        "final": batch.final,
        "signature": batch.signature,
        "prev_batch": batch.prev_batch,
        "batch_digest": batch.digest,
    }


_NO_BATCH_ROW: dict[str, Any] = {
    "producer": "",
    "epoch": 0,
    "first_seq": 0,
    "events": 0,
    "kind": "",
    "schema": 0,
    "final": False,
    "signature": "",
    "prev_batch": bytes(32),
    "batch_digest": bytes(32),
}


def _reason(entries: Sequence[bytes]) -> str:
    for entry in entries:
        if entry[:2] == _QUARANTINE_HEAD:
            return str(QUARANTINE.decode(entry[2:])["reason"])
    return ""


def _add_events(places: dict[tuple[int, int], _Place], close: Close, index: int, one: Sealed) -> int:
    """Gather the events of one record; returns how many of them are erased."""
    batch = one.header.batch
    own = len(one.record.entries)
    leaves = one.leaves[own:]
    if batch is None or not leaves:
        return 0
    if one.record.value is None:
        return len(leaves)
    events: Sequence[bytes] = BatchBody.decode(open_envelope(one.record.value)[0]).events
    if len(events) != len(leaves):
        raise FormatError(f"offset {one.header.offset}: {len(leaves)} leaves for {len(events)} events")
    at = np.arange(len(events), dtype=np.int64)
    if b"" in events:
        nothing = leaf_hash(bytes((1, event_class(close.stream))) + event_digest(batch.kind, batch.schema, b""))
        at = np.array([n for n, event in enumerate(events) if event or leaves[n] == nothing], np.int64)
        kept = at.tolist()
        leaves, events = [leaves[n] for n in kept], [events[n] for n in kept]
    places.setdefault((batch.kind, batch.schema), _Place()).add(batch, index + own, at, leaves, events)
    return len(one.leaves) - own - len(events)


def _decode(
    blocks: dict[str, Block],
    findings: dict[str, list[Any]],
    written_as: tuple[int, int],
    ledger: Any,
    bodies: Sequence[bytes],
) -> None:
    """Turn gathered events into rows of their kind's table; what cannot be decoded goes to ``findings``."""
    kind, schema = written_as
    known = KINDS_BY_NUMBER.get(kind)
    if known is None or schema not in known.versions:
        bad = dict.fromkeys(range(len(bodies)), "unknown_kind")
        arrays: dict[str, Any] = {}
    else:
        arrays, bad = decode_events(kind, schema, event_columns(kind, schema), bodies)
    if bad:
        refused = ledger.take(pa.array(list(bad)))
        for column in LEDGER_COLUMNS:
            findings[column.name] += refused.column(column.name).to_pylist()
        findings["kind"] += [kind] * len(bad)
        findings["reason"] += bad.values()
        ledger = ledger.take(pa.array([n for n in range(len(bodies)) if n not in bad], type=pa.int64()))
    if known is None or not ledger.num_rows:
        return
    table = f"{DATABASE}.{known.name}"
    part = table if schema == 1 else f"{table}.v{schema}"
    names = [*ledger.schema.names, *arrays]
    blocks[part] = Block(table, pa.RecordBatch.from_arrays([*ledger.columns, *arrays.values()], names=names), part)


def _window_row(close: Close, close_hash: bytes, last: Sealed, *, erased: int, findings: int) -> dict[str, Any]:
    return {
        "stream": close.stream,
        "partition": close.partition,
        "window": close.window,
        "close_hash": close_hash,
        "ledger_id": close.ledger_id,
        "first_index": close.first_index,
        "end_index": close.end_index,
        "opened_at": close.opened_us,
        "closed_at": last.header.ts_us,
        "events": close.events,
        **dict(zip(OUTCOMES, close.counts, strict=True)),
        "open_gaps": close.open_gaps,
        "erased": erased,
        "findings": findings,
        "window_root": close.window_root,
        "source_id": close.source_id,
        "first_offset": close.first_offset,
        "next_offset": close.next_offset,
        "m": close.m,
        "link": close.link,
        "lanes": close.lanes,
        "lanes_digest": close.lanes_digest,
        "previous_close": close.previous_close,
        "tick_counter": close.ticks.counter,
        "tick_number": close.ticks.number,
        "closed_number": close.ticks.closed_number,
        "log_size": close.size,
        "checkpoint": last.record.checkpoint,
        "close": last.record.close,
    }
