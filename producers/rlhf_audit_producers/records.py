"""From blocks of bytes to numbered records: one line, or several where quotes hold a line end together.

A record knows the line on which it begins, counted from 1, and its bytes
without the line end (LF or CRLF). Blank lines are no records. Memory is
bounded: a record over 16 MiB becomes a fault with its digest while it streams
past. Broken compression becomes one fault at the line where it broke. The text
itself is not looked at, apart from quotes.

Quotes follow RFC 4180: a cell that begins with a quote ends at the next single
one; a quote elsewhere in a cell is a character like any other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rlhf_audit_producers.input_file import DamagedInputError

MAX_RECORD_BYTES = 16 * 1024 * 1024  # far above any judgement; bounds memory on files without line ends
CHUNK_RECORDS = 4096
CHUNK_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_TOO_LONG = f"longer than {MAX_RECORD_BYTES >> 20} MiB"


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that cannot be recorded: where, why in our own words, and its bytes by digest only."""

    line: int
    reason: str
    row_sha256: bytes
    row_bytes: int


@dataclass(slots=True)
class RawChunk:
    """Consecutive records of a file; everything before it in the file is in earlier chunks."""

    lines: list[int]
    raws: list[bytes]
    faults: list[RowFault]


def fault_of(line: int, reason: str, raw: bytes) -> RowFault:
    """The fault of a row whose bytes are at hand."""
    return RowFault(line, reason, hashlib.sha256(raw).digest(), len(raw))


def raw_chunks(blocks: Iterable[bytes], *, quoted_delimiter: bytes | None = None) -> Iterator[RawChunk]:
    """Cut blocks into records, at most about 4,096 or 4 MiB of them at a time."""
    chunk = RawChunk([], [], [])
    size = 0
    joiner = None if quoted_delimiter is None else _Joiner(quoted_delimiter)
    for first_line, lines, faults in _lines(blocks, strip_cr=joiner is None):
        chunk.faults.extend(faults)
        if joiner is None:
            numbers = [at for at, line in enumerate(lines, first_line) if line and not line.isspace()]
            raws = lines if len(numbers) == len(lines) else [line for line in lines if line and not line.isspace()]
        else:
            numbers, raws, more = joiner.feed(first_line, lines)
            chunk.faults.extend(more)
        chunk.lines.extend(numbers)
        chunk.raws.extend(raws)
        size += sum(map(len, raws))
        while len(chunk.raws) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
            out, chunk = _split(chunk)
            size = sum(map(len, chunk.raws))
            yield out
    if joiner is not None:
        chunk.faults.extend(joiner.finish())
    if chunk.raws or chunk.faults:
        yield chunk


def _split(chunk: RawChunk) -> tuple[RawChunk, RawChunk]:
    """The first ``CHUNK_RECORDS`` and the rest, each with the faults of its lines."""
    end = CHUNK_RECORDS
    if len(chunk.raws) <= end:
        return chunk, RawChunk([], [], [])
    border = chunk.lines[end]
    early = [fault for fault in chunk.faults if fault.line < border]
    late = [fault for fault in chunk.faults if fault.line >= border]
    return (
        RawChunk(chunk.lines[:end], chunk.raws[:end], early),
        RawChunk(chunk.lines[end:], chunk.raws[end:], late),
    )


def _lines(blocks: Iterable[bytes], *, strip_cr: bool) -> Iterator[tuple[int, list[bytes], list[RowFault]]]:
    """(number of the first line, whole lines without LF and perhaps without CR, faults among them)."""
    number = 1  # of the line whose beginning is in ``parts``
    parts: list[bytes] = []
    held = 0
    skipping = None  # digest of a line that is too long to hold
    damage: str | None = None
    source = iter(blocks)
    first = True
    while True:
        try:
            block = next(source, None)
        except DamagedInputError as error:
            damage, block = str(error), None
        if block is None:
            break
        if first:
            block = block.removeprefix(_BOM)
            first = False
        if skipping is not None:
            head, newline, block = block.partition(b"\n")
            skipping.update(head)
            held += len(head)
            if not newline:
                continue
            yield number, [], [RowFault(number, _TOO_LONG, skipping.digest(), held)]
            skipping, held = None, 0
            number += 1
        *lines, tail = block.split(b"\n")
        if lines:
            lines[0] = b"".join(parts) + lines[0]
            parts, held = [], 0
            if strip_cr and (b"\r" in block or lines[0].endswith(b"\r")):
                lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
            yield number, lines, []
            number += len(lines)
        if tail:
            parts.append(tail)
            held += len(tail)
        if held > MAX_RECORD_BYTES:
            skipping = hashlib.sha256(b"".join(parts))
            parts = []
    rest = b"".join(parts)
    if strip_cr:
        rest = rest.removesuffix(b"\r")
    if damage is not None:
        digest = skipping.digest() if skipping is not None else hashlib.sha256(rest).digest()
        yield number, [], [RowFault(number, damage, digest, held if skipping is not None else len(rest))]
    elif skipping is not None:
        yield number, [], [RowFault(number, _TOO_LONG, skipping.digest(), held)]
    elif rest:
        yield number, [rest], []


class _Joiner:
    """Joins lines that belong to one record because a quoted cell is still open at the line's end."""

    def __init__(self, delimiter: bytes) -> None:
        cell = rb'(?:"(?:[^"]++|"")*+"|[^"%s][^%s]*+|)' % (re.escape(delimiter), re.escape(delimiter))
        self._whole = re.compile(cell + rb"(?:%s%s)*+" % (re.escape(delimiter), cell))
        self._opening = delimiter + b'"'
        self._open: list[bytes] = []
        self._open_line = 0
        self._open_bytes = 0

    def feed(self, first_line: int, lines: list[bytes]) -> tuple[list[int], list[bytes], list[RowFault]]:
        numbers: list[int] = []
        raws: list[bytes] = []
        faults: list[RowFault] = []
        for at, line in enumerate(lines, first_line):
            if not self._open:
                if not line or line.isspace():
                    continue
                line = line.removesuffix(b"\r")
                if b'"' not in line or self._whole.fullmatch(line) or not self._open_after(line, inside=False):
                    numbers.append(at)
                    raws.append(line)
                    continue
                line = lines[at - first_line]  # a CR before a line end inside quotes belongs to the cell
                self._open_line, self._open_bytes = at, 0
                inside = True
            else:
                inside = b'"' not in line or self._open_after(line, inside=True)
            self._open.append(line)
            self._open_bytes += len(line) + 1
            if not inside:
                numbers.append(self._open_line)
                raws.append(b"\n".join(self._open).removesuffix(b"\r"))
                self._open = []
            elif self._open_bytes > MAX_RECORD_BYTES:
                faults.extend(self.finish())
        return numbers, raws, faults

    def finish(self) -> list[RowFault]:
        """What is still open when nothing more will be joined."""
        if not self._open:
            return []
        raw = b"\n".join(self._open)
        reason = f"a quoted cell that opens here is never closed; it takes in {len(self._open)} lines"
        self._open = []
        return [fault_of(self._open_line, reason, raw)]

    def _open_after(self, line: bytes, *, inside: bool) -> bool:
        """Whether a quoted cell is open at the end of ``line``."""
        at = 0
        if not inside and line.startswith(b'"'):
            inside, at = True, 1
        while True:
            if inside:
                at = line.find(b'"', at)
                if at < 0:
                    return True
                inside = line.startswith(b'""', at)
                at += 2 if inside else 1
            else:
                at = line.find(self._opening, at)
                if at < 0:
                    return False
                inside, at = True, at + len(self._opening)
