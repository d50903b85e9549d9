"""Numbers in sentences: ``1 window``, ``2,000 windows``."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """A number with its noun, given in the singular; the last word gets an s."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")
