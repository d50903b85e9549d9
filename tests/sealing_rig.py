"""A ledger on real brokers for tests of the sealer: topics, producers of batches, poison, workers, and the judge.

The judge is the local loop: the source log as it stands in Kafka, read by the plain reader, sealed by ``SealLoop`` in
this process, must give the sealed topic byte for byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.batch import NO_BATCH, BatchBody, encode_batch
from rlhf_audit_ledger.control import ControlType, Tick, signed_control
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealer
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_ledger.state import first_state
from rlhf_audit_processors.kafka.sealed_topic import as_sealed
from rlhf_audit_processors.seal_loop import SealLoop
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import TopicFacts, admin_client, read_topic_facts, sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import strip_header, with_header
from rlhf_audit_stores.keys import load_keys
from rlhf_audit_trail.local import LocalTrail

STREAM = "annotations"


@dataclass
class Listed:
    """A source log in memory."""

    source_id: bytes
    messages: Sequence[SourceMessage]

    @property
    def next_offset(self) -> int:
        return self.messages[-1].offset + 1 if self.messages else 0

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        return (message for message in self.messages if message.offset >= offset)


@dataclass
class Kept:
    """A sealed log in memory."""

    records: list[bytes] = field(default_factory=list)

    def append(self, records: Sequence[bytes]) -> None:
        self.records += records

    def sync(self) -> None:
        """In memory."""


class Rig:
    """A trail in a folder with its topics; its genesis has windows of ``window_seconds``."""

    def __init__(self, directory: Path, kafka: KafkaSettings, *, window_seconds: int = 1, replicas: int = 1) -> None:
        self.directory, self.kafka = directory, kafka
        with LocalTrail(directory, window_seconds=window_seconds) as trail:
            self.ledger = trail.ledger
            self.counts = dict(trail.partitions)
        self.keys = load_keys(directory / "keys")
        self._make_topics(replicas)
        from confluent_kafka import Producer

        self.producer = Producer({**kafka.producer_config(), "linger.ms": 1})
        self._write_first_ticks()
        self._lanes: dict[tuple[str, int], tuple[int, bytes]] = {}

    def topic(self, stream: str = STREAM) -> str:
        return source_topic(self.kafka.topic_prefix, stream)

    def _make_topics(self, replicas: int) -> None:
        from confluent_kafka.admin import NewTopic

        config = {"max.message.bytes": "4000000", "message.timestamp.after.max.ms": str(2**63 - 1)}
        names = {
            name(self.kafka.topic_prefix, stream): count
            for stream, count in self.counts.items()
            for name in (source_topic, sealed_topic)
        }
        client, _ = admin_client(self.kafka)
        made = client.create_topics([NewTopic(name, count, replicas, config=config) for name, count in names.items()])
        for future in made.values():
            future.result(timeout=30)
        self.facts: Mapping[str, TopicFacts] = poll(lambda: self._facts_of_all(names), what="topics on every broker")

    def _facts_of_all(self, names: Mapping[str, int]) -> Mapping[str, TopicFacts] | None:
        facts = read_topic_facts(self.kafka, names)
        return facts if len(facts) == len(names) else None

    def source_id(self, stream: str = STREAM) -> bytes:
        return self.facts[self.topic(stream)].source_id

    def _write_first_ticks(self) -> None:
        now_us = time.time_ns() // 1000
        for stream, count in self.counts.items():
            window_us = self.ledger.genesis.stream(stream).window_us
            for partition in range(count):
                tick = Tick(
                    ledger_id=self.ledger.ledger_id,
                    source_id=self.source_id(stream),
                    stream=stream,
                    partition=partition,
                    counter=1,
                    number=now_us // window_us,
                    ts_us=now_us,
                    flush=False,
                    global_size=2,
                    global_root=bytes(32),
                )
                self.send(signed_control(ControlType.TICK, tick.encode(), self.keys.ticker), partition, stream=stream)
        self.flush()

    def send(
        self, value: bytes | None, partition: int, *, stream: str = STREAM, timestamp_ms: int | None = None
    ) -> None:
        """Put a message in line, exactly as it is."""
        more: dict[str, Any] = {} if timestamp_ms is None else {"timestamp": timestamp_ms}
        while True:
            try:
                self.producer.produce(self.topic(stream), value=value, partition=partition, **more)
            except BufferError:
                self.producer.poll(0.1)
            else:
                return

    def flush(self) -> None:
        assert self.producer.flush(60) == 0

    def batch(
        self, producer: str, partition: int, count: int, *, size: int = 40, ledger_id: bytes | None = None
    ) -> bytes:
        """The next batch of a producer's lane, as a source value without header."""
        first, previous = self._lanes.get((producer, partition), (0, NO_BATCH))
        signer = SeedSigner(producer.encode().ljust(32, b".")[:32])
        events = tuple(b"%s %d " % (producer.encode(), first + n) + bytes(size) for n in range(count))
        body = BatchBody(
            ledger_id=self.ledger.ledger_id if ledger_id is None else ledger_id,
            producer=producer,
            epoch=0,
            stream=STREAM,
            partition=partition,
            first_seq=first,
            kind=KINDS["annotation"].number,
            schema=KINDS["annotation"].schema,
            prev_batch=previous,
            open_key=signer.public_key if first == 0 else None,
            enrolment=None,
            final=False,
            events=events,
        )
        batch = encode_batch(body, signer)
        if ledger_id is None:
            self._lanes[producer, partition] = (first + count, batch.digest)
        return batch.value

    def send_batches(self, count: int, *, events: int = 5, partitions: Sequence[int] = (0, 1, 2, 3)) -> None:
        """``count`` batches for each partition, of two producers in turn, behind a wire header."""
        for number in range(count):
            for partition in partitions:
                value = self.batch(f"run/{number % 2}", partition, events)
                self.send(with_header(value, record="EventBatch"), partition)

    def send_poison(self, partition: int) -> None:
        """What anybody may send; behind it a batch that is right."""
        good = self.batch("poison/0", partition, 3)
        self.send(good, partition)
        self.send(b"\x07 no message of ours \xff", partition)
        self.send(good[: len(good) // 2], partition)
        self.send(b"", partition)
        self.send(None, partition)
        self.send(b"\x00\x00\x00\xff\xff" + good, partition)  # a schema id that no registry knows
        self.send(self.batch("foreign/0", partition, 2, ledger_id=bytes(16)), partition)
        self.send(good, partition, timestamp_ms=0)
        self.send(self.batch("poison/0", partition, 2), partition, timestamp_ms=1)  # 1970
        self.send(self.batch("poison/0", partition, 2), partition, timestamp_ms=4_102_444_800_000)  # 2100
        self.send(None, partition)
        self.send(None, partition)
        self.send(self.batch("poison/0", partition, 1), partition)

    # --- looking

    def source(self, partition: int, stream: str = STREAM) -> list[SourceMessage]:
        """Everything in a source partition, as the seal step sees it."""
        with PartitionTail(self.kafka, self.topic(stream), partition) as tail:
            return [as_sealed(message) for message in tail.read(*tail.watermarks())]

    def sealed(self, partition: int, stream: str = STREAM, *, last: int | None = None) -> list[bytes]:
        """Everything in a sealed partition (or its last records), without wire headers, duplicates included."""
        with PartitionTail(self.kafka, sealed_topic(self.kafka.topic_prefix, stream), partition) as tail:
            low, high = tail.watermarks()
            first = low if last is None else max(low, high - last)
            return [strip_header(message.value or b"") for message in tail.read(first, high)]

    def sealed_end(self, partition: int, stream: str = STREAM) -> int:
        """Offset that the sealed partition's next record will get."""
        with PartitionTail(self.kafka, sealed_topic(self.kafka.topic_prefix, stream), partition) as tail:
            return tail.watermarks()[1]

    def sealer(self, partition: int, stream: str = STREAM) -> Sealer:
        settings = partition_settings(self.ledger.genesis_bytes, stream, partition)
        return Sealer(settings, self.keys.quarantine_key, self.keys.log)

    def sealed_locally(self, partition: int, stream: str = STREAM) -> list[bytes]:
        """The recorded source log through the loop of the one-process runtime."""
        log, kept = Listed(self.source_id(stream), self.source(partition, stream)), Kept()
        sealer = self.sealer(partition, stream)
        loop = SealLoop(sealer, first_state(sealer.settings, log.source_id), log, kept)
        for _ in loop.run():
            pass
        return kept.records

    def wait_until_sealed(self, partitions: Sequence[int] = (0, 1, 2, 3), timeout_s: float = 40.0) -> None:
        """Until the last message of each source partition has its record."""
        deadline = time.monotonic() + timeout_s
        for partition in partitions:
            while True:
                with PartitionTail(self.kafka, self.topic(), partition) as tail:
                    end = tail.watermarks()[1]
                sealed = header_ends(self.sealed(partition, last=300))
                if sealed and max(sealed) >= end:
                    break
                assert time.monotonic() < deadline, f"partition {partition}: {sealed[-1:]} of {end} sealed"
                time.sleep(0.1)

    def judge(self, partitions: Sequence[int] = (0, 1, 2, 3)) -> int:
        """The sealed topic is what the local loop makes of the source; returns how many records stand there twice."""
        twice = 0
        for partition in partitions:
            expected, deadline = self.sealed_locally(partition), time.monotonic() + 30.0
            while True:  # a sealer at work may have written a tick meanwhile
                found = self.sealed(partition)
                once = list(dict.fromkeys(found))
                if len(once) >= len(expected) or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            assert len(once) >= len(expected), (partition, len(found), len(once), len(expected))
            assert once[: len(expected)] == expected
            twice += len(found) - len(once)
        return twice

    def command(self, *words: str) -> list[str]:
        """Words of ``rlhf-audit seal`` for this trail."""
        return [
            "seal",
            str(self.directory),
            *("--brokers", self.kafka.brokers),
            *("--topic-prefix", self.kafka.topic_prefix),
            *words,
        ]


def header_ends(records: Sequence[bytes]) -> list[int]:
    """Source offset behind each record."""
    headers = [SealHeader.decode(SealedRecord.decode(record).header) for record in records]
    return [header.offset + 1 if header.end_offset is None else header.end_offset for header in headers]


def poll(check: Callable[[], Any], timeout_s: float = 20.0, what: str = "it") -> Any:
    """The first true answer; asked until the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.05)
    return found


def random_bytes(count: int) -> bytes:
    return os.urandom(count)
