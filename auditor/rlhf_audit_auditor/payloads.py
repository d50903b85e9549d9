"""Payloads of one partition: vault objects opened, checked against their windows, counted.

An object that decrypts must hold one record for each sealed record of its
window, with the same offsets; ``partition_check`` then replays every value, which
re-hashes all of them. Decisions that the format leaves open:

- An object that is missing while its segment stands is *not readable*, exit 3: the operator may have lost it, and
  nothing contradicts anything. It is never passed over where payloads were asked for.
- An object under another suite or key is a finding once any other object opened under ours; if none did, the key
  that was given is not this vault's, and the payloads are not readable. That is decided when all are known.
- Generations above 0 are written by erasure, which this version does not know: a finding (``naming``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_audit_auditor.evidence import Evidence, UnreadableError
from rlhf_audit_auditor.findings import MAX_SHOWN, Findings
from rlhf_audit_ledger.objects import vault_name
from rlhf_audit_ledger.vault import OtherVaultKeyError, VaultError, VaultRecord, open_vault
from rlhf_audit_schemas.errors import FormatError


@dataclass(slots=True)
class PayloadCounts:
    """Source messages with payload: all, re-hashed, not readable. ``opened`` objects decrypted under our key."""

    messages: int = 0
    rehashed: int = 0
    unreadable: int = 0
    opened: int = 0
    other_key: list[tuple[int, str]] = field(default_factory=list)
    other_key_objects: int = 0


class Payloads:
    """Vault objects of one partition. ``vault`` or ``key`` None: nothing can be opened."""

    def __init__(
        self, vault: Evidence | None, key: bytes | None, stream: str, partition: int, findings: Findings
    ) -> None:
        self._vault, self._key = vault, key
        self._stream, self._partition = stream, partition
        self._findings = findings
        self.counts = PayloadCounts()

    def open(self, window: int) -> list[VaultRecord] | None:
        """Records of a window, None if they cannot be had; says why as a finding where something contradicts."""
        if self._vault is None or self._key is None:
            return None
        name = vault_name(self._stream, self._partition, window)
        full = f"vault/{name}"
        try:
            data = self._vault.get(name)
        except UnreadableError as error:
            self._findings.could_not_read(f"vault/{error}")
            return None
        if data is None:
            self._findings.could_not_read(f"{full}: is missing; lost, or deleted without an erasure record")
            return None
        try:
            records = open_vault(full, data, self._key)
        except OtherVaultKeyError:
            self.counts.other_key_objects += 1
            if len(self.counts.other_key) < MAX_SHOWN:
                self.counts.other_key.append((window, full))
            return None
        except VaultError as error:
            self._findings.add("vault", str(error).removeprefix(f"{full}: "), window=window, obj=full)
            return None
        except FormatError as error:
            self.counts.opened += 1
            self._findings.add("vault", str(error).removeprefix(f"{full}: "), window=window, obj=full)
            return None
        self.counts.opened += 1
        return records
