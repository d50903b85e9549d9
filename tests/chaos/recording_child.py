"""A rank of the kill test: records numbered judgements at a steady pace.

python recording_child.py TRAIL RANK EVENTS PER-SECOND
"""

from __future__ import annotations

import sys
import time

from rlhf_audit_trail.recording import AuditTrail

PER_CALL = 250


def main(directory: str, rank: int, events: int, per_second: int) -> None:
    with AuditTrail(directory, "chaos", rank=rank, world_size=2, runtime=False) as trail:
        began = time.monotonic()
        for first in range(0, events, PER_CALL):
            numbers = range(first, min(first + PER_CALL, events))
            trail.log_annotations(
                items=[f"{rank}-{n}" for n in numbers],
                rewards=[n % 5 for n in numbers],
                annotators=[f"rater{n % 3}" for n in numbers],
            )
            time.sleep(max(0.0, began + numbers.stop / per_second - time.monotonic()))
        if not trail.flush():
            raise SystemExit("not everything became durable")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
