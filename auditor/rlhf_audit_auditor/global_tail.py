"""What lies beyond the global checkpoint: a publication that a crash cut short, or a finding.

The sequencer stores bundles and tiles first and the checkpoint last. So tiles
of a larger log may stand there, if every entry they add is the signed
checkpoint of a window that stands in its segment and is not published yet.
"""

from __future__ import annotations

from collections.abc import Collection

from rlhf_audit_auditor.evidence import Evidence
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.global_log import log_below, stored_size
from rlhf_audit_auditor.log_reader import LogGapError, LogReader
from rlhf_audit_auditor.partition_result import MAX_TAIL
from rlhf_audit_auditor.rebuild import Rebuild
from rlhf_audit_ledger.merkle import leaf_hashes


def check_tail(objects: Evidence, size: int, waiting: Collection[bytes], findings: Findings) -> int:
    """Size of the log with its pending tail (``size`` if there is none). ``waiting`` are unpublished checkpoints."""
    log = log_below(objects)
    stored = stored_size(log)
    if not size < stored <= size + MAX_TAIL:
        return size
    reader = LogReader(log, stored)
    try:
        added = reader.slice(size, stored - size)
    except LogGapError:
        return size
    if any(entry not in waiting for entry in added):
        return size
    scratch = Findings()
    rebuild = Rebuild(log, size, scratch)
    for entries in LogReader(log, size):
        rebuild.append(entries, leaf_hashes(entries))
    scratch.found.clear()  # the pass over the log has reported these
    rebuild.append(added, leaf_hashes(added))
    rebuild.compare_partials()
    findings.merge(scratch)
    findings.note(f"global log: {len(added)} entries stored beyond its checkpoint, not published yet")
    return stored
