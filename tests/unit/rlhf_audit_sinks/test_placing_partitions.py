"""Partitions whose brokers do not say where they are: most of the time belongs to the others, however many wait."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from builders import make_sealer
from rlhf_audit_sinks import kafka_windows as module
from rlhf_audit_sinks.kafka_windows import WindowFollower
from rlhf_audit_sinks.topic_feed import Feed
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.errors import BrokerError
from rlhf_audit_stores.kafka.settings import KafkaSettings

SETTINGS = make_sealer().settings
ASKED_S, LOOKED_S = 5.0, 600.0


class Clock:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Consumer:
    """Notes how long the partition that is well could be fetched, and the longest silence towards the group."""

    def __init__(self, clock: Clock, well: tuple[str, int]) -> None:
        self._clock, self._well = clock, well
        self._paused: set[tuple[str, int]] = set()
        self._polled_at = clock.now
        self.silent_s = self.fetching_s = 0.0

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= {(one.topic, one.partition) for one in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= {(one.topic, one.partition) for one in partitions}

    def seek(self, partition: TopicPartition) -> None:
        """To where it was told."""

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, 0

    def consume(self, num_messages: int, timeout: float) -> list[object]:
        self.silent_s = max(self.silent_s, self._clock.now - self._polled_at)
        self._clock.now += timeout
        self._polled_at = self._clock.now
        if self._well not in self._paused:
            self.fetching_s += timeout
        return []


def test_a_group_that_cannot_be_left_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    closed: list[str] = []
    store: Any = SimpleNamespace(name="objects", close=lambda: closed.append("store"))
    follower = WindowFollower(
        KafkaSettings("127.0.0.1:9"), [], store, quarantine_key=b"", health=WorkerHealth("sink"), alarms=tmp_path
    )
    consumer = SimpleNamespace(subscribe=lambda *_, **__: None, close=release.wait)
    monkeypatch.setattr(module, "Consumer", lambda config: consumer)
    monkeypatch.setattr(module, "_LEAVE_S", 0.05)
    follower.run(lambda: True)
    assert closed == ["store"]
    release.set()


@pytest.mark.parametrize("gone", [1, 4, 12])
def test_partitions_without_a_leader_leave_most_of_the_time_to_the_others(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    store: Any = SimpleNamespace(name="objects", place=lambda settings, keep_on: None)
    health = WorkerHealth("sink")
    follower = WindowFollower(
        KafkaSettings("127.0.0.1:9"), [], store, quarantine_key=b"", health=health, alarms=tmp_path
    )
    keys = [("audit.sealed.annotations", number) for number in range(gone + 1)]
    well = keys[-1]
    consumer = Consumer(clock, well)

    def locate(key: tuple[str, int], *_: object) -> int:
        if key != well:
            clock.now += ASKED_S
            raise BrokerError("no leader")
        return 0

    monkeypatch.setattr(follower, "_consumer", consumer, raising=False)
    monkeypatch.setattr(follower, "_locate", locate)
    follower._active_at = clock.now
    follower._feeds = {key: Feed(SETTINGS) for key in keys}
    while clock.now < 1000 + LOOKED_S:
        follower._turn()
    assert consumer.fetching_s > 0.7 * LOOKED_S
    assert consumer.silent_s <= 2 * ASKED_S
    assert "its brokers do not answer" in (health.unready() or "")
