"""What the ledger holds of the demo's run, asked in SQL: counts, checkpoints, cost, ranks, losses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_audit_trail.query_ask import Asker, rows_of

_TABLES = "SELECT name, total_rows AS n FROM system.tables WHERE database = 'audit_restricted' AND total_rows > 0"
_CHECKPOINTS = """
SELECT step, rank, role, name, length(file_names) AS files, hex(files_sha256) AS files_sha256,
    file_names, arrayMap(one -> hex(one), file_sha256) AS file_sha256
FROM checkpoint ORDER BY step, rank
"""
_COST = "SELECT sum(audit_us) AS audit_us, sum(step_us) AS step_us FROM policy_update"
_RANKS = """
SELECT max(s.world_size) AS expected,
    uniqExactIf(s.rank, s.rank IN (SELECT rank FROM run_end WHERE outcome = 'finished')) AS complete
FROM run_start AS s
"""
_PAIRS = """annotation WHERE input_sha256 = unhex('{}')
    AND prompt_sha256 IS NOT NULL AND chosen_sha256 IS NOT NULL AND rejected_sha256 IS NOT NULL"""
_LOST = "SELECT sum(count) AS n FROM loss"


@dataclass(frozen=True, slots=True)
class Compared:
    """One count of the training script beside the ledger's."""

    what: str
    own: int
    kind: str
    ledger: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What recording cost, and whether it is all there."""

    audit_us: int
    step_us: int
    trail_bytes: int
    ranks: int
    complete: int
    lost: int

    def __str__(self) -> str:
        share = 100 * self.audit_us / max(self.step_us, 1)
        size = self.trail_bytes / (1 << 20)
        return (
            f"audit {share:.1f} % of step time, {size:.1f} MiB on disk, "
            f"{self.complete}/{self.ranks} ranks complete, {self.lost} lost"
        )


def events_per_kind(asker: Asker) -> dict[str, int]:
    """Rows of every table of events that is not empty, by name."""
    return {row["name"]: int(row["n"]) for row in sorted(rows_of(asker, _TABLES), key=lambda row: row["name"])
            if row["name"] != "findings" and not row["name"].startswith("_")}  # fmt: skip


def compared(asker: Asker, out: Path, pairs: Path, count: int) -> list[Compared]:
    """The script's own counts, all ranks added up, and the pairs it was given, beside what SQL counts."""
    own: Counter[str] = Counter()
    for path in sorted(out.glob("own-count-*.json")):
        own.update(json.loads(path.read_text(encoding="utf-8")))
    given = hashlib.sha256(pairs.read_bytes()).hexdigest()
    asked = [
        ("pairs to train on", count, "annotation (of that file)", _PAIRS.format(given)),
        ("trainings begun", own["begun"], "run_start", "run_start"),
        ("optimizer steps", own["steps"], "policy_update", "policy_update"),
        ("optimizer steps", own["steps"], "gradient_stats", "gradient_stats"),
        ("checkpoints saved", own["saves"], "checkpoint (saved)", "checkpoint WHERE role = 'saved'"),
        ("trainings ended", own["ended"], "run_end", "run_end"),
    ]
    return [
        Compared(what, number, kind, int(rows_of(asker, f"SELECT count() AS n FROM {source}")[0]["n"]))  # noqa: S608
        for what, number, kind, source in asked
    ]


def checkpoints(asker: Asker) -> list[dict[str, Any]]:
    """Checkpoints with their digests, in the order of steps."""
    return rows_of(asker, _CHECKPOINTS)


def cost(asker: Asker, trail: Path) -> Cost:
    """The cost line's numbers."""
    (times,), (ranks,), (lost,) = rows_of(asker, _COST), rows_of(asker, _RANKS), rows_of(asker, _LOST)
    stored = sum(
        path.stat().st_size for name in ("objects", "vault") for path in (trail / name).rglob("*") if path.is_file()
    )
    return Cost(
        audit_us=int(times["audit_us"] or 0),
        step_us=int(times["step_us"] or 0),
        trail_bytes=stored,
        ranks=int(ranks["expected"]),
        complete=int(ranks["complete"]),
        lost=int(lost["n"] or 0),
    )
