"""Founding a ledger: keys, genesis, and the two leaves that are published before anything else.

The genesis holds 32 random bytes, so it must be decided once: it goes through
the sequencer's stage, and a process that dies in between finds it there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.genesis import (
    DEFAULT_PARTITIONS,
    Genesis,
    KeyRole,
    SchemaEntry,
    StreamSettings,
    ledger_id,
    sign_genesis,
    verify_genesis,
)
from rlhf_audit_ledger.globallog import genesis_leaf, genesis_of, signature_leaf, signature_of
from rlhf_audit_ledger.ids import global_origin, log_origin
from rlhf_audit_ledger.note import key_for_origin
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_schemas.kinds import shipped_schemas
from rlhf_audit_stores.stored_state import RefusedToGoOnError
from rlhf_audit_trail.setting_values import STREAMS


@dataclass(frozen=True, slots=True)
class Ledger:
    """Identity of a founded ledger."""

    genesis_bytes: bytes
    genesis: Genesis
    ledger_id: bytes

    @property
    def global_origin(self) -> str:
        """Origin of the global log."""
        return global_origin(self.genesis.log_name, self.ledger_id)

    def public_key_lines(self) -> list[str]:
        """vkeys: the base line (named like the log) first, then one for each log of the genesis."""
        key = self.genesis.log_key
        origins = [self.genesis.log_name, self.global_origin]
        for stream, partitions in self.genesis.partition_counts.items():
            origins += [log_origin(self.genesis.log_name, self.ledger_id, stream, n) for n in range(partitions)]
        return [key_for_origin(key, origin).format() for origin in origins]


def new_genesis(
    *,
    log_name: str,
    window_seconds: int,
    now_us: int,
    root: bytes,
    log: bytes,
    ticker: bytes,
    partitions: Mapping[str, int] = MappingProxyType({}),
) -> Genesis:
    """A genesis for public keys ``root``, ``log`` and ``ticker``; streams without a number get the default one."""
    counts = DEFAULT_PARTITIONS | dict(partitions)
    return Genesis(
        log_name=log_name,
        nonce=os.urandom(32),
        ts_us=now_us,
        root_key=root,
        log_key=log,
        signers=(KeyRole("ticker", ticker),),
        streams=tuple(StreamSettings(name, counts[name], window_seconds * 1_000_000) for name in STREAMS),
        schemas=tuple(SchemaEntry(*entry) for entry in shipped_schemas()),
    )


def read_ledger(genesis_leaf_bytes: bytes, signature_leaf_bytes: bytes) -> Ledger:
    """Ledger from its first two leaves. Raises SignatureError if the root key did not sign the genesis."""
    data = genesis_of(genesis_leaf_bytes)
    genesis = Genesis.decode(data)
    verify_genesis(data, signature_of(signature_leaf_bytes), genesis.root_key)
    return Ledger(data, genesis, ledger_id(data))


def found(sequencer: Sequencer, genesis: Genesis, *, root: Signer, log: Signer) -> Ledger:
    """Publish a new ledger's genesis and signature. Durable when it returns."""
    data = genesis.encode()
    leaves = (genesis_leaf(data), signature_leaf(sign_genesis(data, root)))
    ledger = read_ledger(*leaves)
    sequencer.publish(leaves, log, ledger.global_origin)
    return ledger


def existing_ledger(sequencer: Sequencer) -> Ledger | None:
    """The ledger in the store, or the one whose founding was cut short; None if there is none."""
    first = sequencer.first_entries(2)
    if first is None:
        stage = sequencer.read_stage()
        if stage is None:
            return None
        if stage.base != 0:
            raise RefusedToGoOnError(
                "the global log's objects are gone while this trail has a record of publishing them: restore the "
                "objects/ folder, or start a new trail in another folder"
            )
        first = stage.entries[:2]
    return read_ledger(first[0], first[1])
