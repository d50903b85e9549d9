"""What an ingest tells in the end: counts, first faults by line, and what the owner should know.

Ids, counts and our own words only; no value of a row stands here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_audit_producers.owner_warnings import OwnerWarnings
from rlhf_audit_producers.records import RowFault
from rlhf_audit_producers.rows import WarningCode

SHOWN_FAULTS = 10

Outcome = Literal["ingested", "already ingested", "interrupted"]


@dataclass(slots=True)
class IngestReport:
    """Filled while a file is read."""

    path: str
    producer: str
    input_sha256: str
    mapping_sha256: str
    outcome: Outcome = "ingested"
    epoch: int | None = None
    continues_epoch: int | None = None
    rows: int = 0
    events: Counter[str] = field(default_factory=Counter)
    """Kind -> events that this file gives, those of earlier epochs included."""
    already_sealed: int = 0
    faults: int = 0
    first_faults: list[RowFault] = field(default_factory=list)
    losses: int = 0
    warnings: dict[WarningCode, int] = field(default_factory=dict)
    annotators: int | None = None
    """Distinct annotators; None if no column names any."""
    owner: OwnerWarnings | None = None

    def add_faults(self, faults: list[RowFault]) -> None:
        """Count faults and keep the first few."""
        self.faults += len(faults)
        self.first_faults.extend(faults[: SHOWN_FAULTS - len(self.first_faults)])

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        owner = self.owner
        return {
            "file": self.path,
            "outcome": self.outcome,
            "producer": self.producer,
            "epoch": self.epoch,
            "continues_epoch": self.continues_epoch,
            "input_sha256": self.input_sha256,
            "mapping_sha256": self.mapping_sha256,
            "rows": self.rows,
            "events": dict(self.events),
            "already_sealed": self.already_sealed,
            "faults": self.faults,
            "first_faults": [
                {"line": each.line, "reason": each.reason, "row_sha256": each.row_sha256.hex(), "bytes": each.row_bytes}
                for each in self.first_faults
            ],
            "losses": self.losses,
            "warnings": self.warnings,
            "annotators": self.annotators,
            "owner_warnings": [] if owner is None else owner.sentences(),
        }
