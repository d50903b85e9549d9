"""``rlhf-audit topics`` on a real broker: made as they have to be, repeatable, every danger named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from rlhf_audit_ledger.lanes import LaneTable
from rlhf_audit_ledger.reading import TickReading, read_value
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.kafka.errors import RefusedByBrokerError
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import TopicFacts, admin_client, read_topic_facts
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.places import need_ledger

pytestmark = pytest.mark.service

PARTITIONS = {"annotations": 2, "gradients": 3, "lifecycle": 1, "released": 1}
NO_RIGHT = KafkaError.TOPIC_AUTHORIZATION_FAILED
Topics = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def topics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kafka_settings: KafkaSettings
) -> Topics:
    """Runs the command on the trail ``tmp_path / "trail"``; exit status, what ``--json`` says, standard error."""
    monkeypatch.setenv("RLHF_AUDIT_BROKERS", kafka_settings.brokers)
    monkeypatch.setenv("RLHF_AUDIT_TOPIC_PREFIX", kafka_settings.topic_prefix)
    monkeypatch.setenv("RLHF_AUDIT_PARTITIONS", ",".join(f"{name}={count}" for name, count in PARTITIONS.items()))

    def run(action: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
        status = main(["topics", action, str(tmp_path / "trail"), "--json", *arguments])
        said = capsys.readouterr()
        return status, json.loads(said.out) if said.out else {}, said.err

    return run


def facts_when_seen(settings: KafkaSettings, topic: str) -> TopicFacts:
    """A topic is created a moment before the brokers tell of it."""
    deadline = time.monotonic() + 20
    while topic not in (found := read_topic_facts(settings, [topic])):
        assert time.monotonic() < deadline
    return found[topic]


def alter(settings: KafkaSettings, topic: str, values: Mapping[str, str]) -> None:
    client, _ = admin_client(settings)
    entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in values.items()]
    asked = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for future in client.incremental_alter_configs([asked], request_timeout=30).values():
        future.result(timeout=31)


def refused(settings: KafkaSettings, topic: str, value: bytes, **config: object) -> int | None:
    """The code with which the brokers did not take a message; None if they did.

    A fatal error is raised by ``flush``, or from within the delivery callback, where it comes out as SystemError.
    """
    codes: list[int] = []
    producer = Producer({**settings.producer_config(), "message.timeout.ms": 20_000, **config})
    producer.produce(
        topic, value, partition=0, on_delivery=lambda error, _: codes.extend([error.code()] if error else [])
    )
    try:
        assert producer.flush(30) == 0
    except (KafkaException, SystemError) as error:
        fatal = error if isinstance(error, KafkaException) else error.__cause__ or error.__context__
        assert isinstance(fatal, KafkaException)
        return int(fatal.args[0].code())
    return codes[0] if codes else None


def test_apply_founds_the_ledger_and_makes_its_topics_once(
    topics: Topics, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    status, said, _ = topics("apply")
    assert (status, said["problems"], len(said["created"]), len(said["begun"])) == (0, [], 8, sum(PARTITIONS.values()))
    prefix = kafka_settings.topic_prefix
    names = [f"{prefix}audit.{kind}{stream}" for stream in PARTITIONS for kind in ("", "sealed.")]
    facts = read_topic_facts(kafka_settings, names)
    assert {name: facts[name].partitions for name in names} == {n: PARTITIONS[n.rpartition(".")[2]] for n in names}

    ledger = need_ledger(tmp_path / "trail", FolderStore(tmp_path / "trail" / "objects", RealDisk()))
    source = facts[f"{prefix}audit.gradients"]
    for number in range(3):
        with PartitionTail(kafka_settings, source.topic, number) as tail:
            assert tail.watermarks() == (0, 1)
            (first,) = tail.read(0, 1)
        assert first.value is not None
        settings = partition_settings(ledger.genesis_bytes, "gradients", number)
        read = read_value(settings, frozenset(), LaneTable(), source.source_id, strip_header(first.value))
        assert isinstance(read, TickReading)
        assert (read.tick.counter, read.tick.flush, read.tick.global_size) == (1, False, 2)

    again = topics("apply")
    assert again[0] == 0
    assert (again[1]["created"], again[1]["changed"], again[1]["begun"]) == ([], {}, [])
    assert topics("check")[:2] == (0, {"problems": [], "registry": [], "notes": again[1]["notes"]})
    assert "these brokers check no rights" in again[1]["notes"][0]


def test_check_names_each_danger_and_apply_mends_what_it_may(topics: Topics, kafka_settings: KafkaSettings) -> None:
    assert topics("apply")[0] == 0
    topic = f"{kafka_settings.topic_prefix}audit.gradients"
    dangerous = {
        "cleanup.policy": "compact",
        "unclean.leader.election.enable": "true",
        "retention.ms": "60000",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": "2000000",
        "compression.type": "zstd",
    }
    alter(kafka_settings, topic, dangerous)
    status, said, _ = topics("check")
    assert status == 1
    assert {problem["where"] for problem in said["problems"]} == {topic}
    for setting in dangerous:
        assert sum(setting in problem["what"] for problem in said["problems"]) == 1, setting
    status, said, _ = topics("apply", "--retention-hours", "48")
    assert (status, said["problems"]) == (0, [])
    assert said["changed"][topic]["retention.ms"] == str(48 * 3_600_000)
    assert said["changed"][topic].keys() == dangerous.keys()


def test_another_number_of_partitions_is_refused_and_nothing_changed(
    topics: Topics, kafka_settings: KafkaSettings
) -> None:
    from confluent_kafka.admin import NewTopic

    client, _ = admin_client(kafka_settings)
    topic = f"{kafka_settings.topic_prefix}audit.lifecycle"
    client.create_topics([NewTopic(topic, 2, 1)], request_timeout=30)[topic].result(timeout=31)
    facts_when_seen(kafka_settings, topic)
    status, said, error = topics("apply")
    assert (status, said) == (2, {})
    assert f"{topic}: 2 partitions, the genesis names 1" in error
    assert set(read_topic_facts(kafka_settings, [topic, f"{kafka_settings.topic_prefix}audit.gradients"])) == {topic}
    status, said, _ = topics("check")
    assert status == 1
    assert any("2 partitions, the genesis names 1" in problem["what"] for problem in said["problems"])


def test_a_topic_that_was_deleted_and_made_again_and_a_strange_first_record_are_found(
    topics: Topics, kafka_settings: KafkaSettings
) -> None:
    assert topics("apply")[0] == 0
    client, _ = admin_client(kafka_settings)
    topic = f"{kafka_settings.topic_prefix}audit.lifecycle"
    client.delete_topics([topic], request_timeout=30)[topic].result(timeout=31)
    status, said, _ = topics("check")
    assert (status, said["problems"]) == (1, [{"where": topic, "what": "is not there: run `rlhf-audit topics apply`"}])
    from confluent_kafka.admin import NewTopic

    client.create_topics([NewTopic(topic, 1, 1)], request_timeout=30)[topic].result(timeout=31)
    assert refused(kafka_settings, topic, b"somebody was faster") is None
    status, said, _ = topics("apply")
    assert (status, said["begun"]) == (1, [])
    assert said["problems"] == [
        {
            "where": f"{topic}[0]",
            "what": "does not begin with this ledger's first tick: somebody wrote there before "
            "`rlhf-audit topics apply`",
        }
    ]


def test_a_first_record_that_retention_took_is_no_problem(topics: Topics, kafka_settings: KafkaSettings) -> None:
    assert topics("apply")[0] == 0
    topic = f"{kafka_settings.topic_prefix}audit.lifecycle"
    client, _ = admin_client(kafka_settings)
    (done,) = client.delete_records([TopicPartition(topic, 0, 1)]).values()
    done.result(timeout=30)
    status, said, _ = topics("apply")
    assert (status, said["begun"], said["problems"]) == (0, [], [])


def test_a_topic_takes_what_can_be_sealed_at_any_time_and_nothing_larger(
    topics: Topics, kafka_settings: KafkaSettings
) -> None:
    assert topics("apply")[0] == 0
    topic = f"{kafka_settings.topic_prefix}audit.lifecycle"
    assert refused(kafka_settings, topic, bytes(982_000)) is None
    assert refused(kafka_settings, topic, bytes(983_052)) == KafkaError.MSG_SIZE_TOO_LARGE
    unfolding = {"compression.type": "zstd", "message.max.bytes": 30_000_000, "batch.size": 30_000_000}
    assert refused(kafka_settings, topic, bytes(20_000_000), **unfolding) == KafkaError.MSG_SIZE_TOO_LARGE
    for time_ms in (1, 4_102_444_800_000):  # 1970 and 2100
        producer = Producer(kafka_settings.producer_config())
        producer.produce(topic, b"x", partition=0, timestamp=time_ms)
        assert producer.flush(30) == 0
    with PartitionTail(kafka_settings, topic, 0) as tail:
        assert [message.ts_us for message in tail.read(2, 4)] == [1_000, 4_102_444_800_000_000]
    many = Producer({**kafka_settings.producer_config(), "linger.ms": 500})  # one batch of them must fit, too
    lost: list[str] = []
    for _ in range(300):
        many.produce(
            topic, bytes(10_000), partition=0, on_delivery=lambda error, _: lost.extend([str(error)] if error else [])
        )
    assert (many.flush(30), lost) == (0, [])


def test_a_local_ledger_is_told_to_go_on_and_goes_on_once(topics: Topics, tmp_path: Path) -> None:
    with LocalTrail(tmp_path / "trail", partitions=PARTITIONS) as trail:
        trail.append("gradients", 1, [b"no batch"])  # quarantined, and as good as any for a partition that was used
        trail.drain()
    status, said, _ = topics("apply")
    assert status == 1
    assert [problem["where"].rpartition(".")[2] for problem in said["problems"]] == ["gradients[1]"]
    assert "--continue" in said["problems"][0]["what"]
    status, said, _ = topics("apply", "--continue")
    assert (status, said["problems"], said["switched"]["now"]) == (0, [], ["gradients/1"])
    status, said, _ = topics("apply", "--continue")
    assert (status, said["switched"]["now"], said["switched"]["before"]) == (0, [], ["gradients/1"])


def test_brokers_that_are_not_there_are_status_3(topics: Topics) -> None:
    status, said, error = topics("check", "--brokers", "127.0.0.1:1")
    assert (status, said) == (3, {})
    assert "holds no ledger" in error


# ---------------------------------------------------------------- rights, on brokers that check them


@pytest.fixture
def users(
    secure_kafka: KafkaCluster, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, KafkaSettings]:
    """A producer of one stream, a sealer and a sink of a ledger of their own, with the rights that apply gives."""
    from dataclasses import replace

    names = {role: f"{topic_prefix}{role}" for role in ("producer", "sealer", "sink")}
    made = {role: replace(secure_kafka.create_user(name), topic_prefix=topic_prefix) for role, name in names.items()}
    admin = secure_kafka.settings(topic_prefix)
    flags = [
        *("--brokers", admin.brokers, "--topic-prefix", topic_prefix, "--kafka-security-protocol", "SASL_SSL"),
        *("--kafka-sasl-mechanism", "SCRAM-SHA-512", "--kafka-username", str(admin.username)),
        *("--kafka-password-file", str(admin.password_file), "--kafka-ca-file", str(admin.ca_file)),
        *("--acl", f"producer={names['producer']}:gradients", "--acl", f"sealer={names['sealer']}"),
        *("--acl", f"sink={names['sink']}", "--json"),
    ]
    status = main(["topics", "apply", str(tmp_path / "trail"), *flags])
    said = json.loads(capsys.readouterr().out)
    assert (status, said["problems"], said["notes"]) == (0, [], [])
    return {**made, "admin": admin}


def code(act: Callable[[], object]) -> int:
    with pytest.raises(KafkaException) as caught:
        act()
    return int(caught.value.args[0].code())


def test_a_producer_writes_its_stream_and_can_do_nothing_else(users: dict[str, KafkaSettings]) -> None:
    producer, prefix = users["producer"], users["producer"].topic_prefix
    own, other, sealed = (f"{prefix}audit.{name}" for name in ("gradients", "annotations", "sealed.gradients"))
    assert refused(producer, own, b"mine") is None
    assert refused(producer, other, b"not mine") == NO_RIGHT
    assert refused(producer, sealed, b"forged") == NO_RIGHT
    client, _ = admin_client(producer)
    assert code(lambda: client.delete_topics([own])[own].result(timeout=30)) == NO_RIGHT
    records = [TopicPartition(own, 0, 1)]
    assert code(lambda: next(iter(client.delete_records(records).values())).result(timeout=30)) == NO_RIGHT
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        alter(producer, own, {"retention.ms": "1"})
    with PartitionTail(producer, own, 0, silence_s=5) as tail, pytest.raises(RefusedByBrokerError, match="no right"):
        list(tail.read(0, 1))


def test_a_sealer_and_a_sink_reach_what_they_need_and_delete_nothing(users: dict[str, KafkaSettings]) -> None:
    sealer, sink, prefix = users["sealer"], users["sink"], users["sink"].topic_prefix
    own, sealed = f"{prefix}audit.gradients", f"{prefix}audit.sealed.gradients"
    with PartitionTail(sealer, own, 0) as tail:
        assert len(list(tail.read(0, 1))) == 1
    assert [refused(sealer, topic, b"x") for topic in (own, sealed)] == [None, None]
    with PartitionTail(sink, sealed, 0) as tail:
        assert [message.value for message in tail.read(0, 1)] == [b"x"]
    assert refused(sink, sealed, b"forged") == KafkaError.CLUSTER_AUTHORIZATION_FAILED  # no right to write anywhere
    with PartitionTail(sink, own, 0, silence_s=5) as tail, pytest.raises(RefusedByBrokerError):
        tail.watermarks()
    for user in (sealer, sink):
        client, _ = admin_client(user)
        deleting = client.delete_topics([sealed])[sealed]
        assert code(lambda deleting=deleting: deleting.result(timeout=30)) == NO_RIGHT  # type: ignore[misc]


def test_a_wrong_password_is_told_as_one(users: dict[str, KafkaSettings], tmp_path: Path) -> None:
    from dataclasses import replace

    wrong = tmp_path / "wrong.password"
    wrong.write_text("guessed", encoding="ascii")
    wrong.chmod(0o600)
    stranger = replace(users["producer"], password_file=wrong)
    with pytest.raises(RefusedByBrokerError, match="wrong user or password") as caught:
        read_topic_facts(stranger, ["t"], timeout_s=3)
    assert "guessed" not in str(caught.value)
    with PartitionTail(stranger, "t", 0, silence_s=3) as tail, pytest.raises(RefusedByBrokerError, match="password"):
        tail.watermarks()


def test_check_names_who_may_delete(users: dict[str, KafkaSettings], tmp_path: Path) -> None:
    from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType

    from rlhf_audit_trail.topic_admin import TopicAdmin

    admin = users["admin"]
    client, _ = admin_client(admin)
    topic = f"{admin.topic_prefix}audit.gradients"
    rule = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:intern",
        "*",
        AclOperation.ALTER_CONFIGS,
        AclPermissionType.ALLOW,
    )
    for future in client.create_acls([rule]).values():
        future.result(timeout=30)
    objects = FolderStore(tmp_path / "trail" / "objects", RealDisk())
    checked = TopicAdmin(admin, need_ledger(tmp_path / "trail", objects)).check(objects)
    assert [(p.where, p.what) for p in checked.problems] == [
        (topic, "User:intern may ALTER_CONFIGS: nobody should; remove that rule")
    ]
