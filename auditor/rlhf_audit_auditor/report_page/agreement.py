"""How far annotators agree where two or more judged the same.

Each annotator counts once per item, with the last judgement. Two measures:

- equal pairs: share of pairs of judgements of one item that are equal;
- Krippendorff's alpha, 1 - observed / expected disagreement (K. Krippendorff, Content Analysis, chapter on
  reliability): nominal for labels and preferences, interval for numbers. 1 is perfect, 0 is chance.

Corrections and withdrawals are not applied.
"""

from __future__ import annotations

from rlhf_audit_auditor.report_page.annotators import MOMENT, NO_UNIT, PAIR, SCOPE, UNIT
from rlhf_audit_auditor.report_page.asking import Asking, Row, Section, number, whole
from rlhf_audit_auditor.report_page.markup import Child, figure, join, note, percent, table, tag

_MAX_MEASURES = 24
_MEANS = (
    "Over items that two or more judged; of several judgements of one item by one annotator the last counts. "
    "Alpha (Krippendorff) is 1 where all agree and 0 where they agree no more than by chance; below 0.67 is usually "
    "too weak. RMS difference is how far two numbers for one item lie apart."
)

_JUDGED = f"""
SELECT measure, unit, annotator, argMax(value, moment) AS value, argMax(score, moment) AS score FROM (
  SELECT 'score' AS measure, {UNIT} AS unit, annotator, {MOMENT} AS moment, toString(score) AS value, score
  FROM audit_restricted.annotation WHERE {SCOPE} AND score IS NOT NULL
  UNION ALL
  SELECT 'label', {UNIT}, annotator, {MOMENT}, label, NULL
  FROM audit_restricted.annotation WHERE {SCOPE} AND label IS NOT NULL
  UNION ALL
  SELECT 'preference', concat({UNIT}, '|', {PAIR}), annotator, {MOMENT},
    if(chosen_sha256 < rejected_sha256, 'first', 'second'), NULL
  FROM audit_restricted.annotation WHERE {SCOPE} AND chosen_sha256 IS NOT NULL AND rejected_sha256 IS NOT NULL
  UNION ALL
  SELECT concat('axis ', axis), {UNIT}, annotator, {MOMENT}, coalesce(toString(number), word, ''), number
  FROM audit_restricted.annotation ARRAY JOIN axis_names AS axis, axis_values AS number, axis_labels AS word
  WHERE {SCOPE} AND (number IS NOT NULL OR word IS NOT NULL)
)
WHERE annotator IS NOT NULL AND unit != '{NO_UNIT}' GROUP BY measure, unit, annotator
"""  # noqa: S608 - constants of this module
_EQUAL = f"""
SELECT measure, sum(total) AS n, sum(same) AS same, sum(toFloat64(total) * (total - 1)) AS expected FROM (
  SELECT measure, value, sum(votes) AS total, sum(votes * (votes - 1) / (judges - 1)) AS same FROM (
    SELECT measure, unit, value, count() AS votes, sum(votes) OVER (PARTITION BY measure, unit) AS judges
    FROM ({_JUDGED}) GROUP BY measure, unit, value
  )
  WHERE judges > 1 GROUP BY measure, value
)
GROUP BY measure ORDER BY measure LIMIT {_MAX_MEASURES}
"""  # noqa: S608 - constants of this module
_SPREAD = f"""
SELECT measure, count() AS items, sum(judges) AS n, countIf(judges = numbers) AS numeric_items,
  sum(2 * judges * judges * variance / (judges - 1)) AS observed, sum(square) AS squares, sum(total) AS totals
FROM (
  SELECT measure, unit, count() AS judges, count(score) AS numbers, ifNull(varPop(score), 0) AS variance,
    ifNull(sum(score * score), 0) AS square, ifNull(sum(score), 0) AS total
  FROM ({_JUDGED}) GROUP BY measure, unit HAVING judges > 1
)
GROUP BY measure
"""  # noqa: S608 - constants of this module


def agreement_section(asking: Asking) -> Section:
    """Agreement of those who judged the same."""
    spread = {str(row["measure"]): row for row in asking.rows(_SPREAD)}
    rows = [
        _agreement(row, spread[str(row["measure"])]) for row in asking.rows(_EQUAL) if str(row["measure"]) in spread
    ]
    if not rows:
        text = "No item was judged by two annotators: how far they agree is not known."
        return Section("agreement", "Agreement", note(text))
    heads = ["what", "items", "judgements", "equal pairs", "alpha", "RMS difference"]
    parts = [
        tag("p", _MEANS),
        table(heads, rows, numbers=(1, 2, 3, 4, 5)),
    ]
    return Section("agreement", "Agreement", join(parts))


def _agreement(equal: Row, spread: Row) -> list[Child]:
    n = whole(equal["n"])
    share = (number(equal["same"]) or 0.0) / n
    expected = (number(equal["expected"]) or 0.0) / (n * (n - 1))
    is_numeric = whole(spread["numeric_items"]) == whole(spread["items"])
    alpha = None if expected == 1 else 1 - (1 - share) / (1 - expected)
    difference = None
    if is_numeric:
        observed = (number(spread["observed"]) or 0.0) / n
        total, squares = number(spread["totals"]) or 0.0, number(spread["squares"]) or 0.0
        chance = 2 * (n * squares - total * total) / (n * (n - 1))
        alpha = None if chance <= 0 else 1 - observed / chance
        difference = observed**0.5
    shown = "all alike" if alpha is None else f"{alpha:.3f}"
    return [str(equal["measure"]), whole(spread["items"]), n, percent(share), shown, figure(difference)]
