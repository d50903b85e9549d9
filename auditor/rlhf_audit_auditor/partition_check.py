"""One partition checked from its first entry to its checkpoint, and the tail beyond it.

For each window, in order; one window is in memory at a time:

1. The segment decodes strictly; its records are run again, from payloads where they can be read (``windows``).
2. Log entries, leaf hashes and tiles are built from that and compared with the log byte for byte (``rebuild``).
3. The window's checkpoint is signed, by nobody else besides, is the size and root of what was built, and the global
   log names it, next in order, or ends before it (``window_checkpoints``).
4. Ticks name states of the global log that existed, in order, before this window's own checkpoint (``ticks``).
5. Switches of source and format are told, and no source goes back to a log that was left.
6. Lanes, duplicates and the statements of producers are noted (``lane_watch``, ``duplicates``, ``statements``).

A window that contradicts is a finding; its entries are then taken from the
log, and the next one is run again as soon as the lane table is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rlhf_audit_auditor.duplicates import Duplicates
from rlhf_audit_auditor.evidence import Below, UnreadableError
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.global_log import RootAt, checkpoints_of
from rlhf_audit_auditor.lane_watch import LaneWatch
from rlhf_audit_auditor.log_reader import LogGapError, LogReader
from rlhf_audit_auditor.partition_result import PartitionResult, PartitionTask
from rlhf_audit_auditor.payloads import Payloads
from rlhf_audit_auditor.rebuild import Rebuild
from rlhf_audit_auditor.signed import read_statement
from rlhf_audit_auditor.statements import READ
from rlhf_audit_auditor.ticks import TickCheck
from rlhf_audit_auditor.window_checkpoints import WindowCheckpoints
from rlhf_audit_auditor.window_run import WindowRun
from rlhf_audit_auditor.windows import Windows
from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_ledger.checkpoint import Checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.control import FormatSwitch, SourceSwitch
from rlhf_audit_ledger.entries import EntryClass
from rlhf_audit_ledger.fold import FoldError
from rlhf_audit_ledger.header import OUTCOMES
from rlhf_audit_ledger.merkle import leaf_hash, leaf_hashes
from rlhf_audit_ledger.objects import log_prefix, segment_name, vault_name
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import UnknownFormatError, genesis_entry
from rlhf_audit_schemas.errors import FormatError

Progress = Callable[[int], object]  # entries checked since the last call


def check_partition(task: PartitionTask, progress: Progress) -> PartitionResult:
    """Check one partition; what is there and cannot be read ends its check and no other."""
    started = time.process_time()
    check = _PartitionCheck(task, progress)
    try:
        check.run()
    except (UnreadableError, UnknownFormatError) as error:
        check.result.is_cut_short = True
        check.result.findings.could_not_read(str(error))
    check.result.cpu_s = time.process_time() - started
    return check.result


class _PartitionCheck:
    def __init__(self, task: PartitionTask, progress: Progress) -> None:
        self._task, self._progress = task, progress
        self._settings, self._objects = task.settings, task.trail.objects
        self._stream, self._partition = task.settings.stream.stream, task.settings.partition
        self._log = Below(self._objects, f"{log_prefix(self._stream, self._partition)}/")
        self._findings = Findings(self._stream, self._partition)
        self._vault = task.trail.vault
        self._payloads = Payloads(self._vault, task.trail.vault_key, self._stream, self._partition, self._findings)
        self.result = PartitionResult(self._stream, self._partition, self._findings, payloads=self._payloads.counts)
        self._watch = LaneWatch(self._stream, self._partition, self._findings)
        self._duplicates = Duplicates(self._objects, self._watch)
        self._ticks = TickCheck(RootAt(self._objects, task.global_size), self._findings)
        self._sources: set[bytes] = set()
        self._checkpoints = WindowCheckpoints(
            self._objects, task.key, task.settings.origin, task.global_size, self.result
        )

    def run(self) -> None:
        """Check everything; what is found is in ``result``."""
        head, data = self._head()
        result = self.result
        if head is None and not self._has_tail():
            return
        result.is_used = True
        result.size = 0 if head is None else head.size
        self._rebuild = Rebuild(self._log, result.size, self._findings)
        reader = LogReader(self._log, result.size)
        self._windows = Windows(self._settings, self._objects, self._payloads, reader, self._findings)
        genesis = genesis_entry(self._settings)
        self._rebuild.append([genesis], [leaf_hash(genesis)])
        last: bytes | None = b""
        while self._rebuild.size < result.size:
            last = self._window(result.windows)
            if last is None:
                break
            result.windows += 1
        if head is not None:
            self._end(head, data, last or b"")
        self._tail(result.windows)
        self._checkpoints.end()
        self._summarize()

    def _head(self) -> tuple[Checkpoint | None, bytes]:
        """The partition's checkpoint; where it cannot be opened, the newest one that the global log holds."""
        obj = f"{self._log.prefix}checkpoint"
        origin = self._settings.origin
        data = self._log.get("checkpoint")
        if data is not None:
            head = self._task.key.open(data, origin, self._findings, obj=obj)
            if head is not None:
                return head, data
        newest = b""
        for _, entry in checkpoints_of(self._objects, self._task.global_size, origin):
            newest = entry
        if not newest:
            return None, b""
        if data is None:
            self._findings.add("checkpoint", "is missing, the global log names this partition", obj=obj)
        return read_statement(newest), newest

    def _has_tail(self) -> bool:
        if self._objects.get(segment_name(self._stream, self._partition, 0)) is not None:
            return True
        return self._vault is not None and self._vault.get(vault_name(self._stream, self._partition, 0)) is not None

    def _window(self, window: int) -> bytes | None:
        """Check one window; its checkpoint (empty if unknown), None if the log cannot be read on."""
        before = self._rebuild.size
        records = self._windows.segment(window)
        if records is None:
            self._payloads.open(window)
        run = None if records is None else self._windows.run(window, records)
        if run is not None:
            self._rebuild.append(run.entries, run.leaves)
            self._note(window, run)
        else:
            entries = self._windows.skip(window, before, records or [])
            if entries is None:
                return None
            self._rebuild.append(entries, leaf_hashes(entries))
        checkpoint = (records[-1].checkpoint if records else None) or b""
        name = segment_name(self._stream, self._partition, window)
        index = self._checkpoints.see(window, name, checkpoint, self._rebuild)
        if run is not None:
            self._ticks.see(window, [step.move.tick.tick for step in run.steps if step.move.tick is not None], index)
        self._progress(self._rebuild.size - before)
        return checkpoint

    def _note(self, window: int, run: WindowRun) -> None:
        """Lanes, statements and counts of a window that holds."""
        self._see_source(window, run)
        for step in run.steps:
            header = step.move.header
            batch = header.batch
            self._watch.see(step.before, step.move, step.value, window)
            if batch is None:
                continue
            if header.outcome == "duplicate":
                self._duplicates.add(batch, window)
            if step.move.row is not None and batch.kind in READ and step.value is not None:
                self.result.heard.hear(batch, BatchBody.decode(open_envelope(step.value)[0]).events)
        for outcome, count in zip(OUTCOMES, run.close.counts, strict=True):
            self.result.outcomes[outcome] += count
        self.result.messages += len(run.steps)
        self.result.newest_us = run.steps[-1].move.header.ts_us

    def _see_source(self, window: int, run: WindowRun) -> None:
        """The window's source log, and where a switch leads: offsets of one log are never sealed twice."""
        last = run.steps[-1].move
        self._sources.add(last.header.source_id)
        name, switch = f"{self._stream}/{self._partition}", last.switch
        if isinstance(switch, FormatSwitch):
            self._findings.note(f"{name} goes on in format {switch.format}, behind window {window}")
        if not isinstance(switch, SourceSwitch):
            return
        new = switch.new_source_id
        place = f"source log {new.hex()} at offset {switch.next_offset}"
        self._findings.note(f"{name} goes on in {place}, behind window {window}")
        if new in self._sources:
            self._findings.add("source", f"goes back to source log {new.hex()}, which it had left", window=window)

    def _end(self, head: Checkpoint, data: bytes, last: bytes) -> None:
        """The partition's own checkpoint is that of its last window, and nothing is left of the log."""
        obj = f"{self._log.prefix}checkpoint"
        if self._rebuild.size != head.size:
            message = f"signs size {head.size}, the windows end at {self._rebuild.size}"
            self._findings.add("checkpoint", message, obj=obj)
            return
        self._rebuild.compare_partials()
        if last and last != data:
            self._findings.add("checkpoint", "is not the one of the last window", obj=obj)
        elif not last and self._rebuild.root() != head.root:
            self._findings.add("checkpoint", "signs another root than the log gives", obj=obj)

    def _tail(self, window: int) -> None:
        """What a crash may have left of one next window: complete and consistent, or a finding."""
        result = self.result
        name = segment_name(self._stream, self._partition, window)
        vaulted = vault_name(self._stream, self._partition, window)
        if self._rebuild.size != max(result.size, 1):
            return
        result.has_pending_vault = self._vault is not None and self._vault.get(vaulted) is not None
        if self._objects.get(name) is None:
            if result.has_pending_vault:
                self._payload_only(window, f"vault/{vaulted}")
            return
        result.has_pending_segment = True
        records = self._windows.segment(window)
        if records is None:
            return
        payload = self._payloads.open(window) if result.has_pending_vault else None
        try:
            reader = LogReader(self._log, _size_of(records))
            run = self._windows.run_pending(window, records, payload, reader)
        except LogGapError as error:
            result.pending.append(f"window {window}: segment only ({error}), not run again")
            return
        except (FoldError, FormatError) as error:
            self._findings.add("pending", str(error), window=window, obj=name)
            return
        self._rebuild.append(run.entries, run.leaves)
        self._rebuild.compare_partials()
        self._checkpoints.check(window, name, run.checkpoint, self._rebuild)
        result.pending_size = self._rebuild.size
        if result.oldest_pending_us is None:
            result.oldest_pending_us = run.steps[-1].move.header.ts_us
        result.pending.append(f"window {window}: stored, the partition's checkpoint does not name it yet")

    def _payload_only(self, window: int, obj: str) -> None:
        """The payload object of a window whose segment was not stored: it goes on where the last window ended."""
        state = self._windows.state
        records = self._payloads.open(window)
        if records and state is not None and records[0].offset != state.next_offset:
            message = f"begins at offset {records[0].offset}, the last window ends at {state.next_offset}"
            self._findings.add("pending", message, window=window, obj=obj)
            return
        self.result.pending.append(f"window {window}: payload only, {obj}")

    def _summarize(self) -> None:
        result, watch = self.result, self._watch
        self._duplicates.compare(result.windows - 1)
        result.events, result.reasons = watch.events, watch.reasons
        result.conflicts, result.conflict_count = watch.conflicts, watch.conflict_count
        result.broken, result.late = watch.broken, self._duplicates.late
        result.lanes, result.keys = watch.replaced, watch.keys
        if self._windows.state is not None:
            result.lanes += [watch.end_of(row, is_replaced=False) for row in self._windows.state.lanes.rows()]


def _size_of(records: Sequence[SealedRecord]) -> int:
    """Size of the log with this window. Raises FoldError if it has no close, FormatError if that does not decode."""
    entry = records[-1].close
    if entry is None or entry[:2] != bytes((1, EntryClass.CLOSE)):
        raise FoldError("a segment without a close")
    return Close.decode(entry).size
