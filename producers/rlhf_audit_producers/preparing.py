"""From a file to event bytes: read, parse, map, digest, encode; in this process or in one of its own.

Everything here is a function of the file and the mapping, fresh salts aside,
and knows nothing of lanes or ledgers. That makes it half of an ingest's work
that a second core can do: ``PreparingProcess`` runs ``Preparer`` in a child
and hands over whole chunks. The child shares the open file, so both read the
same one whatever happens to its name.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlhf_audit_producers.input_file import InputChangedError, InputFile, OnBytes
from rlhf_audit_producers.layout import Sniffed, without_header
from rlhf_audit_producers.mapping import Mapping
from rlhf_audit_producers.owner_warnings import OwnerObserver, OwnerWarnings
from rlhf_audit_producers.records import RowFault, raw_chunks
from rlhf_audit_producers.row_chunks import RowChunk, parse
from rlhf_audit_producers.rows import MappedChunk, RowMapper, WarningCode
from rlhf_audit_schemas.codec import Constant
from rlhf_audit_schemas.errors import AuditTrailError

SALT_BYTES = 16
_FRAME = struct.Struct(">Q")


class PreparingError(AuditTrailError):
    """The process that reads the file ended before the file did; the same command goes on where it was."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One chunk of a file. ``lines`` and ``annotators`` belong to ``events``, one each."""

    events: list[bytes]
    lines: list[int]
    annotators: list[str | None] | None
    """None if no column names an annotator."""
    faults: list[RowFault]

    @property
    def rows(self) -> int:
        return len(self.events) + len(self.faults)


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known at the end of the file: odd values by kind, and what the data owner wants to know."""

    warnings: dict[WarningCode, int]
    owner: OwnerWarnings


def row_chunks(source: InputFile, sniffed: Sniffed, on_bytes: OnBytes | None = None) -> Iterator[RowChunk]:
    """Every row and every fault of a file, in order."""
    layout = sniffed.layout
    quoted = layout.delimiter.encode() if layout.quoted else None
    header_pending = layout.format == "table"
    for chunk in raw_chunks(source.blocks(on_bytes), quoted_delimiter=quoted):
        if header_pending and chunk.raws:
            chunk = without_header(chunk)
            header_pending = False
        yield parse(chunk, layout)


class Preparer:
    """Prepares a file in this process. ``salt(n)`` gives n random bytes."""

    def __init__(
        self,
        source: InputFile,
        sniffed: Sniffed,
        mapping: Mapping,
        *,
        salt: Callable[[int], bytes] = os.urandom,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._source, self._sniffed, self._salt, self._now_us = source, sniffed, salt, now_us
        self._mapper = RowMapper(mapping, sniffed, source.sha256)
        self._observer = OwnerObserver()

    def chunks(self, on_bytes: OnBytes | None = None) -> Generator[Prepared, None, None]:
        """Chunks in file order. Raises InputChangedError as soon as the file is seen to change."""
        for chunk in row_chunks(self._source, self._sniffed, on_bytes):
            self._source.check_unchanged()
            mapped = self._mapper.map(chunk)
            self._observer.observe(mapped)
            yield Prepared(self._encode(mapped), mapped.lines, mapped.annotators, mapped.faults)

    def summary(self) -> Summary:
        """After the last chunk."""
        warnings = {name: count for name, count in self._mapper.warnings.items() if count}
        return Summary(warnings, self._observer.summary())

    def _encode(self, chunk: MappedChunk) -> list[bytes]:
        if not chunk.count:
            return []
        salts = self._salt(SALT_BYTES * chunk.count)
        columns = chunk.columns
        columns["salt"] = [salts[at : at + SALT_BYTES] for at in range(0, len(salts), SALT_BYTES)]
        columns["ts_us"] = Constant(self._now_us())
        return self._mapper.kind.codec.encode_columns(columns, chunk.count)


class PreparingProcess:
    """As ``Preparer``, in a child process; it lives as long as ``chunks`` is read."""

    def __init__(self, source: InputFile, sniffed: Sniffed, mapping: Mapping) -> None:
        self._source, self._sniffed, self._mapping = source, sniffed, mapping
        self._summary: Summary | None = None

    def chunks(self, on_bytes: OnBytes | None = None) -> Generator[Prepared, None, None]:
        """Chunks in file order. Raises what ``Preparer.chunks`` raises, PreparingError if the child dies."""
        fd = self._source.fileno()
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell, no outside text
            [sys.executable, "-c", f"from {__name__} import run_child; run_child({fd})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # an interrupt is for the parent, which stops at a clean point
        )
        if child.stdin is None or child.stdout is None:
            raise PreparingError("no pipe to the process that reads the file")
        try:
            with child.stdin as pipe:
                job = (self._source.path, self._source.known, self._source.sha256, self._sniffed, self._mapping)
                pickle.dump(job, pipe)
            yield from self._received(child.stdout, on_bytes)
        finally:
            child.kill()
            child.stdout.close()
            child.wait()

    def summary(self) -> Summary:
        """After the last chunk."""
        if self._summary is None:
            raise PreparingError(f"{self._source.path}: not read to its end")
        return self._summary

    def _received(self, pipe: IO[bytes], on_bytes: OnBytes | None) -> Iterator[Prepared]:
        while True:
            self._source.check_unchanged()
            what, value = _receive(pipe)
            if what == "bytes" and on_bytes is not None:
                on_bytes(value)
            elif what == "chunk":
                yield value
            elif what == "changed":
                raise InputChangedError(value)
            elif what == "end":
                self._summary = value
                return


def _send(pipe: IO[bytes], what: str, value: object) -> None:
    data = pickle.dumps((what, value), protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(_FRAME.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[str, Any]:
    head = pipe.read(_FRAME.size)
    data = pipe.read(_FRAME.unpack(head)[0]) if len(head) == _FRAME.size else b""
    if not data:
        raise PreparingError("the process that reads the file died; the same command goes on where it was")
    what, value = pickle.loads(data)  # noqa: S301 - made by our own child, over a pipe that nobody else holds
    return what, value


def run_child(fd: int) -> None:
    """The child's life: a job from standard input, messages to standard output."""
    path, known, sha256, sniffed, mapping = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's
    out = sys.stdout.buffer
    source = InputFile.adopt(Path(path), fd, known, sha256)
    preparer = Preparer(source, sniffed, mapping)
    try:
        for chunk in preparer.chunks(lambda count: _send(out, "bytes", count)):
            _send(out, "chunk", chunk)
        _send(out, "end", preparer.summary())
    except InputChangedError as error:
        _send(out, "changed", str(error))
