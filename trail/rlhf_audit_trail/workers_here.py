"""Which workers of a ledger on Kafka run on this directory: seen by the locks they hold.

Those on other machines are not seen, and a sink of objects holds no lock:
``sink`` metrics and the brokers know them.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_audit_stores.durable import LOCK_FILE, is_locked
from rlhf_audit_trail.runtime_start import is_running


def workers_here(directory: Path) -> dict[str, int]:
    """How many of each: ship, seal, sequence, sink clickhouse (where it feeds the engine in the trail)."""
    from rlhf_audit_sinks.clickhouse.engine import is_open_somewhere

    spool = directory / "spool"
    return {
        "ship": int(is_running(directory)),
        "seal": sum(is_locked(folder / LOCK_FILE) for folder in (spool / "sealer").glob("*")),
        "sequence": int(is_locked(spool / LOCK_FILE)),
        "sink clickhouse": int(is_open_somewhere(directory)),
    }
