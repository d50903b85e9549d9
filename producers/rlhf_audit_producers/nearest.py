"""The nearest known name, for errors that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if not close:
        lowered = {each.lower(): each for each in known}
        close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
        close = [lowered[each] for each in close]
    return f", did you mean {close[0]!r}?" if close else ""
