"""The result of a check as a value: exit status, level, what is proved and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rlhf_audit_auditor.completeness import Completeness
from rlhf_audit_auditor.findings import Finding
from rlhf_audit_auditor.partition_result import PartitionResult
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER

Level = Literal["agrees with itself", "key from elsewhere", "extends a checkpoint known before", "witnessed"]
Status = Literal["verified", "contradicted", "could not check", "requirement not met"]

LEVEL_MEANS: dict[Level, str] = {
    "agrees with itself": "the key was taken from this trail: shows only that the trail agrees with itself",
    "key from elsewhere": "the key was given from outside the trail",
    "extends a checkpoint known before": "nothing that the known checkpoint covers was changed since",
    "witnessed": "other parties co-signed",
}

NOT_PROVED = (
    "that everything that happened was reported, or reported truly",
    "that these data trained any weights",
    "anything after the size above",
    "that no other ledger, run or copy exists",
    "that labels come from the person named",
    "that keys were not stolen (there are no witnesses yet)",
    "that erased bytes are gone everywhere",
    "that a database copy agrees",
)


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """Which ledger this is."""

    ledger_id: bytes
    log_name: str
    created_us: int
    global_size: int
    global_root: bytes
    checkpoint: bytes | None


@dataclass(frozen=True, slots=True)
class PayloadFacts:
    """``is_asked`` False: left out on purpose or nothing to open them with."""

    is_asked: bool
    messages: int
    rehashed: int
    unreadable: int
    erased: int = 0


@dataclass(slots=True)
class Report:
    """Everything ``verify`` says. ``unmet`` are requirements of ``--require`` that turn into exit status 1."""

    findings: list[Finding] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    ledger: LedgerFacts | None = None
    level: Level = "agrees with itself"
    extends: str | None = None
    partitions: list[PartitionResult] = field(default_factory=list)
    payloads: PayloadFacts = field(default_factory=lambda: PayloadFacts(False, 0, 0, 0))
    completeness: Completeness | None = None
    pending: list[str] = field(default_factory=list)
    objects: int = 0
    object_bytes: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 checked and fine, 1 contradicted or a requirement not met, 3 could not check."""
        if self.findings or self.unmet:
            return 1
        return 3 if self.unreadable else 0

    @property
    def status(self) -> Status:
        if self.findings:
            return "contradicted"
        if self.unmet:
            return "requirement not met"
        return "could not check" if self.unreadable else "verified"

    @property
    def events(self) -> int:
        """Event entries in all partition logs."""
        return sum(sum(one.events.values()) for one in self.partitions)

    @property
    def windows(self) -> int:
        return sum(one.windows for one in self.partitions)

    def events_by_stream(self) -> dict[str, dict[str, int]]:
        """Stream -> kind -> events."""
        streams: dict[str, Counter[str]] = {}
        for one in self.partitions:
            counts = streams.setdefault(one.stream, Counter())
            for kind, count in one.events.items():
                counts[KINDS_BY_NUMBER[kind].name if kind in KINDS_BY_NUMBER else f"0x{kind:04x}"] += count
        return {stream: dict(counts) for stream, counts in streams.items()}

    def proved(self) -> list[str]:
        """What a status of 0 means, in plain words with numbers."""
        if self.ledger is None or self.exit_code:
            return []
        used = [one for one in self.partitions if one.is_used]
        never = [one.name for one in self.partitions if not one.is_used]
        lines = [
            f"ledger {self.ledger.ledger_id.hex()}: global log of {self.ledger.global_size} entries, "
            f"root {self.ledger.global_root.hex()}",
            f"{counted(len(used), 'partition log')} whole and signed, {counted(self.windows, 'window')} without a hole"
            + (f"; never used: {_listed(never)}" if never else ""),
            f"{counted(self.events, 'event')} numbered and sealed; "
            f"{counted(self.objects, 'object')} re-hashed, each explained",
        ]
        payloads = self.payloads
        if payloads.is_asked:
            lines.append(
                f"{payloads.rehashed} of {payloads.messages} payloads re-hash, {payloads.erased} erased, "
                f"{payloads.unreadable} not readable"
            )
        else:
            lines.append("payloads were not opened: events are proved by their digests alone")
        lines.append("times are the operator's claim: no witness bounds them")
        return lines

    @staticmethod
    def not_proved() -> tuple[str, ...]:
        """What no status means."""
        return NOT_PROVED


def counted(count: int, what: str) -> str:
    """A number with its noun, given in the singular."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])} and {len(names) - 12} more"
