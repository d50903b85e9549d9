"""Containers and vault objects: the same bytes every time, readable by any Avro reader, and nothing else accepted."""

from __future__ import annotations

import io

import fastavro
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import START_US, Lane, make_sealer, seal_values, tick_value
from rlhf_audit_ledger.objects import (
    MAX_WINDOWS,
    SEGMENT,
    VAULT,
    WindowRef,
    log_prefix,
    parse_segment_name,
    parse_vault_name,
    segment_name,
    sync_marker,
    vault_name,
)
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.vault import OtherVaultKeyError, VaultError, VaultRecord, open_vault, seal_vault, vault_key_id
from rlhf_audit_schemas.errors import FormatError

SEALER = make_sealer()
LANE = Lane(SEALER.settings)
_, SEALED = seal_values(SEALER, [LANE.cut(3).value, None, b"rubbish", tick_value(SEALER.settings, 1, START_US)])
NAME, VAULT_NAME = segment_name("annotations", 2, 0), "vault/" + vault_name("annotations", 2, 0)
SEGMENT_BYTES = SEGMENT.encode(NAME, [one.record.encode_for_segment() for one in SEALED])
RECORDS = [VaultRecord(one.salt, one.header.offset, one.record.value) for one in SEALED]
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
VAULT_BYTES = seal_vault(VAULT_NAME, RECORDS, KEY)
HEAD = 41


def test_a_segment_gives_back_its_records_without_values() -> None:
    records = [SealedRecord.from_segment(raw) for raw in SEGMENT.decode(NAME, SEGMENT_BYTES)]
    assert records == [one.record.without_value() for one in SEALED]
    assert SEALED[0].record.value is not None
    assert LANE.body().producer.encode() + b" event" not in SEGMENT_BYTES, "no event bytes in public"


def test_any_avro_reader_reads_a_segment() -> None:
    reader = fastavro.reader(io.BytesIO(SEGMENT_BYTES))
    assert reader.codec == "null"
    assert list(reader) == SEGMENT.decode(NAME, SEGMENT_BYTES)


@settings(max_examples=200)
@given(bit=st.integers(0, 8 * len(SEGMENT_BYTES) - 1))
def test_a_flipped_bit_of_a_container_is_refused_or_another_record(bit: int) -> None:
    data = bytearray(SEGMENT_BYTES)
    data[bit // 8] ^= 1 << bit % 8
    try:
        raw = SEGMENT.decode(NAME, bytes(data))
    except FormatError:
        return
    assert raw != SEGMENT.decode(NAME, SEGMENT_BYTES)
    again = [SealedRecord.from_segment(one).encode_for_segment() for one in raw]
    assert SEGMENT.encode(NAME, again) == bytes(data)


def test_a_container_in_two_blocks_with_other_metadata_or_of_another_object_is_refused() -> None:
    parts = [one.record.encode_for_segment() for one in SEALED]
    one, two = (SEGMENT.encode(NAME, part) for part in (parts[:2], parts[2:]))
    head = SEGMENT_BYTES.index(sync_marker(NAME)) + 16
    stream = io.BytesIO()
    schema = fastavro.parse_schema({"type": "record", "name": "Other", "fields": []})
    fastavro.writer(stream, schema, [{}])
    other_name = segment_name("annotations", 2, 1)
    for data in (
        one + two[head:],
        SEGMENT.encode(NAME, []),
        SEGMENT.encode(other_name, parts),
        VAULT.encode(NAME, []),
        stream.getvalue(),
        SEGMENT_BYTES + b"\0",
        SEGMENT_BYTES[:-1],
        SEGMENT_BYTES[:head],
        SEGMENT_BYTES[: head + 1] + b"\x80" + SEGMENT_BYTES[head + 1 :],
        b"",
    ):
        with pytest.raises(FormatError):
            SEGMENT.decode(NAME, data)


@given(data=st.binary(max_size=99))
def test_any_bytes_are_a_container_or_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        SEGMENT.decode(NAME, SEGMENT_BYTES[: -len(data) or None] + data + b"\1")


@given(
    stream=st.sampled_from(["annotations", "lifecycle"]),
    partition=st.integers(0, 1023),
    window=st.integers(0, MAX_WINDOWS - 1),
    generation=st.integers(0, 99),
)
def test_names_are_read_back(stream: str, partition: int, window: int, generation: int) -> None:
    ref = WindowRef(stream, partition, window, generation)
    assert parse_vault_name(vault_name(stream, partition, window, generation)) == ref
    assert parse_segment_name(segment_name(stream, partition, window)) == WindowRef(stream, partition, window)
    assert log_prefix(stream, partition) == f"logs/{stream}/{partition}"


NO_SEGMENTS = ["2/00000000000.avro", "02/000000000000.avro", "2/000000000000.avro\n", "2/\u066000000000000.avro", "2/0"]
NO_VAULTS = [
    "2/00000000000.0",
    "02/000000000000.0",
    "2/000000000000.00",
    "2/000000000000.0\n",
    "2/000000000000",
    "-1/0.0",
]


def test_other_spellings_of_a_name_are_no_names() -> None:
    assert [parse_segment_name(f"segments/annotations/{name}") for name in NO_SEGMENTS] == [None] * len(NO_SEGMENTS)
    assert [parse_vault_name(f"annotations/{name}") for name in NO_VAULTS] == [None] * len(NO_VAULTS)
    assert parse_segment_name("segments/../2/000000000000.avro") is None


def test_a_vault_object_gives_back_its_records_and_is_the_same_every_time() -> None:
    assert open_vault(VAULT_NAME, VAULT_BYTES, KEY) == RECORDS
    assert seal_vault(VAULT_NAME, RECORDS, KEY) == VAULT_BYTES
    assert VAULT_BYTES[:9] == b"\x01" + vault_key_id(KEY)
    assert b" event" not in VAULT_BYTES


@settings(max_examples=200)
@given(bit=st.integers(0, 8 * len(VAULT_BYTES) - 1))
def test_any_flipped_bit_of_a_vault_object_is_found(bit: int) -> None:
    data = bytearray(VAULT_BYTES)
    data[bit // 8] ^= 1 << bit % 8
    expected = OtherVaultKeyError if bit < 8 * 9 else VaultError
    with pytest.raises(expected):
        open_vault(VAULT_NAME, bytes(data), KEY)


def test_another_key_another_name_and_a_cut_object_are_refused() -> None:
    with pytest.raises(OtherVaultKeyError):
        open_vault(VAULT_NAME, VAULT_BYTES, OTHER_KEY)
    with pytest.raises(VaultError):
        open_vault("vault/" + vault_name("annotations", 2, 1), VAULT_BYTES, KEY)
    for size in range(HEAD):
        with pytest.raises(OtherVaultKeyError):
            open_vault(VAULT_NAME, VAULT_BYTES[:size], KEY)
    for size in (HEAD, HEAD + 15, len(VAULT_BYTES) - 1):
        with pytest.raises(VaultError):
            open_vault(VAULT_NAME, VAULT_BYTES[:size], KEY)


def test_different_plaintexts_and_names_never_share_a_key() -> None:
    """The nonce is zero: one key may encrypt one plaintext only."""
    other = seal_vault(VAULT_NAME, RECORDS[:-1], KEY)
    elsewhere = seal_vault("vault/" + vault_name("annotations", 2, 0, 1), RECORDS, KEY)
    for data in (other, elsewhere):
        size = min(len(data), len(VAULT_BYTES)) - HEAD
        same = sum(a == b for a, b in zip(data[HEAD:], VAULT_BYTES[HEAD:], strict=False))
        assert same < size // 50 + 30, "equal key streams would show as equal ciphertext"


def test_a_plaintext_that_is_not_what_its_head_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who holds the key can make one: it decrypts, and does not re-hash."""
    monkeypatch.setattr(AESGCM, "decrypt", lambda *_: b"other")
    with pytest.raises(VaultError, match="does not hash"):
        open_vault(VAULT_NAME, VAULT_BYTES, KEY)


def test_an_erased_batch_is_read_with_what_stays_of_it() -> None:
    erased = {"body": b"body", "erased": [0, 2], "digest": bytes(32), "signature": None}
    encoded = VAULT.codec.encode({"salt": bytes(16), "offset": 7, "value": erased})
    (raw,) = VAULT.decode(VAULT_NAME, VAULT.encode(VAULT_NAME, [encoded]))
    assert raw["value"] == erased
