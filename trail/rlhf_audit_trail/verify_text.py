"""A verification report in words for people, and as plain values for machines. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from rlhf_audit_auditor.report import LEVEL_MEANS, Report
from rlhf_audit_trail.counting import counted

if TYPE_CHECKING:
    from rlhf_audit_auditor.findings import Finding

_WIDTH = 13
_SHOWN = 6  # findings of one kind; --json has all of them
_STYLE = {
    "verified": "bold green",
    "contradicted": "bold red",
    "requirement not met": "bold red",
    "could not check": "bold yellow",
}


def show(report: Report, out: TextIO) -> None:
    """Write the report; in colour only on a terminal."""
    from rich.text import Text

    from rlhf_audit_trail.console import PeopleConsole

    console = PeopleConsole(file=out, highlight=False, soft_wrap=True)
    for label, text, style in lines(report):
        line = Text(f"{label:<{_WIDTH - 1}} ", style="bold" if label else "")
        line.append(text, style=style)
        console.print(line)


def lines(report: Report) -> Iterator[tuple[str, str, str]]:
    """(label, text, style) of each line."""
    yield _verdict(report)
    yield from _ledger(report)
    yield from _payloads(report)
    yield from _completeness(report)
    yield from _listed("pending", report.pending)
    yield from _listed("note", report.notes)
    yield from _listed("not met", report.unmet, "red")
    yield from _listed("not checked", report.unreadable, "yellow")
    yield from _findings(report)
    yield from _listed("proved", report.proved())
    yield from _listed("not proved", report.not_proved())


def _verdict(report: Report) -> tuple[str, str, str]:
    found = len(report.findings) + sum(report.more.values())
    text = {
        "verified": "every byte was re-hashed or built again, and agrees",
        "contradicted": counted(found, "finding"),
        "requirement not met": "nothing contradicts, but a requirement is not met",
        "could not check": "neither fine nor tampered",
    }[report.status]
    return report.status.upper() if found else report.status, text, _STYLE[report.status]


def _ledger(report: Report) -> Iterator[tuple[str, str, str]]:
    if report.ledger is None:
        return
    if not report.exit_code:
        means = LEVEL_MEANS[report.level] if report.extends is None else report.extends
        yield "level", f"{report.level}: {means}", ""
    ledger = report.ledger
    begun = datetime.fromtimestamp(ledger.created_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    yield "ledger", f"{ledger.log_name}/{ledger.ledger_id.hex()}, begun {begun}", ""
    yield "global log", f"{ledger.global_size} entries, root {ledger.global_root.hex()}", ""
    used = sum(1 for one in report.partitions if one.is_used)
    yield (
        "read",
        f"{counted(report.objects, 'object')}, {_bytes(report.object_bytes)}, {counted(report.windows, 'window')} in "
        f"{counted(used, 'partition')} "
        f"({len(report.partitions) - used} never used), {report.seconds:.1f} s",
        "",
    )
    for stream, kinds in report.events_by_stream().items():
        if kinds:
            yield stream, ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())), ""


def _payloads(report: Report) -> Iterator[tuple[str, str, str]]:
    payloads = report.payloads
    if report.ledger is None:
        return
    if payloads.is_asked:
        text = (
            f"{payloads.rehashed:,} of {payloads.messages:,} messages re-hash, {payloads.erased} erased, "
            f"{payloads.unreadable:,} not readable"
        )
    else:
        text = f"{counted(payloads.messages, 'message')} not readable: no vault key, or left out on purpose"
    yield "payloads", text, ""


def _completeness(report: Report) -> Iterator[tuple[str, str, str]]:
    found = report.completeness
    if found is None:
        return
    style = {"yes": "green", "no": "red", "unknown": "yellow"}[found.verdict]
    lanes = sum(len(one.lanes) for one in report.partitions)
    text = f"{found.verdict}" + (f": {counted(lanes, 'lane')}, each with its end" if found.verdict == "yes" else "")
    yield "complete", text, style
    for reason in found.reasons:
        yield "", reason, ""
    for example in found.examples:
        yield "", f"  {example}", "dim"


def _findings(report: Report) -> Iterator[tuple[str, str, str]]:
    groups: dict[str, list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault(finding.code, []).append(finding)
    for code, findings in groups.items():
        shown = [f"{finding.place}: {finding.message}" for finding in findings[:_SHOWN]]
        yield from _listed(code.replace("_", " "), shown, "red")
        if len(findings) > _SHOWN:
            yield "", f"and {len(findings) - _SHOWN} more like these (--json shows them)", "dim"
    if report.more:
        yield "", f"and {sum(report.more.values())} more that are not listed", "dim"


def _listed(label: str, texts: Sequence[str], style: str = "") -> Iterator[tuple[str, str, str]]:
    for text in texts:
        yield label, text, style
        label = ""


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    ledger = report.ledger
    found = report.completeness
    return {
        "status": report.status,
        "exit_code": report.exit_code,
        "level": None if report.exit_code else report.level,
        "extends": report.extends,
        "ledger": None
        if ledger is None
        else {
            "ledger_id": ledger.ledger_id.hex(),
            "log_name": ledger.log_name,
            "created_us": ledger.created_us,
            "global_size": ledger.global_size,
            "global_root": ledger.global_root.hex(),
            "checkpoint": None if ledger.checkpoint is None else ledger.checkpoint.decode("utf-8", "replace"),
        },
        "objects": report.objects,
        "object_bytes": report.object_bytes,
        "windows": report.windows,
        "events": report.events_by_stream(),
        "partitions": [
            {
                "stream": one.stream,
                "partition": one.partition,
                "used": one.is_used,
                "size": one.size,
                "windows": one.windows,
                "messages": one.messages,
                "outcomes": dict(one.outcomes),
                "quarantine_reasons": dict(one.reasons),
                "lanes": len(one.lanes),
            }
            for one in report.partitions
        ],
        "payloads": asdict(report.payloads),
        "complete": None
        if found is None
        else {
            "verdict": found.verdict,
            "counts": found.counts,
            "reasons": list(found.reasons),
            "examples": list(found.examples),
        },
        "pending": report.pending,
        "notes": report.notes,
        "not_met": report.unmet,
        "not_checked": report.unreadable,
        "findings": [asdict(finding) for finding in report.findings],
        "findings_not_listed": dict(report.more),
        "proved": report.proved(),
        "not_proved": list(report.not_proved()),
        "seconds": round(report.seconds, 3),
        "cpu_seconds": round(report.cpu_s, 3),
    }
