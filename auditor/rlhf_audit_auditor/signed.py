"""Checkpoints as an auditor reads them: one log signature, and no line by anybody the genesis does not name.

Opening never raises: what is wrong becomes a finding. Co-signatures of
witnesses are recognised by the key that the genesis names and not verified by
this version; that is said, never passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_audit_auditor.findings import Findings
from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from rlhf_audit_ledger.domain import sha256
from rlhf_audit_ledger.note import KEY_ID_BYTES, SignatureLine, UnknownKeyError, key_id_of, split_note
from rlhf_audit_schemas.errors import AuditTrailError, FormatError

_COSIGNATURE_TYPE = b"\x04"  # C2SP tlog-cosignature, Ed25519


@dataclass(frozen=True, slots=True)
class LogKey:
    """The one key of all logs of a ledger, and who may add lines of their own."""

    public_key: bytes
    cosigners: tuple[bytes, ...] = ()

    def open(
        self, data: bytes, origin: str, findings: Findings, *, obj: str, window: int | None = None
    ) -> Checkpoint | None:
        """The statement if its form, origin and signature hold; None with a finding otherwise."""
        try:
            opened = open_checkpoint(data, self.public_key, origin)
        except UnknownKeyError:
            findings.add("checkpoint", "is not signed by the log's key", window=window, obj=obj)
            return None
        except AuditTrailError as error:
            findings.add("checkpoint", str(error), window=window, obj=obj)
            return None
        for line in opened.others:
            if self._is_listed(line):
                findings.could_not_read(f"{obj}: this version does not check the co-signature of {line.name}")
            else:
                message = f"signature line of {line.name}+{line.key_id.hex()}, whom the genesis does not name"
                findings.add("signature_line", message, window=window, obj=obj)
        return opened.checkpoint

    def _is_listed(self, line: SignatureLine) -> bool:
        head = line.name.encode() + b"\n" + _COSIGNATURE_TYPE
        return any(sha256(head, key)[:KEY_ID_BYTES] == line.key_id for key in self.cosigners)


def names_key(data: bytes, public_key: bytes) -> bool:
    """Whether any signature line of a note claims to be by this key, under whatever name."""
    try:
        lines: Sequence[SignatureLine] = split_note(data)[1]
        return any(line.key_id == key_id_of(line.name, public_key) for line in lines)
    except FormatError:
        return False


def read_statement(data: bytes) -> Checkpoint | None:
    """What a checkpoint says, nothing verified; None if it is none."""
    try:
        return parse_checkpoint(split_note(data)[0])
    except FormatError:
        return None
