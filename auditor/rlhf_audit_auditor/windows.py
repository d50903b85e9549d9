"""Windows of one partition read and run again, and the way on behind one that is broken.

Holds the state between windows. What a window gives goes back to the caller,
who builds the log from it; nothing is compared with the log here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlhf_audit_auditor.evidence import Evidence
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.log_reader import LogGapError, LogReader
from rlhf_audit_auditor.payloads import Payloads
from rlhf_audit_auditor.rebuild import CountedRange
from rlhf_audit_auditor.resume import Resume
from rlhf_audit_auditor.window_run import WindowRun, run_window
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.fold import FoldError
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.objects import SEGMENT, segment_name, vault_name
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_ledger.vault import VaultRecord
from rlhf_audit_schemas.errors import FormatError


class Windows:
    """Windows in order. ``state`` None: a window was broken and the lane table behind it is not known yet."""

    def __init__(
        self, settings: PartitionSettings, objects: Evidence, payloads: Payloads, reader: LogReader, findings: Findings
    ) -> None:
        self._settings, self._objects, self._payloads = settings, objects, payloads
        self._reader, self._findings = reader, findings
        self._stream, self._partition = settings.stream.stream, settings.partition
        self._resume: Resume | None = None
        self.state: SealState | None = None

    def segment(self, window: int) -> list[SealedRecord] | None:
        """Records of a window's segment; None, with a finding, if it is missing or not exactly a segment."""
        name = segment_name(self._stream, self._partition, window)
        data = self._objects.get(name)
        if data is None:
            self._findings.add("segment", "is missing", window=window, obj=name)
            return None
        try:
            return [SealedRecord.from_segment(raw) for raw in SEGMENT.decode(name, data)]
        except FormatError as error:
            self._findings.add("segment", str(error).removeprefix(f"{name}: "), window=window, obj=name)
            return None

    def run(self, window: int, records: Sequence[SealedRecord]) -> WindowRun | None:
        """Run a window again; from the public record if its payloads contradict it. None, with a finding, if not."""
        counts = self._payloads.counts
        readable = sum(map(_has_payload, records))
        counts.messages += readable
        payload = self._payloads.open(window)
        state = self.start(window, records)
        if state is None:
            counts.unreadable += readable
            name = segment_name(self._stream, self._partition, window)
            self._findings.could_not_read(f"{name}: not run again, since a window before it is broken")
            return None
        wrong: str | None = None
        if payload is not None:
            try:
                run = run_window(self._settings, state, records, payload, self._reader)
            except (FoldError, FormatError) as error:
                wrong = str(error)
            else:
                counts.rehashed += readable
                self.state, self._resume = run.state, None
                return run
        counts.unreadable += readable
        return self._run_public(window, state, records, wrong)

    def _run_public(
        self, window: int, state: SealState, records: Sequence[SealedRecord], wrong: str | None
    ) -> WindowRun | None:
        try:
            run = run_window(self._settings, state, records, None, self._reader)
        except LogGapError as error:
            self._findings.add("tile", error.reason, window=window, obj=error.object)
            return None
        except (FoldError, FormatError) as error:
            name = segment_name(self._stream, self._partition, window)
            self._findings.add("segment", str(error), window=window, obj=name)
            return None
        if wrong is not None:
            vaulted = f"vault/{vault_name(self._stream, self._partition, window)}"
            self._findings.add("vault", wrong, window=window, obj=vaulted)
        self.state, self._resume = run.state, None
        return run

    def run_pending(
        self, window: int, records: Sequence[SealedRecord], payload: Sequence[VaultRecord] | None, reader: LogReader
    ) -> WindowRun:
        """Run the window beyond the checkpoint; raises instead of making findings."""
        state = self.start(window, records)
        if state is None:
            raise FoldError("the windows before it are broken")
        return run_window(self._settings, state, records, payload, reader)

    def start(self, window: int, records: Sequence[SealedRecord]) -> SealState | None:
        """State before a window. Before the first one only its source log is unknown."""
        if window or self.state is not None:
            return self.state
        try:
            source_id = SealHeader.decode(records[0].header).source_id
        except FormatError:
            source_id = bytes(16)
        return self._first(source_id)

    def skip(self, window: int, size: int, records: Sequence[SealedRecord]) -> list[bytes] | None:
        """Entries of a broken window, taken from the log behind ``size`` entries, and state behind it if it is known.

        None, with a finding, if the log itself does not lead on.
        """
        if self._resume is None:
            self._resume = Resume((self.state or self._first(bytes(16))).lanes)
        self.state = None
        try:
            entries = self._reader.through_close(size)
        except LogGapError as error:
            self._findings.add("tile", f"{error.reason}; windows from {window} on cannot be read", obj=error.object)
            return None
        try:
            close = Close.decode(entries[-1])
        except FormatError as error:
            self._findings.add("segment", f"close record in the log: {error}", window=window)
            return None
        if close.window != window or close.size != size + len(entries):
            self._findings.add("segment", f"the log closes window {close.window} here", window=window)
            return None
        self.state = self._resume.at(close, records)
        return entries

    def _first(self, source_id: bytes) -> SealState:
        return replace(first_state(self._settings, source_id), tree=CountedRange(1))


def _has_payload(record: SealedRecord) -> bool:
    try:
        return SealHeader.decode(record.header).outcome != "hole"
    except FormatError:
        return True
