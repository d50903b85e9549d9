"""Sections 3 to 5 of ``docs/format.md`` as they are written there: slow, obvious, from the first message every time.

Shares nothing with the code under test. Envelopes are read with fastavro, not with our strict decoder; roots come from
the recursive definition. What a message *is* (its outcome) is given; what follows from it is computed here. Lanes have
a model of their own: the set of numbers ever accepted.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro

from oracle.merkle_by_the_book import root_by_the_book

AVRO = Path(__file__).parents[2] / "schemas" / "rlhf_audit_schemas" / "avro" / "envelope"
STREAMS = {"annotations": 0x11, "gradients": 0x12, "lifecycle": 0x13, "released": 0x14}


def read(schema: str, data: bytes) -> dict[str, Any]:
    """An Avro body, by the library."""
    parsed = fastavro.parse_schema(json.loads((AVRO / f"{schema}.avsc").read_text(encoding="utf-8")))
    record = fastavro.schemaless_reader(io.BytesIO(data), parsed, None)
    assert isinstance(record, dict)
    return record


def h(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def events_by_the_book(value: bytes) -> list[bytes]:
    """The entries of a batch's events."""
    body = read("batch_body", read("event_batch", value)["body"])
    entries = []
    for event in body["events"]:
        digest = h(b"rlhf-audit/event/v1\0", struct.pack(">HH", body["kind"], body["schema"]), event)
        entries.append(bytes([0x01, STREAMS[body["stream"]]]) + digest)
    return entries


@dataclass
class Message:
    """One source message and what it was judged to be. ``entries`` are those that are not events."""

    header: bytes
    outcome: str
    value: bytes | None
    entries: list[bytes] = field(default_factory=list)

    @property
    def is_batch(self) -> bool:
        return self.outcome in ("accepted", "gap_filled")

    @property
    def tick(self) -> dict[str, Any] | None:
        """Its valid tick, if it is one."""
        if self.outcome != "control" or self.entries or self.value is None:
            return None
        return read("tick", read("control", self.value)["body"])

    @property
    def is_switch(self) -> bool:
        """Whether it is a switch of format or source that took effect."""
        if self.outcome != "control" or not self.entries:
            return False
        number: int = read("control_entry", self.entries[0][2:])["control"]
        return number in (4, 5)

    @property
    def opens_a_window(self) -> bool:
        return self.tick is None and self.outcome != "ignored"


@dataclass
class Window:
    """A window as the rules give it: its first index, its entries (the close excluded), its messages, its root."""

    first_index: int
    entries: list[bytes]
    root: bytes
    m: int
    link: bytes
    closing: Message


def links_by_the_book(ledger_id: bytes, stream: str, partition: int, messages: Sequence[Message]) -> list[bytes]:
    """link 0 to link m."""
    name = stream.encode()
    start = struct.pack(">I", len(name)) + name + struct.pack(">I", partition)
    links = [h(b"rlhf-audit/chain/v1\0", ledger_id, start)]
    for m, message in enumerate(messages, 1):
        leaves = [h(b"\0", entry) for entry in entries_of(message)]
        head = struct.pack(">QI", m, len(message.header)) + message.header + struct.pack(">I", len(leaves))
        links.append(h(b"rlhf-audit/link/v1\0", links[-1], head, *leaves))
    return links


def entries_of(message: Message) -> list[bytes]:
    """What a message adds to the log, a close it causes excluded."""
    return message.entries + (events_by_the_book(message.value) if message.is_batch and message.value else [])


def windows_by_the_book(
    leaf_0: bytes,
    links: Sequence[bytes],
    messages: Sequence[Message],
    closes: Sequence[bytes],
    *,
    strong: bool,
    max_entries: int,
    max_messages: int,
) -> tuple[list[Window], list[bytes]]:
    """Windows, and the whole log. ``closes`` are the close entries as stored: only their bytes are taken from there."""
    log, windows, rest = [leaf_0], list[Window](), list(closes)
    first_index, count, is_open, closed_number = 1, 0, False, -1
    for m, message in enumerate(messages, 1):
        tick = message.tick
        is_open = is_open or message.opens_a_window or (strong and tick is not None)
        count += is_open
        log += entries_of(message)
        size = len(log) - first_index
        by_tick = tick is not None and (strong or tick["flush"] or tick["number"] > closed_number)
        by_switch = message.is_switch
        by_cap = not strong and (size >= max_entries or count >= max_messages)
        if not is_open or not (by_tick or by_switch or by_cap):
            continue
        if tick is not None and by_tick:
            closed_number = tick["number"]
        entries = log[first_index:]
        windows.append(Window(first_index, entries, root_by_the_book(entries), m, links[m], message))
        if rest:
            log.append(rest.pop(0))
        first_index, count, is_open = len(log), 0, False
    return windows, log


def checkpoint_text(origin: str, log: Sequence[bytes]) -> bytes:
    """The three lines that are signed."""
    return f"{origin}\n{len(log)}\n{base64.b64encode(root_by_the_book(log)).decode()}\n".encode()


class LaneByTheBook:
    """One lane as a set of numbers: no gaps, no rows, unbounded memory."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.batches: dict[tuple[int, int], bytes] = {}
        self.last: tuple[int, int] | None = None
        self.end: int | None = None

    @property
    def next(self) -> int:
        return max(self.taken, default=-1) + 1

    @property
    def missing(self) -> set[int]:
        return set(range(self.next)) - self.taken

    def offer(self, first: int, count: int, digest: bytes, *, prev: bytes, final: bool) -> str:
        """Outcome of a batch of at least one event, and the lane after it."""
        numbers = set(range(first, first + count))
        if self.end is not None and not self.missing:
            return "duplicate"
        if first >= self.next:
            if self.end is not None:
                return "quarantined"
            last = self.batches[self.last] if self.last is not None else bytes(32)
            if first == self.next and prev != last:
                return "quarantined"
            self._take(numbers, first, count, digest)
            self.last = (first, count)
            self.end = first + count if final else None
            return "accepted"
        if numbers <= self.missing and not final:
            self._take(numbers, first, count, digest)
            return "gap_filled"
        if numbers & self.missing or not numbers <= self.taken:
            return "quarantined"
        return "conflict" if self.last == (first, count) and self.batches[self.last] != digest else "duplicate"

    def _take(self, numbers: set[int], first: int, count: int, digest: bytes) -> None:
        self.taken |= numbers
        self.batches[first, count] = digest
