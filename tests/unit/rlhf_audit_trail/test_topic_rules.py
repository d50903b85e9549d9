"""Topics and rights as rules: what is wanted is not dangerous, and each danger is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.topic_acls import Grant, parse_grant, rights_of
from rlhf_audit_trail.topic_rules import (
    MAX_SEALED_BYTES,
    MAX_SOURCE_BYTES,
    MIN_RETENTION_HOURS,
    Kind,
    TopicState,
    dangers,
    default_copies,
    wanted_config,
)

KINDS: tuple[Kind, ...] = ("source", "sealed")
STREAMS = ("annotations", "gradients")


def good(kind: Kind, brokers: int = 3) -> TopicState:
    copies = default_copies(brokers)
    return TopicState("t", kind, (copies,) * 4, wanted_config(kind, copies, 168))


@given(
    kind=st.sampled_from(KINDS),
    brokers=st.sampled_from([1, 3, 4, 9]),
    hours=st.integers(MIN_RETENTION_HOURS, 10_000),
)
def test_what_apply_wants_is_never_dangerous(kind: Kind, brokers: int, hours: int) -> None:
    copies = default_copies(brokers)
    topic = TopicState("t", kind, (copies,) * 4, wanted_config(kind, copies, hours))
    assert dangers(topic, partitions=4, brokers=brokers) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("cleanup.policy", "compact", "compaction"),
        ("cleanup.policy", "compact,delete", "compaction"),
        ("min.insync.replicas", "1", "one disk alone acknowledges"),
        ("min.insync.replicas", "3", "one broker down stops everything"),
        ("unclean.leader.election.enable", "true", "unclean.leader.election"),
        ("retention.ms", "3600000", "retention.ms=3600000"),
        ("retention.bytes", "1000000", "retention.bytes=1000000"),
        ("message.timestamp.type", "LogAppendTime", "LogAppendTime"),
        ("message.timestamp.after.max.ms", "3600000", "clock is wrong"),
        ("max.message.bytes", "1000", "max.message.bytes=1000"),
        ("compression.type", "zstd", "compression.type=zstd"),
    ],
)
def test_each_dangerous_setting_is_named_and_no_other(kind: Kind, setting: str, value: str, said: str) -> None:
    topic = good(kind)
    (found,) = dangers(replace(topic, config={**topic.config, setting: value}), partitions=4, brokers=3)
    assert said in found


def test_a_compressed_or_larger_source_topic_and_copies_on_too_few_disks_are_named() -> None:
    topic = good("source")
    for setting, value in (("compression.type", "producer"), ("max.message.bytes", str(MAX_SOURCE_BYTES + 1))):
        assert len(dangers(replace(topic, config={**topic.config, setting: value}), partitions=4, brokers=3)) == 1
    alone = replace(good("source", brokers=1), copies=(1, 1, 1, 1))
    assert dangers(alone, partitions=4, brokers=1) == []
    assert "one lost disk" in dangers(alone, partitions=4, brokers=3)[0]
    assert "one lost disk" in dangers(replace(topic, copies=(3, 3, 3, 1)), partitions=4, brokers=3)[0]
    assert "5 partitions" in dangers(replace(topic, copies=(3,) * 5), partitions=4, brokers=3)[0]
    assert "take 3" in dangers(replace(topic, copies=(2,) * 4), partitions=4, brokers=3)[0]


def test_a_source_message_and_what_sealing_adds_fit_a_broker_left_at_its_default() -> None:
    assert MAX_SOURCE_BYTES + 64 * 1024 == MAX_SEALED_BYTES == 1_048_588


@given(role=st.sampled_from(["producer", "sealer", "sink"]))
def test_no_role_may_destroy_and_only_a_sealer_writes_sealed_topics(role: str) -> None:
    rights = rights_of([parse_grant(f"{role}=u", STREAMS)], "p.", STREAMS)
    given_ones = [right for right in rights if right.is_allowed]
    assert not {right.operation for right in given_ones} & {"DELETE", "ALTER", "ALTER_CONFIGS", "ALL", "CREATE"}
    assert {right.user for right in given_ones} == {"u"}
    writes = {right.name for right in given_ones if right.operation == "WRITE"}
    assert any(".sealed." in name for name in writes) == (role == "sealer")
    assert (writes == set()) == (role == "sink")
    denied = {(right.name, right.operation) for right in rights if not right.is_allowed}
    for stream in STREAMS:
        for topic in (f"p.audit.{stream}", f"p.audit.sealed.{stream}"):
            assert {(topic, "DELETE"), (topic, "ALTER"), (topic, "ALTER_CONFIGS")} <= denied


def test_a_producer_kept_to_a_stream_has_nothing_on_another() -> None:
    rights = rights_of([Grant("producer", "u", ("gradients",))], "", STREAMS)
    assert {(r.name, r.operation) for r in rights if r.is_allowed} == {
        ("audit.gradients", "WRITE"),
        ("audit.gradients", "DESCRIBE"),
    }


@pytest.mark.parametrize(
    "text", ["", "producer", "producer=", "admin=u", "sink=u:gradients", "producer=*", "producer=u:x"]
)
def test_a_grant_that_says_nothing_clear_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--acl"):
        parse_grant(text, STREAMS)
