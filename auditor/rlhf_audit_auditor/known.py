"""Checkpoints known before: given with ``--expect``, or remembered from the last check of this ledger.

1. One whose origin names another ledger is refused before anything else is looked at.
2. The log must be as long, and have its root at its size; the roots come from the pass over the global log.

The key holder's signature on it is checked, so that a damaged file accuses nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_audit_auditor.evidence import Evidence
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.global_log import GlobalLog
from rlhf_audit_auditor.memory import Memory
from rlhf_audit_auditor.signed import read_statement
from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_schemas.errors import AuditTrailError, ConfigError


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint known before and where it comes from."""

    source: str
    statement: Checkpoint
    data: bytes


@dataclass(slots=True)
class KnownCheckpoints:
    """``extends`` says, in words, which of them was found to be extended."""

    findings: Findings
    known: list[Known] = field(default_factory=list)
    extends: str | None = None

    @property
    def sizes(self) -> list[int]:
        """Sizes at which the root has to be known."""
        return [one.statement.size for one in self.known]

    def expect(self, data: bytes, objects: Evidence) -> bool:
        """Take an expected checkpoint; False, with a finding, if this trail is another ledger's.

        Raises ConfigError if it is no checkpoint of a global log.
        """
        statement = read_statement(data)
        if statement is None:
            raise ConfigError("the expected checkpoint is not a checkpoint")
        self.known.append(Known("the expected checkpoint", statement, data))
        stored = objects.get(GLOBAL_CHECKPOINT)
        found = None if stored is None else read_statement(stored)
        if found is None or found.origin == statement.origin:
            return True
        if not statement.origin.endswith("/global"):
            raise ConfigError(f"the expected checkpoint is of {statement.origin}: give one of the global log")
        message = (
            f"the expected checkpoint is of {statement.origin}, this trail is {found.origin}: "
            "the trail was replaced, or the wrong file was given"
        )
        self.findings.add("expected", message, obj=GLOBAL_CHECKPOINT)
        return False

    def remember(self, memory: Memory, view: GlobalLog) -> None:
        """Take what this verifier accepted last for this ledger."""
        data = memory.read(view.ledger_id)
        if data is None:
            return
        statement = read_statement(data)
        if statement is None or statement.origin != view.origin:
            self.findings.note("the remembered checkpoint is not readable and was left aside")
        else:
            self.known.append(Known("the checkpoint remembered from the last check", statement, data))

    def check(self, view: GlobalLog) -> None:
        """Each of them is extended by the log."""
        for one in self.known:
            self._check(one, view)

    def _check(self, one: Known, view: GlobalLog) -> None:
        size, root = one.statement.size, one.statement.root
        if one.statement.origin != view.origin:
            message = f"{one.source} is of {one.statement.origin}, this trail is {view.origin}"
            self.findings.add("expected", message, obj=GLOBAL_CHECKPOINT)
            return
        try:
            open_checkpoint(one.data, view.key.public_key, view.origin)
        except AuditTrailError as error:
            self.findings.could_not_read(f"{one.source}: {error}")
            return
        if size > view.size:
            message = f"{one.source} has size {size}, this log only {view.size}: it was rolled back or cut"
            self.findings.add("expected", message, obj=GLOBAL_CHECKPOINT)
        elif size in view.roots and view.roots[size] != root:
            message = f"at size {size} the root is {view.roots[size].hex()}, {one.source} has {root.hex()}"
            self.findings.add("expected", message, obj=GLOBAL_CHECKPOINT)
        elif size in view.roots:
            self.extends = f"{one.source} (size {size})"
