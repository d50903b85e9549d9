"""The shipper on real brokers: whatever dies, every batch stands in its partition, in order, repeats identical."""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kafka.conftest import throwaway_cluster
from kafka.shipped import ended, found, make_topics, read_topics, ship, until
from rlhf_audit_producers.spool_lock import acquire_drain
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import admin_client, source_topic
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.node_kit import write_node_kit
from rlhf_audit_trail.recording import AuditTrail
from rlhf_audit_trail.runtime_start import is_running, wait_until_idle
from spooling import spooled, withdrawals, writer

pytestmark = pytest.mark.service
PER_TURN = 20


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    return tmp_path / "trail"


@pytest.fixture
def facts(trail: Path) -> LedgerFacts:
    return found(trail)


class Rank(threading.Thread):
    """Records until it is told to end, or killed."""

    def __init__(self, trail: Path, facts: LedgerFacts, rank: int, *, pause_s: float = 0.01) -> None:
        super().__init__()
        self._writer, self._queue = writer(trail, facts=facts, producer=f"run/{rank}")
        self._rank, self._pause_s = rank, pause_s
        self._stop_now = threading.Event()
        self.ids: list[str] = []
        self.is_killed = False

    def run(self) -> None:
        self._writer.open()
        while not self._stop_now.wait(self._pause_s):
            first = 1_000_000 * (self._rank + 1) + len(self.ids)
            self._queue.put(withdrawals(first, PER_TURN, padding=200))
            self._writer.turn()
            self.ids += [f"w{number}" for number in range(first, first + PER_TURN)]
        if self.is_killed:
            self._writer.abandon()
        else:
            self._writer.close("finished")

    def end(self, *, killed: bool = False) -> list[str]:
        self.is_killed = killed
        self._stop_now.set()
        self.join()
        return self.ids


def recorded(trail: Path, facts: LedgerFacts, rank: int = 0, *, turns: int = 10, end: bool = True) -> list[str]:
    """What a rank records that is over."""
    spool, queue = writer(trail, facts=facts, producer=f"run/{rank}")
    spool.open()
    for turn in range(turns):
        queue.put(withdrawals(1_000_000 * (rank + 1) + turn * PER_TURN, PER_TURN))
        spool.turn()
    if end:
        spool.close("finished")
    else:
        spool.abandon()
    return [f"w{1_000_000 * (rank + 1) + number}" for number in range(turns * PER_TURN)]


def logs(trail: Path) -> list[Path]:
    return list((trail / "spool" / "producers").glob("*/*/*.log"))


@contextmanager
def recording(trail: Path, facts: LedgerFacts, ranks: int) -> Iterator[list[Rank]]:
    running = [Rank(trail, facts, number) for number in range(ranks)]
    for rank in running:
        rank.start()
    try:
        yield running
    finally:
        for rank in running:
            rank.end()


def test_everything_recorded_is_in_its_partition_once_and_the_spools_are_gone(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions)
    wanted = [name for rank in range(3) for name in recorded(trail, facts, rank, end=rank != 2)]
    batches = len(spooled(trail))
    status, out, err = ended(ship(trail, kafka_settings, "--until-idle"))
    assert (status, err.count("is lost")) == (0, 1), err
    topics = read_topics(kafka_settings, facts.partitions)
    assert topics.ids() == sorted(wanted)
    assert (topics.repeats, topics.odd) == (0, [])
    assert topics.messages - batches <= 3, "beside the ranks' batches the shipper's own few"
    assert [lost["producer"] for lost in topics.events("producer_lost")] == ["run/2"]
    assert "nothing is left" in out
    assert logs(trail) == []


def test_kill_nine_of_the_shipper_again_and_again_loses_nothing(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions)
    chance = random.Random(20261125)  # noqa: S311 - a schedule that can be repeated
    with recording(trail, facts, 2) as ranks:
        for _ in range(6):
            process = ship(trail, kafka_settings)
            until(lambda: (trail / "spool" / "shipped.json").exists())
            time.sleep(chance.uniform(0.2, 1.2))
            process.kill()
            process.communicate()
        wanted = ranks[0].end() + ranks[1].end(killed=True)
    status, _, err = ended(ship(trail, kafka_settings, "--until-idle"))
    assert status == 0, err
    topics = read_topics(kafka_settings, facts.partitions)
    assert topics.ids() == sorted(wanted)
    assert len(topics.events("producer_lost")) == 1
    assert topics.repeats < topics.messages / 2, "it does not begin at the beginning each time"
    assert logs(trail) == []


def test_kill_nine_of_the_broker_and_of_the_shipper_meanwhile_loses_nothing(
    trail: Path, facts: LedgerFacts, tmp_path: Path, topic_prefix: str
) -> None:
    with throwaway_cluster(tmp_path / "kafka", overrides={"broker.session.timeout.ms": "3000"}) as cluster:
        settings = cluster.settings(topic_prefix)
        make_topics(settings, facts.partitions)
        (node,) = cluster.nodes
        with recording(trail, facts, 2) as ranks:
            process = ship(trail, settings)
            until(lambda: (trail / "spool" / "shipped.json").exists())
            cluster.kill(node)
            time.sleep(2.0)
            process.kill()
            _, err = process.communicate()
            assert "no broker answers" in err, "it is said what is the matter"
            process = ship(trail, settings, "--until-idle")
            cluster.start(node)
            cluster.wait_ready()
            time.sleep(1.0)
            cluster.kill(node)
            time.sleep(1.0)
            cluster.start(node)
            cluster.wait_ready()
            wanted = ranks[0].end() + ranks[1].end()
        status, _, err = ended(process)
        assert status == 0, err
        topics = read_topics(settings, facts.partitions)
    assert topics.ids() == sorted(wanted)
    assert topics.events("producer_lost") == []
    assert logs(trail) == []


def test_leaders_that_die_one_after_the_other_leave_every_lane_whole(
    trail: Path, facts: LedgerFacts, three_brokers: KafkaCluster, topic_prefix: str
) -> None:
    settings = three_brokers.settings(topic_prefix)
    make_topics(settings, facts.partitions, {"min.insync.replicas": "2"})
    with recording(trail, facts, 2) as ranks:
        process = ship(trail, settings, "--until-idle")
        until(lambda: (trail / "spool" / "shipped.json").exists())
        for node in three_brokers.nodes[:2]:
            three_brokers.kill(node)
            time.sleep(1.0)
            three_brokers.start(node)
            three_brokers.wait_ready()
        wanted = ranks[0].end() + ranks[1].end(killed=True)
    status, _, err = ended(process)
    assert status == 0, err
    topics = read_topics(settings, facts.partitions)
    assert topics.ids() == sorted(wanted)
    assert len(topics.events("producer_lost")) == 1
    assert logs(trail) == []


def test_a_training_with_brokers_starts_its_shipper_by_itself_and_a_drain_waits_for_it(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions)
    trail.joinpath("config.toml").write_text(f'topic_prefix = "{kafka_settings.topic_prefix}"\n')
    rows = 50
    with AuditTrail(trail, "run", brokers=kafka_settings.brokers) as recorded_into:
        recorded_into.log_annotations(items=[f"item{n}" for n in range(rows)], rewards=[1.0] * rows)
        recorded_into.flush()
        until(lambda: is_running(trail))
        status, out, err = ended(ship(trail, kafka_settings, "--drain"))
        assert (status, out) == (0, "shipped 0 records, nothing is left\n"), err
        assert len(read_topics(kafka_settings, facts.partitions).events("annotation")) == rows
    assert wait_until_idle(trail, 30)
    topics = read_topics(kafka_settings, facts.partitions)
    assert (len(topics.events("producer_end")), topics.events("producer_lost")) == (1, [])
    assert logs(trail) == []


def test_a_runtime_and_a_shipper_exclude_one_another(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    recorded(trail, facts)
    lock = acquire_drain(trail / "spool")
    assert lock is not None
    status, _, err = ended(ship(trail, kafka_settings, "--until-idle"))
    assert (status, "another process ships or seals" in err) == (0, True), err
    status, _, err = ended(ship(trail, kafka_settings))
    assert (status, "another process ships or seals" in err) == (3, True), err
    status, out, err = ended(ship(trail, kafka_settings, "--drain", "--drain-seconds", "1"))
    assert (status, "left: run/0 epoch 0" in out) == (3, True), err
    lock.release()


def test_sigterm_ships_what_is_there_while_ranks_go_on(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions)
    with recording(trail, facts, 1) as (rank,):
        process = ship(trail, kafka_settings)
        until(lambda: (trail / "spool" / "shipped.json").exists())
        done_by_then = list(rank.ids)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status, _, err = ended(process)
        assert (status, time.monotonic() - started < 10) == (0, True), err
        assert set(done_by_then) <= set(read_topics(kafka_settings, facts.partitions).ids())
        assert not read_topics(kafka_settings, facts.partitions).events("producer_lost")


def test_a_drain_ends_with_0_when_all_is_acknowledged_and_with_3_when_something_is_left(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions)
    wanted = recorded(trail, facts)
    nobody = KafkaSettings("127.0.0.1:1", kafka_settings.topic_prefix)
    status, out, err = ended(ship(trail, nobody, "--drain", "--drain-seconds", "3"))
    assert status == 3
    assert "left: run/0 epoch 0" in out
    assert "no broker answers" in err
    status, out, err = ended(ship(trail, kafka_settings, "--drain"))
    assert (status, out.startswith("shipped ")) == (0, True), err
    assert read_topics(kafka_settings, facts.partitions).ids() == sorted(wanted)


def test_a_batch_larger_than_the_topic_takes_is_put_aside_and_declared(
    trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions, {"max.message.bytes": "20000"})
    spool, queue = writer(trail, facts=facts)
    spool.open()
    for number, padding in enumerate((0, 30_000, 0, 0)):
        queue.put(withdrawals(number, 1, padding=padding))
        spool.turn()
    spool.close("finished")
    status, _, err = ended(ship(trail, kafka_settings, "--until-idle"))
    assert status == 0, err
    (kept,) = (trail / "spool" / "refused").iterdir()
    assert kept.stat().st_size > 30_000
    assert "larger than the brokers take" in err
    assert "xxxx" not in err
    assert ids_in_topics(kafka_settings, facts) == {"w0", "w2", "w3"}
    assert logs(trail) == []
    status, out, err = ended(ship(trail, kafka_settings, "--drain-seconds", "20", command=("spool", "resend")))
    assert (status, "1 still too large" in out) == (3, True), err
    assert kept.exists()
    let_topics_take(kafka_settings, facts.partitions, 1_000_000)
    status, out, err = ended(ship(trail, kafka_settings, "--drain-seconds", "20", command=("spool", "resend")))
    assert (status, out) == (0, "1 acknowledged, 0 still too large, 0 not answered\n"), err
    assert not kept.exists()
    assert ids_in_topics(kafka_settings, facts) == {"w0", "w1", "w2", "w3"}


def let_topics_take(settings: KafkaSettings, streams: Iterable[str], size: int) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    client, _ = admin_client(settings)
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resources = [
        ConfigResource(ResourceType.TOPIC, source_topic(settings.topic_prefix, stream), incremental_configs=[entry])
        for stream in streams
    ]
    for answer in client.incremental_alter_configs(resources).values():
        answer.result(timeout=30)


def ids_in_topics(settings: KafkaSettings, facts: LedgerFacts) -> set[str]:
    from rlhf_audit_ledger.batch import BatchBody, open_envelope
    from rlhf_audit_schemas.kinds import KINDS
    from rlhf_audit_stores.kafka.tail import PartitionTail
    from rlhf_audit_stores.kafka.wire import strip_header

    ids = set()
    for partition in range(facts.partitions["annotations"]):
        with PartitionTail(settings, source_topic(settings.topic_prefix, "annotations"), partition) as tail:
            for message in tail.read(*tail.watermarks()):
                body = BatchBody.decode(open_envelope(strip_header(message.value or b""))[0])
                ids |= {KINDS["withdrawal"].codec.decode(event)["annotation_id"] for event in body.events}
    return ids


def test_what_a_dead_node_left_is_adopted_once(trail: Path, facts: LedgerFacts, kafka_settings: KafkaSettings) -> None:
    make_topics(kafka_settings, facts.partitions)
    wanted = recorded(trail, facts, end=False)
    spool, _ = writer(trail, facts=facts, producer="run/9")
    spool.open()
    status, _, err = ended(ship(trail, kafka_settings, command=("spool", "adopt")))
    assert (status, "still record here" in err) == (2, True), err
    spool.close("finished")
    status, out, _ = ended(ship(trail, kafka_settings, "--json", command=("spool", "status")))
    assert status == 0
    assert {one["producer"] for one in json.loads(out)["spools"]} == {"run/0", "run/9"}
    for _ in range(2):
        status, _, err = ended(ship(trail, kafka_settings, command=("spool", "adopt")))
        assert status == 0, err
    topics = read_topics(kafka_settings, facts.partitions)
    assert topics.ids() == sorted(wanted)
    assert [lost["producer"] for lost in topics.events("producer_lost")] == ["run/0"]
    assert topics.repeats == 0


def test_a_copy_of_what_a_dead_node_left_is_shipped_on_from_where_that_node_was(
    trail: Path, facts: LedgerFacts, tmp_path: Path, kafka_settings: KafkaSettings
) -> None:
    make_topics(kafka_settings, facts.partitions)
    node = tmp_path / "node"
    write_node_kit(facts, trail, node, RealDisk())
    with recording(node, facts, 1) as (rank,):
        process = ship(node, kafka_settings)
        until(lambda: (node / "spool" / "shipped.json").exists())
        process.kill()
        process.communicate()
        wanted = rank.end(killed=True)
    saved = shutil.copytree(node / "spool", tmp_path / "saved" / "spool").parent
    for _ in range(2):
        status, _, err = ended(ship(saved, kafka_settings, "--trail", str(trail), command=("spool", "adopt")))
        assert status == 0, err
    topics = read_topics(kafka_settings, facts.partitions)
    assert topics.ids() == sorted(wanted)
    assert [lost["producer"] for lost in topics.events("producer_lost")] == ["run/0"]
    assert logs(saved) == []


def test_spools_of_another_ledger_are_not_adopted(
    trail: Path, facts: LedgerFacts, tmp_path: Path, kafka_settings: KafkaSettings
) -> None:
    recorded(trail, facts)
    other = tmp_path / "other"
    found(other)
    process = ship(trail, kafka_settings, "--trail", str(other), command=("spool", "adopt"))
    status, _, err = ended(process)
    assert (status, facts.ledger_id.hex() in err) == (2, True), err


class TestRights:
    """Logins and rights: clear words, training untouched, and everything arrives once the right is given."""

    def give(self, cluster: KafkaCluster, settings: KafkaSettings, user: str, *, allow: bool = True) -> None:
        from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
        from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

        client, _ = admin_client(settings)
        for operation in (AclOperation.WRITE, AclOperation.DESCRIBE):
            what = (ResourceType.TOPIC, settings.topic_prefix, ResourcePatternType.PREFIXED, f"User:{user}", "*")
            if allow:
                for made in client.create_acls([AclBinding(*what, operation, AclPermissionType.ALLOW)]).values():
                    made.result(timeout=30)
            else:
                wanted = AclBindingFilter(*what, operation, AclPermissionType.ALLOW)
                for gone in client.delete_acls([wanted]).values():
                    gone.result(timeout=30)

    def test_no_right_and_a_revoked_one_and_a_wrong_password(
        self, trail: Path, facts: LedgerFacts, secure_kafka: KafkaCluster, topic_prefix: str, tmp_path: Path
    ) -> None:
        admin = secure_kafka.settings(topic_prefix)
        make_topics(admin, facts.partitions)
        user = topic_prefix.strip(".")
        secure_kafka.create_user(user)
        settings = secure_kafka.settings(topic_prefix, user=user)
        wanted = recorded(trail, facts)

        wrong = tmp_path / "wrong.password"
        wrong.write_text("not it")
        wrong.chmod(0o600)
        from dataclasses import replace

        status, out, err = ended(ship(trail, replace(settings, password_file=wrong), "--drain", "--drain-seconds", "5"))
        assert (status, "wrong user or password" in err, "not it" in err) == (3, True, False), err

        status, out, err = ended(ship(trail, settings, "--drain", "--drain-seconds", "5"))
        assert (status, "left: run/0" in out) == (3, True), err
        assert "WRITE and DESCRIBE" in err or "this user may not see it" in err, err

        process = ship(trail, settings)
        self.give(secure_kafka, admin, user)
        until(lambda: read_topics(admin, facts.partitions).ids() == sorted(wanted))

        self.give(secure_kafka, admin, user, allow=False)
        time.sleep(1.0)
        wanted += recorded(trail, facts, 1)
        time.sleep(3.0)
        self.give(secure_kafka, admin, user)
        until(lambda: read_topics(admin, facts.partitions).ids() == sorted(wanted))
        process.terminate()
        status, _, err = ended(process)
        assert status == 0, err
        assert "shipping again" in err
        assert logs(trail) == []
