"""The genesis: exact in both directions, signed by the root key, and refused for every rule it can break."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import LOG, ROOT, make_genesis
from rlhf_audit_ledger.ed25519 import SignatureError
from rlhf_audit_ledger.genesis import (
    MAX_GENESIS_BYTES,
    Genesis,
    KeyRole,
    Predecessor,
    SchemaEntry,
    genesis_digest,
    ledger_id,
    sign_genesis,
    verify_genesis,
)
from rlhf_audit_ledger.globallog import genesis_leaf, genesis_of, is_checkpoint, signature_leaf, signature_of
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_schemas.codec import StrictCodec
from rlhf_audit_schemas.errors import FormatError

GENESIS = make_genesis()
FULL = replace(
    make_genesis(enrolled=True, mode="strong"),
    privacy=b"settings",
    policy_sha256=bytes(32),
    predecessor=Predecessor(bytes(16), 7, bytes(32)),
)
STREAM = GENESIS.streams[0]
ENTRY = GENESIS.schemas[0]
SMALL_ORDER = b"\x01" + bytes(31)

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("format", {"format": 2}),
    ("no log name", {"log_name": ""}),
    ("upper case", {"log_name": "Example.org"}),
    ("scheme", {"log_name": "https://example.org"}),
    ("plus", {"log_name": "a+b"}),
    ("newline", {"log_name": "a\n"}),
    ("slash at the end", {"log_name": "a/"}),
    ("empty segment", {"log_name": "a//b"}),
    ("root key", {"root_key": SMALL_ORDER}),
    ("log key", {"log_key": SMALL_ORDER}),
    ("signer's key", {"signers": (KeyRole("ticker", SMALL_ORDER),)}),
    ("role", {"signers": (KeyRole("king", ROOT.public_key),)}),
    ("no stream", {"streams": ()}),
    ("unknown stream", {"streams": (replace(STREAM, stream="rewards"),)}),
    ("stream twice", {"streams": (STREAM, STREAM)}),
    ("no partition", {"streams": (replace(STREAM, partitions=0),)}),
    ("too many partitions", {"streams": (replace(STREAM, partitions=1025),)}),
    ("no window", {"streams": (replace(STREAM, window_us=0),)}),
    ("mode", {"streams": (replace(STREAM, mode="weak"),)}),
    ("entries cap", {"streams": (replace(STREAM, max_entries=65_537),)}),
    ("no entries", {"streams": (replace(STREAM, max_entries=0),)}),
    ("messages cap", {"streams": (replace(STREAM, max_messages=4_097),)}),
    ("no messages", {"streams": (replace(STREAM, max_messages=0),)}),
    ("pair twice", {"schemas": (ENTRY, ENTRY)}),
    ("negative schema", {"schemas": (SchemaEntry(0x0101, -1, bytes(32)),)}),
    ("wide schema", {"schemas": (SchemaEntry(0x0101, 1 << 16, bytes(32)),)}),
    ("wide kind", {"schemas": (SchemaEntry(1 << 16, 1, bytes(32)),)}),
    ("size", {"privacy": bytes(MAX_GENESIS_BYTES)}),
]


@pytest.mark.parametrize("genesis", [GENESIS, FULL])
def test_a_genesis_is_read_back_as_it_was_written(genesis: Genesis) -> None:
    assert Genesis.decode(genesis.encode()) == genesis
    assert Genesis.decode(genesis.encode()).encode() == genesis.encode()


@pytest.mark.parametrize("changes", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_genesis_that_breaks_a_rule_is_neither_written_nor_read(changes: dict[str, Any]) -> None:
    broken = replace(GENESIS, **changes)
    with pytest.raises(FormatError):
        broken.encode()
    with pytest.raises(FormatError):
        Genesis.decode(_unchecked(broken))


def _unchecked(genesis: Genesis) -> bytes:
    """The bytes that somebody without our checks would write."""
    return StrictCodec("envelope/genesis.avsc").encode(asdict(genesis))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_genesis_or_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Genesis.decode(data)


@given(bit=st.integers(0, 8 * len(FULL.encode()) - 1))
def test_a_flipped_bit_is_refused_or_another_genesis(bit: int) -> None:
    data = bytearray(FULL.encode())
    data[bit // 8] ^= 1 << bit % 8
    try:
        other = Genesis.decode(bytes(data))
    except FormatError:
        return
    assert other != FULL
    assert ledger_id(bytes(data)) != ledger_id(FULL.encode())


def test_the_root_key_signs_the_digest_and_nobody_else_does() -> None:
    data = GENESIS.encode()
    signature = sign_genesis(data, ROOT)
    verify_genesis(data, signature, ROOT.public_key)
    for other, key in ((data + b"\0", ROOT.public_key), (data, LOG.public_key)):
        with pytest.raises(SignatureError):
            verify_genesis(other, signature, key)
    with pytest.raises(SignatureError):
        verify_genesis(data, sign_genesis(data, LOG), ROOT.public_key)


def test_leaves_0_and_1_of_the_global_log_hold_genesis_and_signature() -> None:
    data, signature = GENESIS.encode(), sign_genesis(GENESIS.encode(), ROOT)
    assert genesis_of(genesis_leaf(data)) == data
    assert signature_of(signature_leaf(signature)) == signature
    for leaf in (signature_leaf(signature), b"", b"\x01"):
        with pytest.raises(FormatError):
            genesis_of(leaf)
    for leaf in (genesis_leaf(data), signature_leaf(signature)[:-1], signature_leaf(signature) + b"\0"):
        with pytest.raises(FormatError):
            signature_of(leaf)
    assert is_checkpoint(b"rlhf-audit.local/...")
    assert not any(map(is_checkpoint, (genesis_leaf(data), signature_leaf(signature), b"", b"\x02")))


def test_settings_of_a_partition_all_come_from_the_genesis() -> None:
    data = FULL.encode()
    found = partition_settings(data, "annotations", 3)
    assert found.name == "annotations/3"
    assert found.is_strong
    assert found.ledger_id == ledger_id(data) == genesis_digest(data)[:16]
    assert found.origin == f"rlhf-audit.test/{ledger_id(data).hex()}/annotations/3"
    assert found.keys_of("enrolment") == FULL.keys_of("enrolment") != ()
    assert FULL.partition_counts == {"annotations": 4, "lifecycle": 1}
    with pytest.raises(FormatError):
        partition_settings(data, "released", 0)
