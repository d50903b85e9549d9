"""Checkpoints of one partition's windows: signature, size, root, and their place in the global log.

The global log names each of them once, in order; it may end before the last
ones, which then wait to be published (a pending tail).
"""

from __future__ import annotations

from rlhf_audit_auditor.evidence import Evidence
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.global_log import checkpoints_of
from rlhf_audit_auditor.partition_result import MAX_TAIL, PartitionResult
from rlhf_audit_auditor.rebuild import Rebuild
from rlhf_audit_auditor.signed import LogKey, read_statement


class WindowCheckpoints:
    """Walks the partition's leaves of the global log beside its windows."""

    def __init__(
        self,
        objects: Evidence,
        key: LogKey,
        origin: str,
        global_size: int,
        result: PartitionResult,
    ) -> None:
        self._key, self._origin, self._global_size = key, origin, global_size
        self._result = result
        self._findings: Findings = result.findings
        self._published = checkpoints_of(objects, global_size, origin)
        self._is_root_wrong = False

    def see(self, window: int, name: str, checkpoint: bytes, rebuild: Rebuild) -> int:
        """Check a window's checkpoint (empty: the segment is broken); returns its index in the global log."""
        index, entry = next(self._published, (self._global_size, b""))
        if not entry:
            self._wait(window, checkpoint)
        elif checkpoint and entry != checkpoint:
            message = f"leaf {index} of the global log is another checkpoint than this window's"
            self._findings.add("global_log", message, window=window, obj=name)
        if checkpoint or entry:
            self.check(window, name, checkpoint or entry, rebuild)
        return index

    def _wait(self, window: int, checkpoint: bytes) -> None:
        result = self._result
        if not result.unpublished:
            result.oldest_pending_us = result.newest_us
            result.pending.append(f"from window {window} on, checkpoints are not in the global log yet")
        if len(result.unpublished) < MAX_TAIL:
            result.unpublished.append(checkpoint)

    def check(self, window: int, name: str, data: bytes, rebuild: Rebuild) -> None:
        """The checkpoint is signed, and is the size and root of what was built."""
        statement = self._key.open(data, self._origin, self._findings, obj=name, window=window)
        if statement is None or self._is_root_wrong:
            return
        built = (rebuild.size, rebuild.root())
        if (statement.size, statement.root) != built:
            self._is_root_wrong = True  # every later root would be wrong too
            message = (
                f"checkpoint signs size {statement.size} root {statement.root.hex()}, "
                f"the log gives size {built[0]} root {built[1].hex()}"
            )
            self._findings.add("checkpoint", message, window=window, obj=name)

    def end(self) -> None:
        """What the global log names beyond the last window is not there."""
        for index, entry in self._published:
            statement = read_statement(entry)
            named = "an unreadable checkpoint" if statement is None else f"size {statement.size}"
            message = f"leaf {index} of the global log names {named}, which this partition does not have"
            self._findings.add("global_log", message)
