"""One door for tests to the verifier: what it minds about a trail."""

from __future__ import annotations

from pathlib import Path

from rlhf_audit_auditor.opening import open_trail
from rlhf_audit_auditor.report import Report
from rlhf_audit_auditor.verify import Options, verify


def report_of(trail: Path, options: Options | None = None) -> Report:
    """A whole `verify` of ``trail``, payloads included, without the verifier's memory."""
    return verify(open_trail(trail), options or Options())


def findings_of(trail: Path) -> list[str]:
    """Findings, and what could not be read: empty for a trail that is whole."""
    report = report_of(trail)
    return [f"{finding.place}: {finding.message}" for finding in report.findings] + report.unreadable
