"""What reward functions said of completions, per function and over the steps of the policy."""

from __future__ import annotations

from rlhf_audit_auditor.report_page.asking import Asking, Section, number, short, whole
from rlhf_audit_auditor.report_page.curves import MAX_POINTS, width_of
from rlhf_audit_auditor.report_page.markup import Child, code, figure, join, note, plot, table, tag

_MAX_FUNCTIONS = 8

_TOTALS = """
SELECT count() AS events, uniqExact(prompt_sha256) AS prompts, uniqExact(rank) AS ranks,
  min(step) AS low, max(step) AS high
FROM audit_restricted.rollout WHERE run_id = unhex({run:String})
"""
_FUNCTIONS = f"""
SELECT name, count(reward) AS given, countIf(reward IS NULL) AS without, avg(reward) AS mean, stddevPop(reward) AS std,
  min(reward) AS low, max(reward) AS high
FROM audit_restricted.rollout ARRAY JOIN function_names AS name, rewards AS reward
WHERE run_id = unhex({{run:String}}) GROUP BY name ORDER BY name LIMIT {_MAX_FUNCTIONS}
"""  # noqa: S608 - constants of this module
_STEPS = """
SELECT name, intDiv(step - {low:Int64}, {width:Int64}) AS place, avg(reward) AS mean
FROM audit_restricted.rollout ARRAY JOIN function_names AS name, rewards AS reward
WHERE run_id = unhex({run:String}) AND step IS NOT NULL AND reward IS NOT NULL GROUP BY name, place
"""


def rollouts_section(asking: Asking) -> Section:
    """Rollouts, if there are any."""
    totals = asking.row(_TOTALS)
    if not whole(totals.get("events")):
        return Section("rollouts", "Rollouts and rewards", note("No rollouts are recorded."))
    functions = asking.rows(_FUNCTIONS)
    text = f"{whole(totals['events']):,} completions of {whole(totals['prompts']):,} prompts, "
    text += f"from {whole(totals['ranks']):,} ranks. No person judged these."
    parts = [tag("p", text)]
    plots: dict[str, object] = {}
    if totals["low"] is not None:
        low, high = whole(totals["low"]), whole(totals["high"])
        width = width_of(low, high, MAX_POINTS)
        means = {
            (str(row["name"]), whole(row["place"])): short(number(row["mean"]))
            for row in asking.rows(_STEPS, low=low, width=width)
        }
        places = sorted({place for _, place in means})
        series = []
        for row in functions:
            name = str(row["name"])
            series.append({"label": name, "mean": [means.get((name, place)) for place in places]})
        plots["rollouts"] = {"kind": "curve", "x": [low + place * width for place in places], "series": series}
        parts.append(tag("div", plot("rollouts", "Mean reward by step of the policy"), class_="plots one"))
    rows: list[list[Child]] = [
        [
            code(str(row["name"])),
            whole(row["given"]),
            whole(row["without"]),
            *(figure(number(row[name])) for name in ("mean", "std", "low", "high")),
        ]
        for row in functions
    ]
    heads = ["reward function", "rewards", "none given", "mean", "standard deviation", "lowest", "highest"]
    parts.append(table(heads, rows, numbers=(1, 2, 3, 4, 5, 6)))
    return Section("rollouts", "Rollouts and rewards", join(parts), plots)
