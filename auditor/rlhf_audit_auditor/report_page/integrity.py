"""What ``verify`` says of the trail, as a section of the page; and whether the query copy counts the same.

Judges nothing itself: verdict, level and reasons are those of the verifier's report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_audit_auditor.lane_watch import LaneEnd
from rlhf_audit_auditor.report import LEVEL_MEANS, Report
from rlhf_audit_auditor.report_page.asking import Asking, Section, whole
from rlhf_audit_auditor.report_page.markup import (
    NOTHING,
    Child,
    Html,
    code,
    facts,
    folded,
    join,
    listed,
    moment,
    note,
    size,
    table,
    tag,
)

_MAX_LANES, _MAX_LISTED = 100, 40

_COUNTS = "SELECT name, total_rows AS n FROM system.tables WHERE database = 'audit_restricted' AND total_rows > 0"
_LOSSES = f"""
SELECT event_producer, event_epoch, event_stream, event_partition, sum(count) AS events, min(first_seq) AS first_seq,
  arrayStringConcat(groupUniqArray(3)(reason), ', ') AS reasons
FROM audit_restricted.loss GROUP BY ALL ORDER BY events DESC LIMIT {_MAX_LISTED}
"""  # noqa: S608 - constants of this module
_LOST = f"""
SELECT event_producer, event_epoch, toUnixTimestamp64Micro(ts) AS at_us, reason
FROM audit_restricted.producer_lost ORDER BY ts LIMIT {_MAX_LISTED}
"""  # noqa: S608 - constants of this module

NOT_PROVED_BY_A_PAGE = (
    "anything that the check above does not: this page is a picture of the query copy, made by whoever holds the "
    "trail, and whoever holds it can draw another; ask for the trail and run rlhf-audit verify yourself",
    "that curves are right: they are numbers that the training program reported",
    "that long runs are shown in full: stretches of steps are summed up, as each figure says",
    "that replicas which agree are healthy: ranks can be wrong alike; and why replicas differ, if they do",
    "that an annotator is one person, or who it is: pseudonyms are shown as recorded",
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A verifier's report, when it was made, and whether the check is of what is being written to."""

    report: Report | None
    at_us: int
    why_not: str | None = None


def integrity_section(asking: Asking, checked: Checked) -> Section:
    """The integrity table."""
    report = checked.report
    if report is None:
        why = checked.why_not or "it was not asked for"
        parts = [note(f"The trail was not checked: {why}. Nothing on this page is verified.", "warn")]
        return Section("integrity", "Integrity", join([*parts, *_said(asking)]))
    parts = [_verdict(report), _facts(report, checked.at_us)]
    for title, texts, kind in (
        ("Findings", [f"{one.code}, {one.place}: {one.message}" for one in report.findings], "bad"),
        ("Could not be checked", report.unreadable, "warn"),
        ("Required and not met", report.unmet, "bad"),
        ("Written, and not yet sealed for good", report.pending, "plain"),
        ("Notes", report.notes, "plain"),
    ):
        if texts:
            shown = [*texts[:_MAX_LISTED], *([f"and {len(texts) - _MAX_LISTED:,} more"] if texts[_MAX_LISTED:] else [])]
            parts.append(tag("div", tag("h3", title), listed(shown), class_=f"box {kind}"))
    parts += _completeness(report)
    parts += _said(asking)
    parts += [_partitions(report), _lanes([lane for one in report.partitions for lane in one.lanes])]
    parts.append(_copy(asking, report))
    if report.proved():
        parts += [tag("h3", "What the check proves"), listed(report.proved())]
    return Section("integrity", "Integrity", join(parts))


def not_proved_section(report: Report | None) -> Section:
    """What nobody should read into the page."""
    texts = [*NOT_PROVED_BY_A_PAGE, *Report.not_proved()]
    if report is None:
        texts.insert(0, "that the trail is intact: it was not checked")
    return Section("not-proved", "What this page does not prove", listed(texts))


def _verdict(report: Report) -> Html:
    kind = {"verified": "good", "could not check": "warn"}.get(report.status, "bad")
    found = len(report.findings) + sum(report.more.values())
    means = {
        "verified": "every byte was re-hashed or built again, and agrees",
        "contradicted": f"{found:,} findings: stored bytes contradict what was signed",
        "requirement not met": "nothing contradicts, but a requirement is not met",
        "could not check": "neither fine nor tampered",
    }[report.status]
    text = f"{report.status.capitalize()}: {means}."
    if not report.exit_code:
        text += f" Level: {report.level} ({LEVEL_MEANS[report.level]})."
    return note(text, kind)


def _facts(report: Report, at_us: int) -> Html:
    ledger, payloads = report.ledger, report.payloads
    pairs: list[tuple[str, Child]] = [("Checked (UTC)", moment(at_us))]
    if ledger is not None:
        pairs += [
            ("Ledger", code(f"{ledger.log_name}/{ledger.ledger_id.hex()}")),
            ("Begun (UTC)", moment(ledger.created_us)),
            ("Global log", f"{ledger.global_size:,} entries"),
            ("Its root", code(ledger.global_root.hex())),
        ]
    opened = f"{payloads.rehashed:,} of {payloads.messages:,} re-hash"
    if payloads.erased or payloads.unreadable:
        opened += f", {payloads.erased:,} erased, {payloads.unreadable:,} not readable"
    pairs += [
        ("Level", NOTHING if report.exit_code else report.level),
        ("Events", report.events),
        ("Windows", report.windows),
        ("Read", f"{report.objects:,} objects, {size(report.object_bytes)}"),
        ("Payloads", opened if payloads.is_asked else "not opened"),
        ("Lanes", sum(len(one.lanes) for one in report.partitions)),
    ]
    return facts(pairs)


def _completeness(report: Report) -> list[Html]:
    found = report.completeness
    if found is None:
        return []
    kind = {"yes": "good", "no": "bad", "unknown": "warn"}[found.verdict]
    text = {
        "yes": "Complete: every lane is whole and has its end.",
        "no": "Not complete: events are missing, and the ledger says so.",
        "unknown": "Whether it is complete is not known.",
    }[found.verdict]
    parts = [note(text, kind)]
    if found.reasons:
        parts.append(listed([*found.reasons, *found.examples]))
    return parts


def _said(asking: Asking) -> list[Html]:
    """What producers and the runtime declared lost."""
    parts: list[Html] = []
    losses = asking.rows(_LOSSES)
    if losses:
        heads = ["producer", "epoch", "stream", "events lost", "reason"]
        rows: list[list[Child]] = [
            [
                code(str(row["event_producer"])),
                str(row["event_epoch"]),
                f"{row['event_stream']}/{row['event_partition']}",
                whole(row["events"]),
                str(row["reasons"]),
            ]
            for row in losses
        ]
        parts += [tag("h3", "Declared losses"), table(heads, rows, numbers=(3,))]
    lost = asking.rows(_LOST)
    if lost:
        gone: list[list[Child]] = [
            [code(str(row["event_producer"])), str(row["event_epoch"]), moment(whole(row["at_us"])), str(row["reason"])]
            for row in lost
        ]
        parts += [tag("h3", "Producers lost"), table(["producer", "epoch", "noticed (UTC)", "why"], gone)]
    if not losses and not lost:
        parts.append(tag("p", "No loss was declared, and no producer was found dead."))
    return parts


def _partitions(report: Report) -> Html:
    used = [one for one in report.partitions if one.is_used]
    rows: list[list[Child]] = [
        [
            one.name,
            one.windows,
            sum(one.events.values()),
            one.messages,
            *(one.outcomes[name] for name in ("accepted", "duplicate", "gap_filled", "conflict", "quarantined")),
            sum(count for lane in one.lanes for _, count in lane.missing),
        ]
        for one in used
    ]
    heads = ["partition", "windows", "events", "messages", "accepted", "duplicate", "gap filled", "conflict"]
    found = table([*heads, "quarantined", "numbers missing"], rows, numbers=tuple(range(1, 10)))
    never = [one.name for one in report.partitions if not one.is_used]
    left = tag("p", f"Never used: {len(never)} partitions.", class_="aside") if never else Html("")
    return join([tag("h3", "Partitions and windows"), found, left])


def _lanes(lanes: Sequence[LaneEnd]) -> Html:
    """Lanes, those with a hole or without an end first."""
    order = sorted(lanes, key=lambda lane: (not lane.missing, lane.state in ("ended", "final"), lane.name))
    rows: list[list[Child]] = [
        [
            code(lane.producer),
            str(lane.epoch),
            f"{lane.stream}/{lane.partition}",
            lane.next_seq,
            sum(count for _, count in lane.missing),
            f"{lane.state}, replaced by a later epoch" if lane.is_replaced else lane.state,
        ]
        for lane in order[:_MAX_LANES]
    ]
    heads = ["producer", "epoch", "partition", "events numbered", "missing", "state"]
    shown = table(heads, rows, numbers=(3, 4))
    if len(order) > _MAX_LANES:
        shown = join([shown, note(f"{len(order) - _MAX_LANES:,} more lanes are not listed.")])
    return join([tag("h3", "Lanes"), folded(f"{len(order):,} lanes", shown, key="lanes")])


def _copy(asking: Asking, report: Report) -> Html:
    """Counts per kind in evidence and query copy: they may differ while a training goes on, not afterwards."""
    here = {str(row["name"]): whole(row["n"]) for row in asking.rows(_COUNTS)}
    there = {kind: count for kinds in report.events_by_stream().values() for kind, count in kinds.items()}
    kinds = sorted({*there, *(kind for kind in here if not kind.startswith(("_", ".")) and kind != "findings")})
    rows: list[list[Child]] = [
        [kind.replace("_", " "), there.get(kind, 0), here.get(kind, 0), _sign(there.get(kind, 0), here.get(kind, 0))]
        for kind in kinds
    ]
    parts = [
        tag("h3", "Events per kind"),
        table(["kind", "evidence", "query copy", ""], rows, numbers=(1, 2)),
    ]
    if here.get("findings"):
        text = f"{here['findings']:,} events do not decode exactly and stand in no table but findings."
        parts.append(note(text, "warn"))
    differing = [kind for kind in kinds if there.get(kind, 0) != here.get(kind, 0)]
    if differing:
        parts.append(
            note(
                "The query copy counts otherwise than the evidence. While events come in, one of them is a little "
                "ahead; if nothing is recorded any more, make the copy anew: rlhf-audit restore.",
                "warn",
            )
        )
    return join(parts)


def _sign(one: int, other: int) -> str:
    return "equal" if one == other else f"{other - one:+,}"
