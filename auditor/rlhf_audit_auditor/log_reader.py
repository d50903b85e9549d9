"""Entries of a stored log in order, one bundle in memory at a time. Nothing is verified here: ``Rebuild`` does."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_audit_auditor.evidence import Below
from rlhf_audit_ledger.entries import EntryClass
from rlhf_audit_ledger.tiles import TILE_WIDTH, bundle_path, decode_bundle
from rlhf_audit_schemas.errors import FormatError, TamperError

_CLOSE = bytes((1, EntryClass.CLOSE))


class LogGapError(TamperError):
    """A bundle is missing or does not decode, so the log cannot be read on; ``object`` is its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.object, self.reason = name, reason


class LogReader:
    """Reads a log of ``size`` entries."""

    def __init__(self, log: Below, size: int) -> None:
        self._log = log
        self.size = size
        self._index = -1
        self._entries: list[bytes] = []

    def slice(self, start: int, count: int) -> list[bytes]:
        """``count`` entries from ``start`` on. Raises LogGapError if they are not all there."""
        taken: list[bytes] = []
        while len(taken) < count:
            index, at = divmod(start + len(taken), TILE_WIDTH)
            taken += self._bundle(index)[at : at + count - len(taken)]
        return taken

    def through_close(self, start: int) -> list[bytes]:
        """Entries from ``start`` up to and with the next close record. Raises LogGapError if there is none."""
        taken: list[bytes] = []
        while not taken or not taken[-1].startswith(_CLOSE):
            taken += self.slice(start + len(taken), 1)
        return taken

    def __iter__(self) -> Iterator[list[bytes]]:
        """All entries, bundle by bundle."""
        for index in range(-(-self.size // TILE_WIDTH)):
            yield self._bundle(index)

    def _bundle(self, index: int) -> list[bytes]:
        if index != self._index:
            width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
            if width <= 0:
                raise LogGapError(self._log.prefix.rstrip("/"), f"ends at entry {self.size}")
            path = bundle_path(index, width)
            data = self._log.get(path)
            if data is None:
                raise LogGapError(self._log.prefix + path, "is missing")
            try:
                self._entries = decode_bundle(data, width)
            except FormatError as error:
                raise LogGapError(self._log.prefix + path, str(error)) from error
            self._index = index
        return self._entries
