"""One window run again: from payloads where they can be read, else from the public record alone.

Nothing is committed here: a run either gives everything the window did, or
raises with the first contradiction, and the caller decides what to try next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_audit_auditor.log_reader import LogReader
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.entries import EVENT_ENTRY_BYTES, event_class
from rlhf_audit_ledger.fold import FoldError, fold, replay
from rlhf_audit_ledger.lanes import LaneRow
from rlhf_audit_ledger.merkle import leaf_hash
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState
from rlhf_audit_ledger.step import Advance, Move
from rlhf_audit_ledger.vault import VaultRecord


@dataclass(frozen=True, slots=True)
class Step:
    """One source message: the producer's row before it, what it did, its value where it was read."""

    before: LaneRow | None
    move: Move
    value: bytes | None


@dataclass(slots=True)
class WindowRun:
    """Everything a window did. ``entries`` and ``leaves`` have its close last."""

    state: SealState
    close: Close
    checkpoint: bytes
    entries: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def run_window(
    settings: PartitionSettings,
    state: SealState,
    records: Sequence[SealedRecord],
    payload: Sequence[VaultRecord] | None,
    reader: LogReader,
) -> WindowRun:
    """Run a window from its first record to its close.

    Raises FoldError or FormatError at the first contradiction, LogGapError where entries are needed and missing.
    """
    if payload is not None and len(payload) != len(records):
        raise FoldError(f"{len(payload)} payloads for {len(records)} records")
    entries: list[bytes] = []
    leaves: list[bytes] = []
    steps: list[Step] = []
    last = len(records) - 1
    for index, record in enumerate(records):
        vaulted = None if payload is None else payload[index]
        move, result = _step(settings, state, record, vaulted, reader)
        batch = move.header.batch
        before = None if batch is None else state.lanes.get(batch.producer)
        steps.append(Step(before, move, None if vaulted is None else vaulted.value))
        entries += record.entries
        entries += move.event_entries
        leaves += result.leaves
        state = result.state
        if (result.close is not None) != (index == last):
            raise FoldError(f"offset {move.header.offset}: a segment ends with its close, and only there")
        if result.close is not None and record.close is not None and record.checkpoint is not None:
            entries.append(record.close)
            leaves.append(leaf_hash(record.close))
            return WindowRun(state, result.close, record.checkpoint, entries, leaves, steps)
    raise FoldError("a segment without a close")


def _step(
    settings: PartitionSettings,
    state: SealState,
    record: SealedRecord,
    vaulted: VaultRecord | None,
    reader: LogReader,
) -> tuple[Move, Advance]:
    if vaulted is None:
        return _fold(settings, state, record, reader)
    if vaulted.erased is not None:
        raise FoldError(f"offset {vaulted.offset}: erased events in an object of generation 0")
    if vaulted.value is None:
        move, result = _fold(settings, state, record, reader)
        if move.header.outcome != "hole":
            raise FoldError(f"offset {move.header.offset}: sealed as {move.header.outcome}, the vault holds nothing")
    else:
        # The events are compared with the log as whole bundles, by ``Rebuild``.
        move, result = replay(settings, state, record, vaulted.value, vaulted.salt)
    if vaulted.offset != move.header.offset:
        raise FoldError(f"offset {move.header.offset}: the vault says {vaulted.offset}")
    return move, result


def _fold(
    settings: PartitionSettings, state: SealState, record: SealedRecord, reader: LogReader
) -> tuple[Move, Advance]:
    head = bytes((1, event_class(settings.stream.stream)))

    def take(count: int) -> Sequence[bytes]:
        taken = reader.slice(state.tree.size + len(record.entries), max(count, 0))
        if any(len(entry) != EVENT_ENTRY_BYTES or not entry.startswith(head) for entry in taken):
            raise FoldError("an entry is no event of this stream where one must stand")
        return taken

    return fold(settings, state, record, take)
