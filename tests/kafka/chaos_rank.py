"""A rank of the chaos run: numbered judgements at a steady pace, at least so many, and until it is told to stop.

python chaos_rank.py TRAIL RANK AT-LEAST PER-SECOND STOP-FILE
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from rlhf_audit_trail.recording import AuditTrail

PER_CALL = 250
RATERS = 64  # so that every partition has some


def main(directory: str, rank: int, at_least: int, per_second: int, stop_file: str) -> None:
    with AuditTrail(directory, "chaos", rank=rank, world_size=2, runtime=False) as trail:
        began, stop = time.monotonic(), Path(stop_file)
        for first in itertools.count(0, PER_CALL):
            if first >= at_least and stop.exists():
                break
            numbers = range(first, first + PER_CALL)
            trail.log_annotations(
                items=[f"{rank}-{n}" for n in numbers],
                rewards=[n % 5 for n in numbers],
                annotators=[f"rater{n % RATERS}" for n in numbers],
            )
            time.sleep(max(0.0, began + numbers.stop / per_second - time.monotonic()))
        if not trail.flush(120.0):
            raise SystemExit("not everything became durable")
    counts = trail.counts
    assert counts is not None
    assert not counts.lost
    sys.stdout.write(f"{first}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
