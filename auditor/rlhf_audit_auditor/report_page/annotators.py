"""Who judged, how much and when.

Corrections and withdrawals are counted, not applied. Pseudonyms are shown as
recorded, never what was judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from rlhf_audit_auditor.report_page.asking import Asking, Row, Section, text_of, whole
from rlhf_audit_auditor.report_page.curves import width_of
from rlhf_audit_auditor.report_page.gradients import packed
from rlhf_audit_auditor.report_page.markup import (
    Child,
    Html,
    code,
    counted,
    join,
    moment,
    note,
    percent,
    plot,
    table,
    tag,
)

_MAX_SHOWN, _MAX_TIMES = 40, 120

SCOPE = "run_id IN ('', unhex({run:String}))"
MOMENT = "coalesce(judged_at, ts)"
PAIR = """concat(hex(ifNull(least(chosen_sha256, rejected_sha256), '')), '|',
  hex(ifNull(greatest(chosen_sha256, rejected_sha256), '')))"""
UNIT = f"""ifNull(item, concat(hex(ifNull(prompt_sha256, '')), '|', hex(ifNull(response_sha256, '')), '|', {PAIR}))"""
NO_UNIT = "|||"  # an annotation that says neither what was judged nor its digest
_TOTALS = f"""
SELECT count() AS events, uniqExact(annotator) AS annotators, countIf(annotator IS NULL) AS nameless,
  countIf(run_id = '') AS from_files, countIf(judged_at IS NULL) AS without_time, uniq({UNIT}) AS items,
  toUnixTimestamp64Micro(if(isNull(min(judged_at)), min(ts), assumeNotNull(min(judged_at)))) AS first_us,
  toUnixTimestamp64Micro(if(isNull(max(judged_at)), max(ts), assumeNotNull(max(judged_at)))) AS last_us
FROM audit_restricted.annotation WHERE {SCOPE}
"""  # noqa: S608 - constants of this module
_OTHERS = """
SELECT (SELECT count() FROM audit_restricted.correction) AS corrections,
  (SELECT count() FROM audit_restricted.withdrawal) AS withdrawals
"""
_ANNOTATORS = f"""
SELECT annotator, groupUniqArray(3)(ifNull(labeler, '')) AS labelers, count() AS events, uniq({UNIT}) AS items,
  toUnixTimestamp64Micro(min({MOMENT})) AS first_us, toUnixTimestamp64Micro(max({MOMENT})) AS last_us
FROM audit_restricted.annotation WHERE {SCOPE}
GROUP BY annotator ORDER BY events DESC, annotator LIMIT {_MAX_SHOWN}
"""  # noqa: S608 - constants of this module
_TIMES = f"""
SELECT annotator, intDiv(toUnixTimestamp64Micro({MOMENT}) - {{first:Int64}}, {{width:Int64}}) AS place,
  count() AS events
FROM audit_restricted.annotation
WHERE {SCOPE} AND (judged_at IS NOT NULL OR {{all_without:UInt8}}) GROUP BY annotator, place
"""  # noqa: S608 - constants of this module


def annotators_section(asking: Asking) -> Section:
    """Activity of annotators over time."""
    totals = asking.row(_TOTALS)
    if not whole(totals.get("events")):
        return Section("annotators", "Annotators", note("No annotations are recorded."))
    rows = asking.rows(_ANNOTATORS)
    parts = [tag("p", _summary(asking, totals))]
    if whole(totals["nameless"]):
        text = f"{whole(totals['nameless']):,} annotations name nobody: no claim per annotator is possible for them."
        parts.append(note(text, "warn"))
    parts.append(plot("annotators", "Annotations by annotator and time"))
    heads = ["annotator", "kind", "annotations", "share", "items", "first (UTC)", "last (UTC)"]
    cells: list[list[Child]] = [
        [
            _name(row),
            ", ".join(sorted(str(one) for one in row["labelers"] if one)) or None,
            whole(row["events"]),
            percent(whole(row["events"]) / whole(totals["events"])),
            whole(row["items"]),
            moment(whole(row["first_us"])),
            moment(whole(row["last_us"])),
        ]
        for row in rows
    ]
    parts.append(table(heads, cells, numbers=(2, 3, 4)))
    left = whole(totals["annotators"]) + bool(whole(totals["nameless"])) - len(rows)
    if left > 0:
        parts.append(note(f"{left:,} more annotators with fewer annotations are not listed."))
    return Section("annotators", "Annotators", join(parts), {"annotators": _heat(asking, totals, rows)})


def _summary(asking: Asking, totals: Row) -> str:
    text = counted(whole(totals["events"]), "annotation")
    text += f" by {counted(whole(totals['annotators']), 'named annotator')}"
    others = asking.row(_OTHERS)
    for name in ("corrections", "withdrawals"):
        if whole(others.get(name)):
            text += f", {whole(others[name]):,} {name}"
    text += "."
    if whole(totals["from_files"]) and asking.run_id is not None:
        text += f" {whole(totals['from_files']):,} were read from files, for no run in particular."
    if whole(totals["without_time"]) == whole(totals["events"]):
        text += " Their sources state no times: shown is when they were recorded."
    elif whole(totals["without_time"]):
        text += f" {whole(totals['without_time']):,} state no time and are not in the picture."
    return text


def _heat(asking: Asking, totals: Row, rows: Sequence[Row]) -> dict[str, object]:
    first, last = whole(totals["first_us"]), whole(totals["last_us"])
    width = width_of(first, last, _MAX_TIMES)
    columns = (last - first) // width + 1
    place = {text_of(row["annotator"]): at for at, row in enumerate(rows)}
    grid = numpy.full((len(rows), columns), numpy.nan, dtype="<f4")
    all_without = int(whole(totals["without_time"]) == whole(totals["events"]))
    for cell in asking.rows(_TIMES, first=first, width=width, all_without=all_without):
        at = place.get(text_of(cell["annotator"]))
        if at is not None:
            grid[at, whole(cell["place"])] = whole(cell["events"])
    return {
        "kind": "heat",
        "rows": [text_of(row["annotator"]) or "not named" for row in rows],
        "row": "annotator",
        "x": {"kind": "time", "first": first, "width": width, "last": last, "count": columns},
        "measures": [{"label": "annotations", "data": packed(grid)}],
    }


def _name(row: Row) -> Html:
    name = text_of(row["annotator"])
    return tag("em", "not named") if name is None else code(name)
