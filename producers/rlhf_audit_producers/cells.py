"""Whole columns of cells become typed columns of an event: strings, numbers, times, digests.

Missing is None and, for everything but texts and labels, any string of
``NULLS``. A cell that cannot mean what its field asks for marks its row in
``bad`` with a reason in our own words; the caller makes it a fault. Distinct
values are converted once per column: real columns repeat.

Times. A number is an epoch time in the unit its size gives: below 10^11
seconds, below 10^14 milliseconds, below 10^17 microseconds, else nanoseconds
(seconds reach the year 5138, milliseconds begin in 1973). A string is a number,
or ISO 8601 with or without zone; without one it is taken as UTC and counted.
Eight digits in a string are an ISO date.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

NULLS = ("", "NULL", "Null", "null", "NONE", "None", "none", "NaN", "nan", "NAN", "N/A", "n/a", "NA", "<NA>")
MAX_LABEL_CHARS = 1000  # above it is a text, and texts are stored only when asked for

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?\s*", re.ASCII)
_MAX_EXACT = 1 << 53  # above it a float no longer tells integers apart
_MAX_US = 253_402_300_800_000_000  # the year 10000

Bad = dict[int, str]


def strings(values: Sequence[Any], nulls: frozenset[str | None], bad: Bad, what: str) -> list[str | None]:
    """Strings as they stand; numbers and truth values as JSON writes them."""
    kinds = set(map(type, values))
    if kinds == {str} and nulls.isdisjoint(values):
        return list(values)
    if kinds <= {str, type(None)}:
        return [None if value in nulls else value for value in values]
    out: list[str | None] = []
    for at, value in enumerate(values):
        if value is None or (type(value) is str and value in nulls):
            out.append(None)
            continue
        text = _plain(value)
        if text is None:
            bad.setdefault(at, f"{what}: {_not_single(value)}")
        out.append(text)
    return out


def _plain(value: Any) -> str | None:
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int or (type(value) is float and abs(value) < _MAX_EXACT):
        return repr(value)
    return None


def _not_single(value: Any) -> str:
    if type(value) is float:
        return "a number too long to be kept exactly; it has to be in quotes"
    return "an object or list where one value is expected"


def numbers(values: Sequence[Any], nulls: frozenset[str | None]) -> tuple[list[float | None], dict[int, Any]]:
    """Numbers, and by row the values that are none."""
    kinds = set(map(type, values))
    if kinds <= {int, float}:
        return list(values), {}
    known: dict[Any, float | None] = {}
    out: list[float | None] = []
    others: dict[int, Any] = {}
    for at, value in enumerate(values):
        kind = type(value)
        if kind is float or kind is int:
            out.append(value)
            continue
        if value is None:
            out.append(None)
            continue
        if kind is str:
            if value not in known:
                known[value] = None if value in nulls else number_in(value)
            number = known[value]
            if number is None and value not in nulls:
                others[at] = value
        elif kind is bool:
            number = float(value)
        else:
            number = None
            others[at] = value
        out.append(number)
    return out, others


def number_in(text: str) -> float | None:
    """The finite number that a string holds, or None."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) != float("inf") else None


def digests(
    values: Sequence[Any], *, empty_is_missing: bool, with_text: bool
) -> tuple[list[bytes | None], list[str | None] | None]:
    """SHA-256 of each text's UTF-8, and the texts if they are to be kept.

    A list or object (chat messages) counts as the text of its JSON with sorted
    keys and no blanks; numbers count as JSON writes them.
    """
    texts: list[str | None] = []
    if set(map(type, values)) <= {str, type(None)}:
        texts = list(values)
    else:
        texts = [
            value if value is None or type(value) is str else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
            for value in values
        ]
    sha256 = hashlib.sha256
    known: dict[str | None, bytes | None] = {
        text: sha256(text.encode("utf-8")).digest() for text in set(texts) if text is not None
    }
    known[None] = None
    if empty_is_missing and "" in known:
        known[""] = None
        texts = [text or None for text in texts]
    return [known[text] for text in texts], texts if with_text else None


def times(values: Sequence[Any], nulls: frozenset[str | None], bad: Bad, what: str) -> tuple[list[int | None], int]:
    """Microseconds UTC, and how many values named no zone."""
    if set(map(type, values)) == {int} and min(values) >= 10**11 and max(values) < 10**14:
        return [value * 1000 for value in values], 0
    known: dict[Any, tuple[int | None, bool]] = {}
    out: list[int | None] = []
    without_zone = 0
    for at, value in enumerate(values):
        if value is None or (type(value) is str and value in nulls):
            out.append(None)
            continue
        if type(value) not in (int, float, str):
            bad.setdefault(at, f"{what}: not a time")
            out.append(None)
            continue
        found = known.get(value)
        if found is None:
            found = known[value] = time_us(value)
        if found[0] is None:
            bad.setdefault(at, f"{what}: not a time; expected seconds, ms or us since 1970, or ISO 8601")
        without_zone += found[1]
        out.append(found[0])
    return out, without_zone


def time_us(value: float | str) -> tuple[int | None, bool]:
    """(microseconds UTC or None if it is no time, whether a zone had to be assumed)."""
    if type(value) is not str:
        return _epoch_us(Decimal(str(value))), False
    text = value.strip()
    if _NUMBER.fullmatch(text) and not (len(text) == 8 and text.isdigit()):
        try:
            return _epoch_us(Decimal(text)), False
        except InvalidOperation:
            return None, False
    if text[-4:] in (" UTC", " GMT"):
        text = text[:-4] + "Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None, False
    assumed = moment.tzinfo is None
    if assumed:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND, assumed


def _epoch_us(number: Decimal) -> int | None:
    size = abs(number)
    if size >= 10**20:
        return None
    if size < 10**11:
        moment = int(number * 1_000_000)
    elif size < 10**14:
        moment = int(number * 1000)
    elif size < 10**17:
        moment = int(number)
    else:
        moment = int(number / 1000)
    return moment if abs(moment) < _MAX_US else None
