"""What is asked of the check of one partition, and what it gives. Plain values: they cross process borders."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rlhf_audit_auditor.evidence import Trail
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.lane_watch import LaneEnd
from rlhf_audit_auditor.payloads import PayloadCounts
from rlhf_audit_auditor.signed import LogKey
from rlhf_audit_auditor.statements import Heard
from rlhf_audit_ledger.settings import PartitionSettings

MAX_TAIL = 65_536  # checkpoints kept to compare with what lies beyond the global checkpoint


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """What to check. ``vault_key`` in ``trail`` None: payloads are not opened."""

    settings: PartitionSettings
    key: LogKey
    trail: Trail
    global_size: int


@dataclass(slots=True)
class PartitionResult:
    """What was found. ``size`` and ``windows`` are up to the checkpoint, the tail beyond it stands apart.

    ``is_cut_short``: something could not be read, so nothing can be said about what lies behind it.
    """

    stream: str
    partition: int
    findings: Findings
    is_used: bool = False
    is_cut_short: bool = False
    size: int = 0
    windows: int = 0
    messages: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    events: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    conflicts: list[str] = field(default_factory=list)
    conflict_count: int = 0
    broken: int = 0
    late: int = 0
    lanes: list[LaneEnd] = field(default_factory=list)
    keys: dict[tuple[str, int], set[bytes]] = field(default_factory=dict)
    heard: Heard = field(default_factory=lambda: Heard([]))
    payloads: PayloadCounts = field(default_factory=PayloadCounts)
    unpublished: list[bytes] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    pending_size: int = 0
    has_pending_segment: bool = False
    has_pending_vault: bool = False
    newest_us: int | None = None
    oldest_pending_us: int | None = None
    cpu_s: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.stream}/{self.partition}"
