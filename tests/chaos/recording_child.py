"""A rank of the kill test: records numbered judgements at a steady pace, never further than its standard input lets it.

python recording_child.py TRAIL RANK EVENTS PER-SECOND PER-GRANT

Each byte of standard input grants PER-GRANT more events, its end all of them: so there is something left to record
at every kill, however slow the machine is.
"""

from __future__ import annotations

import os
import sys
import time

from rlhf_audit_trail.recording import AuditTrail

PER_CALL = 250


def main(directory: str, rank: int, events: int, per_second: int, per_grant: int) -> None:
    granted = per_grant
    with AuditTrail(directory, "chaos", rank=rank, world_size=2, runtime=False) as trail:
        began = time.monotonic()
        for first in range(0, events, PER_CALL):
            while first >= granted:
                granted += per_grant if os.read(0, 1) else events
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
    main(sys.argv[1], *map(int, sys.argv[2:6]))
