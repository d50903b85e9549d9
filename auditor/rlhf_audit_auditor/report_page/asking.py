"""What the report page asks: SQL on the query copy, through a function that is handed in.

Whoever composes the page knows where the copy is. Names of tables are those
that the ClickHouse sink makes. Values that come from events go into a query as
hex digits of their UTF-8, so that no way of quoting is relied on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlhf_audit_auditor.report_page.markup import Html

Row = Mapping[str, Any]


class Query(Protocol):
    """Answers one query on the query copy.

    Rows by column name; fixed binary as hex digits, times as the engine shows them, numbers not finite as None.
    """

    def __call__(self, sql: str, parameters: Mapping[str, str], /) -> Sequence[Row]: ...


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page. ``plots`` are what its figures show, by name; ``alarm`` goes to the head of the page."""

    id: str
    title: str
    body: Html
    plots: Mapping[str, object] = field(default_factory=dict)
    alarm: str | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """A query function and the run that is asked about; None where the trail knows no run."""

    query: Query
    run_id: str | None

    def rows(self, sql: str, **parameters: str | int) -> Sequence[Row]:
        """Rows of a query. ``unhex({run:String})`` is the run's id."""
        given = {name: str(value) for name, value in parameters.items()}
        return self.query(sql, {"run": hexed(self.run_id or ""), **given})

    def row(self, sql: str, **parameters: str | int) -> Row:
        """The one row of a query; empty if there is none."""
        found = self.rows(sql, **parameters)
        return found[0] if found else {}


def hexed(text: str) -> str:
    """UTF-8 as hex digits."""
    return text.encode("utf-8", "surrogateescape").hex()


def whole(value: object) -> int:
    """A whole number of an answer; 64-bit ones may come as text, none counts as 0."""
    return int(str(value)) if value not in (None, "") else 0


def maybe_whole(value: object) -> int | None:
    """The same, none stays none."""
    return None if value is None else whole(value)


def number(value: object) -> float | None:
    """A finite number of an answer, else None."""
    if value in (None, ""):
        return None
    found = float(str(value))
    return found if math.isfinite(found) else None


def short(value: float | None) -> float | None:
    """Six digits: enough for a curve, and a fraction of the bytes."""
    return None if value is None else float(f"{value:.6g}")


def text_of(value: object) -> str | None:
    """Text of an answer; none and empty are None."""
    return None if value in (None, "") else str(value)
