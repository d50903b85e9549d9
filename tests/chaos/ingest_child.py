"""The process that is killed: one ingest into a real trail that tells, through a small shared file, what it is doing.

python ingest_child.py TRAIL FILE COPY PHASE-FILE
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from crash.fake_disk import PassingDisk
from crash.ingesting import ingest
from crash.resealing import KeepingDisk
from rlhf_audit_stores.disk import Disk, RealDisk

PHASE_BYTES = 64
T = TypeVar("T")


def phase_of(name: str, path: Path) -> str:
    """What an effect belongs to, for the list of phases hit."""
    place = "/".join(path.parts)
    for part in ("vault", "segments", "global", "logs", "source", "sealed", "epochs", "keys"):
        if f"/{part}/" in place or place.endswith(f"/{part}") or f"/{part}." in place:
            return f"{name} {part}"
    return f"{name} other"


class TellingDisk(PassingDisk):
    """Writes the effect that is under way into a shared page before it happens."""

    def __init__(self, inner: Disk, page: mmap.mmap) -> None:
        super().__init__(inner)
        self._page = page

    def effect(self, name: str, path: Path, action: Callable[[], T]) -> T:
        self._tell(phase_of(name, path))
        result = action()
        self._tell("computing after " + phase_of(name, path))
        return result

    def _tell(self, phase: str) -> None:
        self._page[:PHASE_BYTES] = phase.encode()[:PHASE_BYTES].ljust(PHASE_BYTES)


def main(trail: str, file: str, copy: str, phase_file: str) -> None:
    with Path(phase_file).open("r+b") as handle:
        page = mmap.mmap(handle.fileno(), PHASE_BYTES)
        disk = TellingDisk(KeepingDisk(RealDisk(), Path(copy)), page)
        report = ingest(Path(trail), Path(file), disk=disk, batch_events=512)
        sys.stdout.write(report.outcome + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:5])
