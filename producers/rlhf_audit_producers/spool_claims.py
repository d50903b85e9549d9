"""Which rank records rows that several ranks hand in: the first that comes.

Rows are the same if they say the same, whoever hands them in: other rows under
the same ids are recorded too.

One small file per run, records of 16 bytes digest and u32 rank, appended under
a lock. It decides between ranks that share a directory and are alive at once;
it is no part of the evidence, and is not synced. A rank's own claim never
stops it: after a restart the rank that recorded the rows records them again,
in its new epoch, and nobody else does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_RECORD = struct.Struct(">16sI")
CLAIMS_FOLDER = "claims"


def rows_digest(rows: Iterable[bytes]) -> bytes:
    """Names a call by its rows, in their order: 16 bytes."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "big") + row)
    return digest.digest()[:16]


class Claims:
    """The claims of one run, as seen by one rank. Used by one thread."""

    def __init__(self, spool: Path, run_id: str, rank: int) -> None:
        self._path = spool / CLAIMS_FOLDER / hashlib.sha256(run_id.encode("utf-8")).hexdigest()[:32]
        self._rank = rank
        self._owner: dict[bytes, int] = {}
        self._read_bytes = 0

    def take(self, digest: bytes) -> bool:
        """Whether this rank records the call of this digest."""
        owner = self._owner.get(digest)
        if owner is None:
            owner = self._ask(digest)
        return owner == self._rank

    def _ask(self, digest: bytes) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.fstat(fd).st_size // _RECORD.size * _RECORD.size
            news = os.pread(fd, size - self._read_bytes, self._read_bytes)
            for known, rank in _RECORD.iter_unpack(news):
                self._owner.setdefault(known, rank)
            self._read_bytes = size
            if digest not in self._owner:
                os.ftruncate(fd, size)  # half a record of a process that died
                os.write(fd, _RECORD.pack(digest, self._rank))
                self._owner[digest] = self._rank
                self._read_bytes += _RECORD.size
            return self._owner[digest]
        finally:
            os.close(fd)
