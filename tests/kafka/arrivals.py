"""When messages arrive at a plain consumer, partition by partition: what a reader of the topics sees of a failure."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Self

from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import group_name

Place = tuple[str, int]

# So that what is measured is the pipeline and not this reader: a new leader is known at once, a silent broker given up
# soon.
_IMPATIENT = {
    "socket.timeout.ms": 1_500,
    "socket.connection.setup.timeout.ms": 1_500,
    "topic.metadata.refresh.interval.ms": 300,
    "fetch.wait.max.ms": 50,
    "fetch.error.backoff.ms": 50,
    "reconnect.backoff.max.ms": 200,
    "auto.offset.reset": "latest",
}


class Arrivals(threading.Thread):
    """Follows whole topics from their ends on and notes the time of each message. A context manager."""

    def __init__(self, kafka: KafkaSettings, partitions: Mapping[str, int]) -> None:
        super().__init__(daemon=True)
        from confluent_kafka import OFFSET_END, Consumer, TopicPartition

        self._consumer = Consumer({**kafka.consumer_config(group_name(kafka.topic_prefix, "tail")), **_IMPATIENT})
        self._consumer.assign(
            [
                TopicPartition(topic, number, OFFSET_END)
                for topic, count in partitions.items()
                for number in range(count)
            ]
        )
        self._times: dict[Place, list[float]] = {}
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._consumer.close()

    def run(self) -> None:
        from confluent_kafka import KafkaException

        while not self._over.is_set():
            with suppress(KafkaException):
                answers = self._consumer.consume(num_messages=500, timeout=0.1)
                now = time.monotonic()
                for answer in answers:
                    if answer.error() is None:
                        place = (answer.topic() or "", answer.partition() or 0)
                        self._times.setdefault(place, []).append(now)

    def steady(self, topic: str, *, within_s: float = 1.5) -> list[Place]:
        """Partitions of a topic where something arrived a moment ago, and before."""
        now = time.monotonic()
        return sorted(
            place
            for place, times in list(self._times.items())
            if place[0] == topic and len(times) > 5 and now - times[-1] < within_s
        )

    def gap(self, place: Place, since: float, until: float) -> float:
        """The longest time without a message between two moments."""
        times = [since, *(at for at in list(self._times.get(place, ())) if since < at < until), until]
        return max(later - earlier for earlier, later in pairwise(times))

    def gaps(self, places: Iterable[Place], since: float, until: float) -> dict[Place, float]:
        """The same of several partitions."""
        return {place: self.gap(place, since, until) for place in places}


def load() -> str:
    """How busy the machine is, for the line of a figure."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
