"""Sinks on real Kafka: whatever dies, stops or comes twice, what they store is what the one-process runtime stored."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from clickhouse_http import ClickHouseServer, running_clickhouse
from contract.versitygw import running_gateway
from kafka.fleet import Fleet
from kafka.sealed_world import SealedFeed, SealedWorld, contents, make_sealed_topics, make_world
from query_copies import require_chdb
from rlhf_audit_schemas.errors import TransportError
from rlhf_audit_sinks.kafka_windows import WindowFollower
from rlhf_audit_sinks.window_stores import ObjectsWindows
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.errors import BrokerError
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_stores.objects import FolderStore, ObjectStore
from rlhf_audit_trail.places import need_ledger
from rlhf_audit_trail.sinking import all_partitions

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("default")]

_DEADLINE_S = 90.0


def until(condition: Callable[[], bool], what: Callable[[], str] = lambda: "", timeout_s: float = _DEADLINE_S) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long: {what()}"
        time.sleep(0.05)


def flags(settings: KafkaSettings) -> list[str]:
    return ["--brokers", settings.brokers, "--topic-prefix", settings.topic_prefix, "--session-seconds", "6"]


def audit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """``rlhf-audit`` to its end."""
    command = [sys.executable, "-m", "rlhf_audit_trail", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=Fleet(Path())._environment
    )


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> SealedWorld:
    return make_world(tmp_path_factory.mktemp("world"), windows=16)


@pytest.fixture
def world(_world: SealedWorld, tmp_path: Path, kafka_settings: KafkaSettings) -> SealedWorld:
    """The records, a trail of this test alone, and empty topics."""
    trail = tmp_path / "trail"
    shutil.copytree(_world.trail, trail)
    make_sealed_topics(kafka_settings, {"annotations": 4, "gradients": 4, "lifecycle": 1, "released": 4})
    return SealedWorld(_world.reference, trail, _world.records, _world.window_ends, _world.windows, _world.events)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "logs") as opened:
        yield opened


def segments(trail: Path) -> int:
    return sum(1 for _ in (trail / "objects" / "segments").rglob("*.avro"))


def is_stored(world: SealedWorld, trail: Path) -> bool:
    """Byte for byte, but for partial tiles whose full one is there: who died before deleting one may leave it."""
    if segments(trail) != world.windows:
        return False
    found, expected = contents(trail), world.stored()
    superseded = {name for name in found if ".p/" in name and name.partition(".p/")[0] in expected}
    return {name: data for name, data in found.items() if name in expected or name not in superseded} == expected


def verified(trail: Path) -> None:
    """What the sinks stored, published and verified."""
    published = audit("sequence", trail, "--once")
    assert published.returncode == 0, published.stderr
    checked = audit("verify", trail, "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def rows(server: ClickHouseServer) -> tuple[int, int]:
    """Windows and annotations, by a plain count."""
    client = server.client()
    try:
        windows = client.query("SELECT count() FROM audit.windows").result_rows[0][0]
        return int(windows), int(client.query("SELECT count() FROM audit_restricted.annotation").result_rows[0][0])
    finally:
        client.close()


def test_two_sinks_of_each_kind_lose_and_double_nothing_whatever_dies(
    world: SealedWorld, kafka_settings: KafkaSettings, fleet: Fleet, tmp_path: Path
) -> None:
    require_chdb()
    with running_clickhouse(tmp_path / "server") as server:
        for number in range(2):
            fleet.audit(f"objects{number}", "sink", "objects", world.trail, *flags(kafka_settings))
            fleet.audit(f"rows{number}", "sink", "clickhouse", world.trail, *flags(kafka_settings), *server.flags)
        feed = SealedFeed(kafka_settings, world.records)
        feeding = threading.Thread(target=feed.all, args=(20.0,))
        feeding.start()
        for pause_s, act in (
            (6.0, lambda: fleet.send("objects0", signal.SIGKILL)),
            (1.0, lambda: fleet.send("rows0", signal.SIGKILL)),
            (2.0, lambda: fleet.send("objects1", signal.SIGSTOP)),
            (1.0, server.kill),
            (2.0, server.start),
            (2.0, lambda: fleet.send("rows1", signal.SIGSTOP)),
            (5.0, lambda: fleet.send("objects1", signal.SIGCONT)),
            (1.0, lambda: server.signal(signal.SIGSTOP)),
            (3.0, lambda: server.signal(signal.SIGCONT)),
            (1.0, lambda: fleet.send("rows1", signal.SIGCONT)),
        ):
            time.sleep(pause_s)
            act()  # type: ignore[no-untyped-call]  # a list of lambdas
        feeding.join()
        assert feed.duplicates > 0
        until(lambda: is_stored(world, world.trail), lambda: f"{segments(world.trail)} of {world.windows}")
        until(lambda: rows(server) == (world.windows, world.events), lambda: f"{rows(server)} of {world.events}")
        for name in ("objects0", "objects1", "rows0", "rows1"):
            assert fleet.stop(name) == 0, fleet.words(name)
        assert not fleet.deaths, {name: fleet.words(name) for name in fleet.deaths}
        assert rows(server) == (world.windows, world.events)
    assert not (world.trail / "alarms").exists()
    verified(world.trail)


@pytest.mark.parametrize("kind", ["objects", "clickhouse"])
def test_a_forged_record_under_a_place_already_taken_stops_the_sink_and_changes_nothing(
    world: SealedWorld, kafka_settings: KafkaSettings, fleet: Fleet, tmp_path: Path, kind: str
) -> None:
    require_chdb()
    key = ("annotations", 1)
    border = world.window_ends[key][4]
    feed = SealedFeed(kafka_settings, {key: world.records[key][: border + 2]})
    feed.all(duplicates=0)
    forged = bytearray(world.records[key][border + 1])
    forged[-1] ^= 1
    feed.send(key, bytes(forged))
    for record in world.records[key][border + 2 :]:
        feed.send(key, record)
    feed.flush()
    fleet.audit("sink", "sink", kind, world.trail, *flags(kafka_settings))
    assert fleet.wait("sink", _DEADLINE_S) == 1, fleet.words("sink")
    [path] = (world.trail / "alarms").iterdir()
    alarm = json.loads(path.read_text())
    assert (alarm["sink"], alarm["partition"], alarm["topic_offset"]) == (kind, 1, border + 2)
    assert alarm["kind"] == "ForkError"
    if kind == "objects":
        stored = contents(world.trail)
        assert segments(world.trail) == 5
        assert all(world.stored().get(name) == data for name, data in stored.items() if name.endswith(".avro"))
    before = path.read_bytes()
    fleet.audit("again", "sink", kind, world.trail, *flags(kafka_settings))
    assert fleet.wait("again", _DEADLINE_S) == 1
    assert [each.read_bytes() for each in (world.trail / "alarms").iterdir()] == [before]


def test_a_duplicate_of_a_stored_window_is_compared_with_what_is_stored(
    world: SealedWorld, kafka_settings: KafkaSettings, fleet: Fleet
) -> None:
    key = ("annotations", 0)
    end = world.window_ends[key][3]
    feed = SealedFeed(kafka_settings, {key: world.records[key][:end]})
    feed.all(duplicates=0)
    fleet.audit("sink", "sink", "objects", world.trail, *flags(kafka_settings))
    until(lambda: segments(world.trail) == 4, lambda: fleet.words("sink"))
    assert fleet.stop("sink") == 0
    for record in world.records[key][end - 6 : end]:  # a zombie's, after the restart: nobody remembers them
        feed.send(key, record)
    for record in world.records[key][end : world.window_ends[key][4]]:
        feed.send(key, record)
    feed.flush()
    fleet.audit("sink", "sink", "objects", world.trail, *flags(kafka_settings))
    until(lambda: segments(world.trail) == 5, lambda: fleet.words("sink"))
    forged = bytearray(world.records[key][end - 4])
    forged[-1] ^= 1
    assert fleet.stop("sink") == 0
    feed.send(key, bytes(forged))
    feed.flush()
    fleet.audit("sink", "sink", "objects", world.trail, *flags(kafka_settings))
    assert fleet.wait("sink", _DEADLINE_S) == 1, fleet.words("sink")
    assert segments(world.trail) == 5


def test_the_embedded_copy_catches_up_from_objects_and_answers_sql_meanwhile(
    world: SealedWorld, kafka_settings: KafkaSettings, fleet: Fleet
) -> None:
    require_chdb()
    feed = SealedFeed(kafka_settings, {key: records[: len(records) // 2] for key, records in world.records.items()})
    feed.all()
    fleet.audit("objects", "sink", "objects", world.trail, *flags(kafka_settings))
    half = sum(sum(end <= len(world.records[key]) // 2 for end in ends) for key, ends in world.window_ends.items())
    until(lambda: segments(world.trail) == half, lambda: fleet.words("objects"))
    assert fleet.stop("objects") == 0
    fleet.audit("rows", "sink", "clickhouse", world.trail, *flags(kafka_settings))

    def count() -> int:
        asked = audit("sql", world.trail, "SELECT count() AS n FROM audit.windows", "--json")
        return int(json.loads(asked.stdout)[0]["n"]) if asked.returncode == 0 else -1

    until(lambda: count() == half, lambda: fleet.words("rows"))
    for key, records in world.records.items():
        for record in records[len(records) // 2 :]:
            feed.send(key, record)
    feed.flush()
    until(lambda: count() == world.windows, lambda: fleet.words("rows"))
    assert fleet.stop("rows") == 0
    fleet.audit("objects", "sink", "objects", world.trail, *flags(kafka_settings))
    until(lambda: is_stored(world, world.trail), lambda: fleet.words("objects"))
    verified(world.trail)


def test_only_one_sequencer_publishes(
    world: SealedWorld, kafka_settings: KafkaSettings, fleet: Fleet, tmp_path: Path
) -> None:
    SealedFeed(kafka_settings, world.records).all()
    fleet.audit("first", "sequence", world.trail)
    fleet.audit("sink", "sink", "objects", world.trail, *flags(kafka_settings))
    until(lambda: is_stored(world, world.trail), lambda: fleet.words("sink"))
    second = audit("sequence", world.trail)
    assert (second.returncode, "in use by process" in second.stderr) == (3, True)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(world.trail / "keys", elsewhere / "keys")
    (elsewhere / "objects").symlink_to(world.trail / "objects")
    other = audit("sequence", elsewhere, "--once")
    assert (other.returncode, "--take-over" in other.stderr) == (1, True)
    assert fleet.stop("first") == 0, fleet.words("first")
    checked = audit("verify", world.trail)
    assert checked.returncode == 0, checked.stdout + checked.stderr


class FailingStore(FolderStore):
    """A folder that is full, or whose disk is slow, for as long as ``says``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.says: Callable[[], None] = lambda: None

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        self.says()
        super().put_many(items)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def silent_bucket() -> None:
    raise TransportError("the object store did not answer: TimeoutError")


Follower = TypeVar("Follower", bound=WindowFollower)


def follower_of(
    kind: type[Follower], world: SealedWorld, kafka_settings: KafkaSettings, objects: ObjectStore, health: WorkerHealth
) -> Follower:
    """A sink of objects in this process."""
    return kind(
        kafka_settings,
        all_partitions(need_ledger(world.trail, objects)),
        ObjectsWindows(objects, FolderStore(world.trail / "vault"), load_secret(world.trail / "keys" / "vault.key")),
        quarantine_key=load_secret(world.trail / "keys" / "quarantine.key"),
        health=health,
        alarms=world.trail / "alarms",
    )


class LeaderGone(WindowFollower):
    """Nobody says where one partition is."""

    gone = 0
    asked = 0

    def _locate(self, key: tuple[str, int], *how: Any) -> int:
        if key[0].endswith("sealed.annotations") and key[1] == self.gone:
            self.asked += 1
            raise BrokerError("no leader")
        return super()._locate(key, *how)


def test_a_partition_whose_leader_is_gone_holds_up_no_other(world: SealedWorld, kafka_settings: KafkaSettings) -> None:
    health = WorkerHealth("sink")
    follower = follower_of(LeaderGone, world, kafka_settings, FolderStore(world.trail / "objects"), health)

    def stored_of(folder: Path, number: int) -> int:
        return sum(1 for _ in (folder / "objects" / "segments" / "annotations" / str(number)).rglob("*.avro"))

    counts = {number: stored_of(world.reference, number) for number in range(4)}
    follower.gone = max(counts, key=lambda number: counts[number])
    others = [number for number in counts if number != follower.gone]
    assert counts[follower.gone] > 0
    assert sum(counts[number] for number in others) > 0
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(follower.run, stop.is_set)
        try:
            SealedFeed(kafka_settings, world.records).all()
            until(lambda: running.done() or all(stored_of(world.trail, number) == counts[number] for number in others))
            assert stored_of(world.trail, follower.gone) == 0
            assert "its brokers do not answer" in (health.unready() or "")
            assert follower.asked > 1
            follower.gone = -1
            until(lambda: running.done() or is_stored(world, world.trail))
            until(lambda: running.done() or health.unready() is None)
        finally:
            stop.set()
        running.result()


@pytest.mark.parametrize("trouble", [full_disk, silent_bucket, lambda: time.sleep(0.05)], ids=["full", "down", "slow"])
def test_a_store_that_is_full_down_or_slow_pauses_the_sink_and_loses_nothing(
    world: SealedWorld, kafka_settings: KafkaSettings, trouble: Callable[[], None]
) -> None:
    objects = FailingStore(world.trail / "objects")
    health = WorkerHealth("sink")
    follower = follower_of(WindowFollower, world, kafka_settings, objects, health)

    def metric(name: str) -> float | None:
        return health.registry.get_sample_value(f"rlhf_audit_{name}", {"sink": "objects"})

    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(follower.run, stop.is_set)
        try:
            objects.says = trouble
            SealedFeed(kafka_settings, world.records).all()
            if trouble in (full_disk, silent_bucket):
                until(lambda: running.done() or metric("sink_paused") == 1)
                assert health.unready() is not None
                assert segments(world.trail) == 0
                objects.says = lambda: None
            until(lambda: running.done() or is_stored(world, world.trail))
            until(lambda: running.done() or (metric("sink_paused"), health.unready()) == (0, None))
        finally:
            stop.set()
        running.result()
    assert (metric("sink_duplicates_total") or 0) > 0
    assert not (world.trail / "alarms").exists()


def test_objects_and_vault_may_lie_in_buckets(
    world: SealedWorld, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    with running_gateway(tmp_path / "s3") as gateway:
        for bucket in ("audit", "audit-vault"):
            gateway.bucket(bucket)
        shutil.move(world.trail / "objects" / "global", gateway.data / "audit" / "objects" / "global")
        with Fleet(tmp_path / "logs", {**gateway.environment(), "AWS_ALLOW_HTTP": "true"}) as fleet:
            places = ["--objects-url", "s3://audit/objects", "--vault-url", "s3://audit-vault"]
            fleet.audit("sink", "sink", "objects", world.trail, *flags(kafka_settings), *places)
            fleet.audit("sequence", "sequence", world.trail, *places[:2])
            SealedFeed(kafka_settings, world.records).all()
            copy = tmp_path / "copy"

            def is_there() -> bool:
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(world.trail / "keys", copy / "keys")
                try:
                    shutil.copytree(gateway.data / "audit" / "objects", copy / "objects")
                    shutil.copytree(gateway.data / "audit-vault", copy / "vault")
                except shutil.Error:
                    return False  # a partial tile went while it was copied
                return is_stored(world, copy)

            until(is_there, lambda: fleet.words("sink"))
            assert (fleet.stop("sink"), fleet.stop("sequence")) == (0, 0), fleet.words("sequence")
            assert is_there()
        checked = audit("verify", copy)
        assert checked.returncode == 0, checked.stdout + checked.stderr
