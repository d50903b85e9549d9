"""Markup for the report page: text is escaped unless it is markup already.

``Html`` is a type of its own, and ``tag`` escapes whatever is not of it: a
string can get onto the page in no other way. What is not printable (control
and bidirectional characters) is shown by its number, as on a terminal.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rlhf_audit_auditor.findings import printable

MAX_TEXT = 300  # an id longer than this is cut, and says so
NOTHING = "\N{EN DASH}"
_SHORT_CELL = 40  # what is longer may break over lines in a table
_VOID = frozenset({"br", "meta", "link"})


class Html(str):
    """Finished markup."""

    __slots__ = ()


Child = str | int | float | None


def escaped(text: str) -> Html:
    """Text that is safe as content."""
    cut = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"
    return Html(html.escape(printable(cut)))


def join(parts: Iterable[Html]) -> Html:
    """Markup after markup."""
    return Html("".join(parts))


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. ``class_`` and ``data_x`` stand for ``class`` and ``data-x``; None and False leave one out."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        words.append(written if value is True else f'{written}="{html.escape(printable(str(value)))}"')
    opening = f"<{' '.join(words)}>"
    if name in _VOID:
        return Html(opening)
    return Html(f"{opening}{''.join(_content(child) for child in children)}</{name}>")


def _content(child: Child) -> Html:
    if isinstance(child, Html):
        return child
    return escaped(child if isinstance(child, str) else figure(child))


def figure(value: float | None) -> str:
    """A number for people: whole ones with separators, others to four digits."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def counted(count: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def percent(share: float | None) -> str:
    """A share as percent."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.3g} %"


def size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def moment(microseconds: int | None) -> str:
    """A time, UTC, to the second."""
    if microseconds is None:
        return NOTHING
    try:
        return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "no date"


def code(text: str | None) -> Html:
    """An id or a digest."""
    return tag("code", text) if text else Html(NOTHING)


def table(heads: Sequence[str], rows: Iterable[Sequence[Child]], *, numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls by itself where it is too wide; ``numbers`` are the columns set to the right."""
    right = frozenset(numbers)

    def row_of(name: str, cells: Sequence[Child]) -> Html:
        return tag("tr", join(tag(name, cell, class_=look(at, cell)) for at, cell in enumerate(cells)))

    def look(at: int, cell: Child) -> str | None:
        if at in right:
            return "n"
        return "t" if isinstance(cell, str) and not isinstance(cell, Html) and len(cell) > _SHORT_CELL else None

    body = join(row_of("td", cells) for cells in rows)
    return tag("div", tag("table", tag("thead", row_of("th", heads)), tag("tbody", body)), class_="wide", tabindex="0")


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Names and values."""
    return tag("dl", join(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def note(text: str, kind: str = "plain") -> Html:
    """A sentence; ``kind`` is good, bad, warn or plain."""
    return tag("p", text, class_=f"note {kind}")


def listed(texts: Iterable[str]) -> Html:
    """Sentences, one under the other."""
    return tag("ul", join(tag("li", text) for text in texts))


def folded(summary: str, inside: Html, *, key: str) -> Html:
    """What is shown on demand. ``key`` lets the page keep it open when it is refreshed."""
    return tag("details", tag("summary", summary), inside, data_key=key)


def plot(name: str, title: str) -> Html:
    """The place of the plot called ``name``; a script draws it."""
    return tag("figure", tag("figcaption", title), tag("div", class_="canvas"), data_plot=name)
