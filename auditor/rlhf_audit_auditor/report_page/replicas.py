"""Replica check: under data parallelism every rank holds the same gradient, so its statistics must be the same.

1. Per step, over tensors that the tensor table calls replicated: do all ranks state the same five statistics, bit for
   bit?
2. Where they do not: which tensors, from which step on, by how much; and which rank stands alone, if three or more
   ranks show it.

A difference means that one rank computed, received or holds something else: a
faulty GPU, memory or link, or a program that treats ranks differently. Which of
these it is, the statistics do not say. Sharded tensors have no replica to compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlhf_audit_auditor.report_page.asking import Asking, Row, Section, number, whole
from rlhf_audit_auditor.report_page.markup import Child, Html, code, figure, join, note, table, tag

_MAX_TENSORS = 20
_MAX_TENSOR_VALUES = 125_000_000  # of 40 bytes, five statistics each: about ten seconds on one core

_MAX_STEPS = 500  # that differ, looked at tensor by tensor

_LATEST = """
SELECT step, rank, table_sha256, squared_norm_f64le, max_abs_f64le, mean_f64le, zero_fraction_f64le, non_finite_i64le
FROM audit_restricted.gradient_stats
WHERE run_id = unhex({run:String}) AND placement != 'shard'
ORDER BY step, rank, epoch DESC, seq DESC LIMIT 1 BY step, rank
"""
_WHO = """
SELECT uniqExact(rank) AS ranks, groupUniqArray(placement) AS placements, countIf(placement != 'shard') AS comparable,
  count() AS events, sum(tensor_count) AS numbers
FROM audit_restricted.gradient_stats WHERE run_id = unhex({run:String})
"""
_STEPS = """
SELECT step, uniqExact(rank) AS ranks, uniqExact(state) AS states FROM (
  SELECT step, rank, argMax(sipHash128(squared_norm_f64le, max_abs_f64le, mean_f64le, zero_fraction_f64le,
    non_finite_i64le), (epoch, seq)) AS state
  FROM audit_restricted.gradient_stats
  WHERE run_id = unhex({run:String}) AND placement != 'shard' AND step % {stride:Int64} = 0
  GROUP BY step, rank
) GROUP BY step
"""
_DIFFERING_STEPS = f"""
SELECT count() AS steps, countIf(ranks > 1) AS compared, countIf(states > 1) AS differing,
  minIf(step, states > 1) AS first
FROM ({_STEPS})
"""  # noqa: S608 - constants of this module
_DIFFERENT = f"SELECT step FROM ({_STEPS}) WHERE states > 1 ORDER BY step LIMIT {_MAX_STEPS}"  # noqa: S608 - ours
_TENSORS = f"""
SELECT name, min(step) AS first_step, count() AS steps, max(spread) AS spread FROM (
  SELECT step, name, uniqExact(state) AS states,
    max(square) - min(square) AS gap, if(max(square) > 0, gap / max(square), 0) AS spread
  FROM (
    SELECT step, rank, name, square,
      (reinterpretAsUInt64(square), reinterpretAsUInt64(largest), reinterpretAsUInt64(average),
       reinterpretAsUInt64(zeros), broken) AS state
    FROM (
      SELECT l.step AS step, l.rank AS rank, t.names AS names, t.placements AS placements,
        reinterpret(l.squared_norm_f64le, 'Array(Float64)') AS squares,
        reinterpret(l.max_abs_f64le, 'Array(Float64)') AS maxima,
        reinterpret(l.mean_f64le, 'Array(Float64)') AS means,
        reinterpret(l.zero_fraction_f64le, 'Array(Float64)') AS zero_fractions,
        reinterpret(l.non_finite_i64le, 'Array(Int64)') AS non_finites
      FROM ({_LATEST.replace("ORDER BY", f"AND step IN ({_DIFFERENT}) ORDER BY")}) AS l
      INNER JOIN (
        SELECT rank, table_sha256, any(names) AS names, any(placements) AS placements
        FROM audit_restricted.tensor_table WHERE run_id = unhex({{run:String}}) GROUP BY rank, table_sha256
      ) AS t ON l.rank = t.rank AND l.table_sha256 = t.table_sha256
    )
    ARRAY JOIN names AS name, placements AS placement, squares AS square, maxima AS largest, means AS average,
      zero_fractions AS zeros, non_finites AS broken
    WHERE placement = 'replicate'
  )
  GROUP BY step, name HAVING states > 1
)
GROUP BY name ORDER BY first_step, spread DESC, name
"""  # noqa: S608 - constants of this module
_RANKS = f"""
SELECT l.rank AS rank,
  reinterpret(l.squared_norm_f64le, 'Array(Float64)')[indexOf(t.names, unhex({{name:String}}))] AS square,
  reinterpret(l.max_abs_f64le, 'Array(Float64)')[indexOf(t.names, unhex({{name:String}}))] AS largest,
  hex(reinterpretAsString(square)) AS state
FROM ({_LATEST.replace("ORDER BY", "AND step = {step:Int64} ORDER BY")}) AS l
INNER JOIN (
  SELECT rank, table_sha256, any(names) AS names FROM audit_restricted.tensor_table
  WHERE run_id = unhex({{run:String}}) GROUP BY rank, table_sha256
) AS t ON l.rank = t.rank AND l.table_sha256 = t.table_sha256
ORDER BY rank LIMIT 4096
"""  # noqa: S608 - constants of this module


def replicas_section(asking: Asking) -> Section:
    """What comparing the ranks gave."""
    parts = _parts(asking)
    differs = any('class="note bad"' in part for part in parts)
    return Section("replicas", "Replica check", join(parts), alarm="replicas differ" if differs else None)


def _parts(asking: Asking) -> list[Html]:
    who = asking.row(_WHO)
    if not whole(who.get("events")):
        return [note("No gradient statistics are recorded: nothing to compare.")]
    if whole(who["ranks"]) < 2:
        return [note("Only one rank recorded gradients: there is no replica to compare it with.")]
    if not whole(who["comparable"]):
        return [note("Gradients are sharded: each rank holds its own part, so there is no replica to compare.")]
    stride = max(1, -(-whole(who["numbers"]) // _MAX_TENSOR_VALUES))
    found = asking.row(_DIFFERING_STEPS, stride=stride)
    tensors: Sequence[Row] = asking.rows(_TENSORS, stride=stride) if whole(found["differing"]) else ()
    compared, steps = whole(found["compared"]), whole(found["steps"])
    parts: list[Html] = []
    differing = whole(found["differing"])
    is_mixed = "mixed" in who["placements"]
    if tensors:
        parts += _differences(asking, tensors, whole(who["ranks"]), None if is_mixed else differing)
    elif differing and not is_mixed:
        text = (
            f"Replicas differ in {differing:,} steps, first at step {whole(found['first']):,}. In which tensors is not "
        )
        parts.append(note(text + "known: the table that names them is missing or not the same on all ranks.", "bad"))
    elif compared:
        text = f"{whole(who['ranks']):,} ranks state the same statistics, to the last bit, "
        parts.append(note(f"{text}in all {compared:,} steps compared.", "good"))
    if differing > _MAX_STEPS:
        parts.append(note(f"Tensors were compared in the first {_MAX_STEPS} of {differing:,} steps that differ."))
    if stride > 1:
        parts.append(note(f"The run is long: every {stride:,}th step was compared."))
    if compared < steps:
        parts.append(
            note(f"{steps - compared:,} steps were recorded by one rank only and could not be compared.", "warn")
        )
    if is_mixed:
        parts.append(note("Some tensors are sharded and were left out."))
    return parts


def _differences(asking: Asking, tensors: Sequence[Row], ranks: int, differing: int | None) -> list[Html]:
    first = tensors[0]
    name, step = str(first["name"]), whole(first["first_step"])
    here = asking.rows(_RANKS, name=name.encode("utf-8", "surrogateescape").hex(), step=step)
    alone = _alone(here)
    who = f" Rank {alone} stands alone: look at its device first." if alone is not None else ""
    if ranks == 2:
        who = " With two ranks the statistics cannot say which of them is wrong."
    parts = [
        tag(
            "p",
            tag("strong", f"Replicas differ, first at step {step:,} in "),
            code(name),
            f"{'' if differing is None else f', in {differing:,} steps altogether'}.{who}",
            class_="note bad",
        )
    ]
    heads = ["tensor", "first step", "steps that differ", "largest difference"]
    rows: list[list[Child]] = [
        [code(str(row["name"])), whole(row["first_step"]), whole(row["steps"]), figure(number(row["spread"]))]
        for row in tensors[:_MAX_TENSORS]
    ]
    parts.append(table(heads, rows, numbers=(1, 2, 3)))
    parts.append(tag("p", "The difference is that of the squared norm, relative to the larger.", class_="aside"))
    if len(tensors) > _MAX_TENSORS:
        parts.append(note(f"{len(tensors) - _MAX_TENSORS:,} more tensors differ."))
    parts.append(tag("h3", f"What each rank states at step {step:,}, ", code(name)))
    values: list[list[Child]] = [
        [str(row["rank"]), _exact(row["square"]), _exact(row["largest"])] for row in here[:_MAX_TENSORS]
    ]
    parts.append(table(["rank", "squared norm", "max-abs"], values, numbers=(1, 2)))
    return parts


def _alone(rows: Sequence[Row]) -> int | None:
    """The one rank whose value no other has, where all the others agree."""
    counts = Counter(str(row["state"]) for row in rows)
    if len(rows) < 3 or len(counts) != 2 or min(counts.values()) != 1:
        return None
    return next(whole(row["rank"]) for row in rows if counts[str(row["state"])] == 1)


def _exact(value: object) -> str:
    found = number(value)
    return "not finite" if found is None else repr(found)
