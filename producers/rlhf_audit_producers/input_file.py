"""One input file: opened once, hashed, then read from the same descriptor.

The digest recognises a file that was ingested before, so it is taken over the
whole file first; a pipe has no second reading and is refused. A file that
changes between or during the two readings is noticed (size and time of change
before each use, the digest at the end), never recorded as if it were whole.

gzip is known by its first bytes, not by the name. It is unpacked in bounded
steps, and damage is reported after everything before it was handed out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError, FormatError

BLOCK_BYTES = 256 * 1024
_GZIP = b"\x1f\x8b"
_GZIP_WBITS = 31  # zlib: gzip framing, largest window

_REFUSED = {
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\x00": "xz data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"%PDF": "a PDF",
    b"Obj\x01": "an Avro file",
}

OnBytes = Callable[[int], None]


class InputChangedError(CouldNotCheckError):
    """The file changed while it was read: what was read belongs to no digest."""


class DamagedInputError(FormatError):
    """Compressed data break off or are wrong from here on; what came before was good."""


class InputFile:
    """A regular file, open for reading; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            is_regular = stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            if str(path) != "-":
                raise ConfigError(f"{path}: no such file") from None
            is_regular = False
        if not is_regular:
            raise ConfigError(
                f"{path}: not a regular file; pipes, standard input and folders cannot be ingested, since a file is "
                "recognised by the digest of all its bytes before it is read"
            )
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.known = self._fingerprint()
        self.size: int = self.known[0]
        self.sha256 = b""
        self.is_gzip = os.pread(self._fd, 2, 0) == _GZIP

    @classmethod
    def adopt(cls, path: Path, fd: int, known: tuple[int, int], sha256: bytes) -> InputFile:
        """The same open file in a child process that inherited ``fd``; it must still be as the parent knew it."""
        adopted = cls.__new__(cls)
        adopted.path, adopted._fd, adopted.known, adopted.sha256 = path, fd, known, sha256
        adopted.size = known[0]
        adopted.is_gzip = os.pread(fd, 2, 0) == _GZIP
        return adopted

    def fileno(self) -> int:
        """The open file, for a child process."""
        return self._fd

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def hash(self, on_bytes: OnBytes | None = None) -> bytes:
        """SHA-256 of the file as it lies there, compressed or not; kept as ``sha256``."""
        digest = hashlib.sha256()
        for block in self._raw(on_bytes):
            digest.update(block)
        self.check_unchanged()
        self.sha256 = digest.digest()
        return self.sha256

    def blocks(self, on_bytes: OnBytes | None = None) -> Iterator[bytes]:
        """The unpacked contents from the beginning.

        Raises DamagedInputError where gzip data break, after all good bytes.
        Raises InputChangedError at the end if the bytes are not those that were
        hashed (only if everything was read).
        """
        digest = hashlib.sha256()

        def raw() -> Iterator[bytes]:
            for block in self._raw(on_bytes):
                digest.update(block)
                yield block

        yield from _gunzip(raw()) if self.is_gzip else raw()
        if self.sha256 and digest.digest() != self.sha256:
            raise self._changed()

    def sample(self, limit: int) -> bytes:
        """At most ``limit`` bytes from the beginning, unpacked; damage ends the sample.

        Raises ConfigError on contents that are no lines of text.
        """
        found = bytearray()
        try:
            for block in self.blocks():
                found += block
                if len(found) >= limit:
                    break
        except DamagedInputError:
            pass
        start = bytes(found[:512])
        for magic, name in _REFUSED.items():
            if start.startswith(magic):
                raise ConfigError(f"{self.path}: is {name}; expected JSON lines, CSV or TSV in UTF-8, gzip or not")
        if start[257:262] == b"ustar":
            raise ConfigError(f"{self.path}: is a tar archive; unpack it and name the files in it")
        return bytes(found[:limit])

    def check_unchanged(self) -> None:
        """Raises InputChangedError if size or time of change are not what they were at the start."""
        if self._fingerprint() != self.known:
            raise self._changed()

    def _changed(self) -> InputChangedError:
        return InputChangedError(f"{self.path}: changed while it was read; ingest a copy that nobody writes to")

    def _fingerprint(self) -> tuple[int, int]:
        found = os.fstat(self._fd)
        return found.st_size, found.st_mtime_ns

    def _raw(self, on_bytes: OnBytes | None) -> Iterator[bytes]:
        at = 0
        while block := os.pread(self._fd, BLOCK_BYTES, at):
            at += len(block)
            yield block
            if on_bytes is not None:
                on_bytes(len(block))


def _gunzip(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Members one after another, zero padding allowed between and after them, as gzip itself does."""
    member = zlib.decompressobj(_GZIP_WBITS)
    fresh = False  # between members: nothing of the next one seen yet
    for block in blocks:
        data = block
        while data:
            if fresh:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member, fresh = zlib.decompressobj(_GZIP_WBITS), False
            before = member.copy()
            try:
                unpacked = member.decompress(data, BLOCK_BYTES)  # bounded: a bomb must not fill memory
            except zlib.error:
                yield from _up_to_damage(before, data)
                raise DamagedInputError("gzip data are damaged from here on") from None
            if unpacked:
                yield unpacked
            if member.eof:
                data, fresh = member.unused_data, True
            else:
                data = member.unconsumed_tail
    try:
        rest = b"" if fresh else member.flush()
    except zlib.error:
        raise DamagedInputError("gzip data are damaged from here on") from None
    if rest:
        yield rest
    if not (fresh or member.eof):
        raise DamagedInputError("gzip data break off here, the rest of the file is missing")


def _up_to_damage(member: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """What the packed bytes before the damage hold: who is given all at once gives nothing of it. A wrong checksum
    stands behind everything."""
    for step in (4096, 1):
        for at in range(0, len(data), step):
            before = member.copy()
            try:
                unpacked = member.decompress(data[at : at + step])
            except zlib.error:
                member, data = before, data[at : at + step]
                break
            if unpacked:
                yield unpacked
