"""Ids: computed from what they name, apart from one another, keyed where the number is public."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_ledger.domain import domain, lp, sha256, u16, u32, u64
from rlhf_audit_ledger.ids import event_id, global_origin, key_id, lane_id, log_origin, partition_of, source_id

names = st.text(max_size=12)


def test_domains_are_ascii_with_a_zero_byte_and_differ_from_tree_hashes_and_notes() -> None:
    assert domain("lane") == b"rlhf-audit/lane/v1\x00"
    assert domain("lane")[0] not in (0x00, 0x01)


def test_numbers_are_big_endian_and_lengths_come_first() -> None:
    assert (u16(1), u32(2), u64(3)) == (b"\0\1", b"\0\0\0\2", b"\0\0\0\0\0\0\0\3")
    assert lp(b"ab") == b"\0\0\0\2ab"
    assert sha256(b"a", b"b") == hashlib.sha256(b"ab").digest()
    with pytest.raises(OverflowError):
        u32(1 << 32)


@given(producer=names, epoch=st.integers(0, 2**32 - 1), stream=names, partition=st.integers(0, 1023))
def test_a_lane_id_is_the_hash_that_the_format_says(producer: str, epoch: int, stream: str, partition: int) -> None:
    p, s = producer.encode(), stream.encode()
    data = b"rlhf-audit/lane/v1\0" + len(p).to_bytes(4, "big") + p + epoch.to_bytes(4, "big")
    data += len(s).to_bytes(4, "big") + s + partition.to_bytes(4, "big")
    assert lane_id(producer, epoch, stream, partition) == hashlib.sha256(data).digest()[:16]


def test_parts_of_an_id_cannot_be_shifted_into_one_another() -> None:
    assert lane_id("ab", 1, "c", 0) != lane_id("a", 1, "bc", 0)
    assert source_id("ab", "c") != source_id("a", "bc")
    assert event_id(lane_id("a", 1, "b", 0), 1) != event_id(lane_id("a", 1, "b", 0), 2)


@given(identity=names, partitions=st.integers(1, 64))
def test_a_partition_follows_from_key_and_name_alone(identity: str, partitions: int) -> None:
    mac = hmac.new(b"k" * 32, identity.encode(), "sha256").digest()
    assert partition_of(b"k" * 32, identity, partitions) == int.from_bytes(mac[:8], "big") % partitions


def test_another_routing_key_spreads_names_otherwise() -> None:
    people = [f"rater{n}" for n in range(64)]
    here, there = ([partition_of(key * 32, name, 16) for name in people] for key in (b"a", b"b"))
    assert here != there
    assert len(set(here)) == 16


def test_origins_name_log_ledger_stream_and_partition() -> None:
    assert log_origin("a.example/log", bytes(16), "annotations", 3) == f"a.example/log/{'00' * 16}/annotations/3"
    assert global_origin("a.example/log", bytes(16)) == f"a.example/log/{'00' * 16}/global"
    assert len(key_id(bytes(32))) == 8
