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

from rlhf_audit_ledger.batch import BatchBody, event_digest, open_envelope
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.entries import QUARANTINE, EntryClass, event_class
from rlhf_audit_ledger.header import OUTCOMES, BatchFacts
from rlhf_audit_ledger.merkle import leaf_hash
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_sinks.clickhouse.columns import DATABASE, LEDGER_COLUMNS, TIME, Column, event_columns
from rlhf_audit_sinks.clickhouse.event_decoder import decode_events

_QUARANTINE_HEAD = bytes((1, EntryClass.QUARANTINE))


@dataclass(slots=True)
class Block:
    """Rows of one table: columns of one length. ``part`` tells two blocks for one table apart."""

    table: str
    columns: tuple[Column, ...]
    values: dict[str, list[Any]]
    part: str

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.values.values())))


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
    """Ledger columns of the events of one table, gathered before they are decoded."""

    rows: dict[str, list[Any]] = field(default_factory=lambda: {column.name: [] for column in LEDGER_COLUMNS})


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
        _decode(blocks, findings, kind, schema, place.rows)
    found = [block for block in blocks.values() if block.rows]
    if findings["leaf_index"]:
        found.append(Block(FINDINGS_TABLE, FINDING_COLUMNS, findings, FINDINGS_TABLE))
    found.append(Block(MESSAGES_TABLE, MESSAGE_COLUMNS, messages, MESSAGES_TABLE))
    close_hash = leaf_hash(last.record.close)
    row = _window_row(close, close_hash, last, erased=erased, findings=len(findings["leaf_index"]))
    found.append(Block(WINDOWS_TABLE, WINDOW_COLUMNS, {name: [value] for name, value in row.items()}, WINDOWS_TABLE))
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
    indexes = range(index + own, index + own + len(events))
    seqs = range(batch.first_seq, batch.end_seq)
    if b"" in events:
        nothing = leaf_hash(bytes((1, event_class(close.stream))) + event_digest(batch.kind, batch.schema, b""))
        kept = [n for n, event in enumerate(events) if event or leaves[n] == nothing]
    else:
        kept = None
    rows = places.setdefault((batch.kind, batch.schema), _Place()).rows
    count = len(events) if kept is None else len(kept)
    rows["stream"] += [close.stream] * count
    rows["partition"] += [close.partition] * count
    rows["window"] += [close.window] * count
    rows["producer"] += [batch.producer] * count
    rows["epoch"] += [batch.epoch] * count
    rows["schema"] += [batch.schema] * count
    rows["leaf_index"] += _kept(indexes, kept)
    rows["leaf_hash"] += _kept(leaves, kept)
    rows["seq"] += _kept(seqs, kept)
    rows["body"] += _kept(events, kept)
    return len(events) - count


def _kept(values: Sequence[Any], kept: list[int] | None) -> Sequence[Any]:
    return values if kept is None else [values[n] for n in kept]


def _decode(
    blocks: dict[str, Block], findings: dict[str, list[Any]], kind: int, schema: int, rows: dict[str, list[Any]]
) -> None:
    """Turn gathered events into rows of their kind's table; what cannot be decoded goes to ``findings``."""
    known = KINDS_BY_NUMBER.get(kind)
    if known is None or schema not in known.versions:
        bad = dict.fromkeys(range(len(rows["body"])), "unknown_kind")
        columns: tuple[Column, ...] = ()
        values: dict[str, list[Any]] = {}
    else:
        columns = event_columns(kind, schema)
        values, bad = decode_events(kind, schema, columns, rows["body"])
    if bad:
        for name in rows:
            findings[name] += [rows[name][n] for n in bad]
        findings["kind"] += [kind] * len(bad)
        findings["reason"] += bad.values()
        rows = {name: [value for n, value in enumerate(column) if n not in bad] for name, column in rows.items()}
    if known is None or not rows["body"]:
        return
    table = f"{DATABASE}.{known.name}"
    part = table if schema == 1 else f"{table}.v{schema}"
    blocks[part] = Block(table, (*LEDGER_COLUMNS, *columns), {**rows, **values}, part)


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
