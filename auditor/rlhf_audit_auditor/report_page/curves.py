"""Training curves from ``policy_update``: mean, lowest and highest of each stretch of steps.

Ranks report the same step, so curves are those of the lowest rank. A step that
was made again after a restart counts once, as it was made last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_audit_auditor.report_page.asking import Asking, Row, Section, number, short, whole
from rlhf_audit_auditor.report_page.markup import Html, join, note, plot, tag

MAX_POINTS = 660  # of each of mean, lowest, highest: together about 2,000 a curve

# Figure, its title, and the columns in it: those of one figure have one unit.
_FIGURES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("loss", "Loss", (("loss", "loss"),)),
    ("local_loss", "Loss of this rank", (("local_loss", "loss"),)),
    ("reward", "Reward", (("reward", "mean"), ("reward_std", "standard deviation"))),
    ("margin", "Reward margin: preferred less other", (("reward_margin", "margin"),)),
    ("accuracy", "Share of pairs with the preferred response ahead", (("reward_accuracy", "accuracy"),)),
    ("rewards", "Implicit rewards", (("reward_chosen", "preferred"), ("reward_rejected", "other"))),
    ("kl", "Divergence from the reference policy (nats per token)", (("kl", "KL"),)),
    ("entropy", "Entropy (nats per token)", (("entropy", "entropy"),)),
    ("grad_norm", "Gradient norm before clipping", (("grad_norm", "norm"),)),
    ("learning_rate", "Learning rate", (("learning_rate", "rate"),)),
    ("update_norm", "Norm of the parameters' change", (("update_norm", "norm"),)),
    ("completion_tokens", "Completion length (tokens)", (("completion_tokens", "mean"),)),
)
_COLUMNS = tuple(column for _, _, columns in _FIGURES for column, _ in columns)

_EXTENT = """
SELECT min(rank) AS first_rank, min(step) AS low, max(step) AS high, countIf(was_skipped) AS skipped,
  countIf(loss IS NOT NULL AND NOT isFinite(loss)) AS broken,
  count() - uniqExact(rank, step) AS again, uniqExact(step) AS steps
FROM audit_restricted.policy_update WHERE run_id = unhex({run:String})
"""
_STRETCHES = ", ".join(
    f"{function}If({column}, isFinite({column})) AS {name}_{column}"
    for column in _COLUMNS
    for function, name in (("avg", "mean"), ("min", "low"), ("max", "high"))
)
_CURVES = f"""
SELECT max(step) AS at, {_STRETCHES} FROM (
  SELECT step, {", ".join(_COLUMNS)} FROM audit_restricted.policy_update
  WHERE run_id = unhex({{run:String}}) AND rank = {{rank:Int32}} ORDER BY step, epoch DESC, seq DESC LIMIT 1 BY step
)
GROUP BY intDiv(step - {{low:Int64}}, {{width:Int64}}) ORDER BY at
"""  # noqa: S608 - constants of this module


def curves_section(asking: Asking) -> Section:
    """The curves that the run has."""
    extent = asking.row(_EXTENT)
    if not whole(extent.get("steps")):
        return Section("curves", "Training curves", note("No policy updates are recorded."))
    low, high = whole(extent["low"]), whole(extent["high"])
    width = width_of(low, high, MAX_POINTS)
    rows = asking.rows(_CURVES, rank=whole(extent["first_rank"]), low=low, width=width)
    plots: dict[str, object] = {}
    shown: list[Html] = []
    for name, title, columns in _FIGURES:
        if name == "local_loss" and "curve-loss" in plots:
            continue
        spec = _spec(rows, columns, width)
        if spec is not None:
            plots[f"curve-{name}"] = spec
            shown.append(plot(f"curve-{name}", title))
    parts = [_summary(extent, width)]
    if whole(extent["broken"]):
        parts.append(note(f"The loss was not finite in {whole(extent['broken']):,} updates: gaps in the curve.", "bad"))
    if whole(extent["skipped"]):
        parts.append(note(f"{whole(extent['skipped']):,} updates were skipped: gradients overflowed.", "warn"))
    parts.append(tag("div", join(shown), class_="plots") if shown else note("The trainer logged no numbers."))
    return Section("curves", "Training curves", join(parts), plots)


def width_of(low: int, high: int, pieces: int) -> int:
    """Width of each of at most so many equal pieces of low..high, both included."""
    return max(1, -(-(high - low + 1) // pieces))


def _spec(rows: Sequence[Row], columns: Sequence[tuple[str, str]], width: int) -> dict[str, Any] | None:
    kept = [row for row in rows if any(number(row[f"mean_{column}"]) is not None for column, _ in columns)]
    if not kept:
        return None
    series = []
    for column, label in columns:
        found: dict[str, Any] = {"label": label}
        for name in ("mean",) if width == 1 else ("mean", "low", "high"):
            found[name] = [short(number(row[f"{name}_{column}"])) for row in kept]
        if any(value is not None for value in found["mean"]):
            series.append(found)
    return {"kind": "curve", "x": [whole(row["at"]) for row in kept], "series": series}


def _summary(extent: Row, width: int) -> Html:
    text = f"{whole(extent['steps']):,} optimizer steps, {whole(extent['low']):,} to {whole(extent['high']):,}, "
    text += f"as rank {extent['first_rank']} recorded them from the trainer's log."
    if width > 1:
        text += f" Each point is the mean of {width:,} steps; the band spans their lowest and highest value."
    if whole(extent["again"]):
        text += f" {whole(extent['again']):,} updates are of steps made again after a restart: the last one is shown."
    return tag("p", text)
