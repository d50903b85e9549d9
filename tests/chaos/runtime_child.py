"""The runtime that is killed; keeps copies of what it deletes, and tells which effect is under way.

python runtime_child.py TRAIL COPY PHASE-FILE
"""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

from chaos.ingest_child import PHASE_BYTES, TellingDisk
from crash.resealing import KeepingDisk
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.runtime import run_runtime


def main(trail: str, copy: str, phase_file: str) -> None:
    with Path(phase_file).open("r+b") as handle:
        disk = TellingDisk(KeepingDisk(RealDisk(), Path(copy)), mmap.mmap(handle.fileno(), PHASE_BYTES))
        directory = Path(trail)
        ran = run_runtime(directory, lambda: LocalTrail(directory, window_seconds=1, disk=disk), until_idle=True)
        sys.stdout.write("ran\n" if ran else "another one runs\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
