"""Findings: what contradicts what, with its place; and what could not be read.

Low-level checks raise at the first fault; here faults are collected, so that
one does not hide the next. A message holds ids, numbers and digests, never
anything an event says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

MAX_SHOWN = 50  # per code and partition: a broken log would else repeat one fault for each of its windows

Code = Literal[
    "checkpoint",  # a signed statement is missing, malformed, wrongly signed, or not what the log says
    "signature_line",  # a line on a checkpoint by somebody the genesis does not name
    "global_log",  # the global log contradicts itself or the partitions
    "genesis",
    "schema",  # a schema file of this version is not the one the genesis names
    "expected",  # a checkpoint known before is not extended
    "tile",  # a tile or bundle is missing or not what the entries give
    "segment",  # a window's public record is missing, malformed or not what the rules give
    "vault",  # a payload object does not decrypt, re-hash or fit its window
    "tick",  # a tick names a state of the global log that never was, or came later
    "lane",  # a batch stands in a lane whose key did not sign it
    "source",  # a partition goes back to a source log that it had left
    "unexplained",  # an object that no rule explains
    "pending",  # what stands beyond a checkpoint is not a complete and consistent tail
]


def printable(text: str) -> str:
    """Names from outside, safe for a terminal: what is no printable character is escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction and where it is; ``window`` and ``object`` as far as they are known."""

    code: Code
    message: str
    stream: str | None = None
    partition: int | None = None
    window: int | None = None
    object: str | None = None

    @property
    def place(self) -> str:
        """``stream/partition window n, object``, as far as known."""
        parts = []
        if self.stream is not None:
            parts.append(self.stream if self.partition is None else f"{self.stream}/{self.partition}")
        if self.window is not None:
            parts.append(f"window {self.window}")
        if self.object is not None:
            parts.append(self.object)
        return ", ".join(parts) or "ledger"


@dataclass(slots=True)
class Findings:
    """Collector for one log or one partition. ``more`` counts findings per code beyond MAX_SHOWN."""

    stream: str | None = None
    partition: int | None = None
    found: list[Finding] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, code: Code, message: str, *, window: int | None = None, obj: str | None = None) -> None:
        """Record a contradiction."""
        self._counts[code] += 1
        if self._counts[code] > MAX_SHOWN:
            self.more[code] += 1
            return
        where = None if obj is None else printable(obj)
        self.found.append(Finding(code, printable(message), self.stream, self.partition, window, where))

    def could_not_read(self, what: str) -> None:
        """Record something that could be checked neither way."""
        if len(self.unreadable) < MAX_SHOWN:
            self.unreadable.append(printable(what))
        else:
            self.more["unreadable"] += 1

    def note(self, what: str) -> None:
        """Record something worth printing that contradicts nothing."""
        if len(self.notes) < MAX_SHOWN:
            self.notes.append(what)

    def merge(self, other: Findings) -> None:
        """Take over what another collector holds."""
        self.found += other.found
        self.more += other.more
        self.unreadable += other.unreadable
        self.notes += other.notes

    def __bool__(self) -> bool:
        return bool(self.found)
