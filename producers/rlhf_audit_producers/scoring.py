"""Scores that a file does not hold as one number: tables over columns, and 0/1 columns.

A table is a list of rules, tried in order; the first rule all of whose
conditions hold gives the score. A condition compares a column with a value, or
with the beginning of one (``*`` at the end). A rule may give no score on
purpose (``null``); a row that fits no rule has no score either and is counted.

One-hot columns spread one judgement over several columns of which at most one
is set; each column stands for a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_audit_producers.cells import Bad

MAX_KNOWN = 65_536  # distinct combinations remembered; columns of a table have few
_SET = frozenset({"1", "1.0", "true", "True", "TRUE", "yes", "x", "X"})
_UNSET = frozenset({"", "0", "0.0", "false", "False", "FALSE", "no", "NULL", "null", "None", "NaN", "nan"})


@dataclass(frozen=True, slots=True)
class Condition:
    """``column`` has this value, or begins with it."""

    column: str
    value: str
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """If all conditions hold, this is the score; None is a score left out on purpose."""

    conditions: tuple[Condition, ...]
    score: float | None


@dataclass(frozen=True, slots=True)
class OneHot:
    """Columns of which one is set, and the value each stands for."""

    field: str
    columns: tuple[tuple[str, str], ...]


class ScoreTable:
    """A table made ready: rows with the same cells are looked up once."""

    def __init__(self, rules: Sequence[ScoreRule]) -> None:
        self.columns = tuple(dict.fromkeys(condition.column for rule in rules for condition in rule.conditions))
        self._rules = rules
        self._known: dict[tuple[str | None, ...], tuple[float | None, bool]] = {}

    def scores(self, columns: Sequence[Sequence[str | None]]) -> tuple[list[float | None], list[int]]:
        """Scores for rows given as columns in the order of ``self.columns``, and the rows that fit no rule."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        rows = list(zip(*columns, strict=True))
        for cells in set(rows) - self._known.keys():
            self._known[cells] = self._look_up(dict(zip(self.columns, cells, strict=True)))
        found = [self._known[cells] for cells in rows]
        unmatched = [at for at, (_, matched) in enumerate(found) if not matched]
        return [score for score, _ in found], unmatched

    def _look_up(self, cells: Mapping[str, str | None]) -> tuple[float | None, bool]:
        for rule in self._rules:
            if all(_holds(condition, cells[condition.column]) for condition in rule.conditions):
                return rule.score, True
        return None, False


def _holds(condition: Condition, cell: str | None) -> bool:
    if cell is None:
        return condition.value == ""
    return cell.startswith(condition.value) if condition.is_prefix else cell == condition.value


def one_hot_values(one_hot: OneHot, columns: Sequence[Sequence[Any]], bad: Bad) -> tuple[list[str | None], int]:
    """The value of the set column of each row, and how many rows had none set.

    A row with several set columns, or with a cell that is neither 0 nor 1, says nothing certain: it is bad.
    """
    names = [value for _, value in one_hot.columns]
    out: list[str | None] = []
    none_set = 0
    for at, cells in enumerate(zip(*columns, strict=True)):
        chosen: str | None = None
        for name, cell in zip(names, cells, strict=True):
            text = "" if cell is None else str(cell)
            if text in _SET:
                if chosen is not None:
                    bad.setdefault(at, f"{one_hot.field}: more than one of its 0/1 columns is set")
                chosen = name
            elif text not in _UNSET:
                bad.setdefault(at, f"{one_hot.field}: one of its 0/1 columns holds neither 0 nor 1")
        none_set += chosen is None and at not in bad
        out.append(chosen)
    return out, none_set
