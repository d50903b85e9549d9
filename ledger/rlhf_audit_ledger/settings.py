"""What the seal step of one partition needs to know: all of it from the genesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_audit_ledger.genesis import Genesis, StreamSettings, genesis_digest, ledger_id
from rlhf_audit_ledger.ids import key_id, log_origin


@dataclass(frozen=True, slots=True)
class PartitionSettings:
    """Settings of one (stream, partition). ``signers`` maps (role, key id) to a public key."""

    ledger_id: bytes
    genesis_digest: bytes
    stream: StreamSettings
    partition: int
    origin: str
    log_key: bytes
    schemas: frozenset[tuple[int, int]]
    signers: Mapping[tuple[str, bytes], bytes]

    @property
    def name(self) -> str:
        """``stream/partition``, for messages and object names."""
        return f"{self.stream.stream}/{self.partition}"

    @property
    def is_strong(self) -> bool:
        """In mode strong, ticks alone open and close windows."""
        return self.stream.mode == "strong"

    def keys_of(self, role: str) -> tuple[bytes, ...]:
        """Public keys that hold a role."""
        return tuple(key for (holder, _), key in self.signers.items() if holder == role)


def partition_settings(genesis_bytes: bytes, stream: str, partition: int) -> PartitionSettings:
    """Settings of a partition. Raises FormatError if the genesis has no such stream."""
    genesis = Genesis.decode(genesis_bytes)
    ledger = ledger_id(genesis_bytes)
    return PartitionSettings(
        ledger_id=ledger,
        genesis_digest=genesis_digest(genesis_bytes),
        stream=genesis.stream(stream),
        partition=partition,
        origin=log_origin(genesis.log_name, ledger, stream, partition),
        log_key=genesis.log_key,
        schemas=frozenset((entry.kind, entry.schema) for entry in genesis.schemas),
        signers={(signer.role, key_id(signer.public_key)): signer.public_key for signer in genesis.signers},
    )
