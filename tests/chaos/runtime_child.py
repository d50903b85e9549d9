"""The runtime that is killed: ``rlhf-audit local --until-idle`` with its query copy, on a disk that is watched.

The disk keeps copies of what is deleted, and tells which effect is under way.

python runtime_child.py TRAIL COPY PHASE-FILE
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

from chaos.ingest_child import PHASE_BYTES, TellingDisk
from crash.resealing import KeepingDisk
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_trail.commands.local import serve
from rlhf_audit_trail.settings import load_settings


def main(trail: str, copy: str, phase_file: str) -> None:
    with Path(phase_file).open("r+b") as handle:
        disk = TellingDisk(KeepingDisk(RealDisk(), Path(copy)), mmap.mmap(handle.fileno(), PHASE_BYTES))
        directory = Path(trail)
        ran = serve(directory, load_settings(directory), until_idle=True, disk=disk)
        sys.stdout.write("ran\n" if ran else "another one runs\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
