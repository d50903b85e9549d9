"""A trail whose spools are shipped by a process of its own, and what stands in the topics afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_audit_ledger.batch import BatchBody, batch_digest, open_envelope
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import KINDS, KINDS_BY_NUMBER
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import admin_client, source_topic
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.runtime_start import python_path
from rlhf_audit_trail.settings import load_settings


def found(trail: Path) -> LedgerFacts:
    """A ledger in ``trail``, and what producers need of it."""
    return ledger_facts(trail, load_settings(trail, environ={}))


def make_topics(
    settings: KafkaSettings, partitions: Mapping[str, int], config: Mapping[str, str] | None = None
) -> None:
    """The source topics, as many replicas as brokers."""
    from confluent_kafka.cimpl import NewTopic

    client, _ = admin_client(settings)
    brokers = len(client.describe_cluster(request_timeout=30).result(timeout=31).nodes)
    topics = [
        NewTopic(source_topic(settings.topic_prefix, stream), count, brokers, config=dict(config or {}))
        for stream, count in partitions.items()
    ]
    for answer in client.create_topics(topics, request_timeout=30).values():
        answer.result(timeout=31)


def flags(settings: KafkaSettings) -> list[str]:
    """The settings as a command's flags."""
    given = {
        "brokers": settings.brokers,
        "topic-prefix": settings.topic_prefix,
        "kafka-security-protocol": settings.security_protocol,
        "kafka-sasl-mechanism": settings.sasl_mechanism,
        "kafka-username": settings.username,
        "kafka-password-file": settings.password_file,
        "kafka-ca-file": settings.ca_file,
    }
    return [part for name, value in given.items() if value for part in (f"--{name}", str(value))]


def ship(
    trail: Path, settings: KafkaSettings, *more: str, command: tuple[str, ...] = ("ship",)
) -> subprocess.Popen[str]:
    """``rlhf-audit ship``, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_audit_trail", "-v", *command, str(trail), *more, *flags(settings)],
        env={"PYTHONPATH": python_path(), "PATH": "/usr/bin:/bin", "RLHF_AUDIT_DEBUG": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[str], timeout_s: float = 90.0) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a process that ends by itself."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not end within {timeout_s} s:\n{err}") from None
    return process.returncode, out, err


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.02)


@dataclass
class Topics:
    """Everything in the source topics; ``repeats`` are messages that stand there again, byte for byte."""

    batches: dict[tuple[str, int, str, int], list[BatchBody]] = field(default_factory=dict)
    messages: int = 0
    repeats: int = 0
    odd: list[bytes] = field(default_factory=list)

    def events(self, kind: str) -> list[dict[str, object]]:
        codec = KINDS[kind].codec
        return [
            codec.decode(event)
            for lane in self.batches.values()
            for body in lane
            if KINDS_BY_NUMBER[body.kind].name == kind
            for event in body.events
        ]

    def ids(self) -> list[str]:
        return sorted(str(event["annotation_id"]) for event in self.events("withdrawal"))


def read_topics(settings: KafkaSettings, partitions: Mapping[str, int]) -> Topics:
    """Read it all, and check the order of each lane: numbers without holes, each batch naming the one before.

    The first copy of a batch counts; another one under the same numbers with other bytes is an AssertionError.
    """
    topics = Topics()
    for stream, count in partitions.items():
        for partition in range(count):
            seen: dict[tuple[str, int, int, bool], bytes] = {}
            with PartitionTail(settings, source_topic(settings.topic_prefix, stream), partition) as tail:
                first, end = tail.watermarks()
                for message in tail.read(first, end):
                    topics.messages += 1
                    assert message.value is not None
                    value = strip_header(message.value)
                    try:
                        body = BatchBody.decode(open_envelope(value)[0])
                    except FormatError:
                        topics.odd.append(value)
                        continue
                    assert (body.stream, body.partition) == (stream, partition), "a batch in a foreign partition"
                    key = (body.producer, body.epoch, body.first_seq, body.final)
                    if key in seen:
                        assert seen[key] == value, "two contents under the same numbers"
                        topics.repeats += 1
                        continue
                    seen[key] = value
                    lane = topics.batches.setdefault((body.producer, body.epoch, stream, partition), [])
                    if lane:
                        assert body.first_seq == lane[-1].first_seq + len(lane[-1].events), "a hole in a lane"
                        assert body.prev_batch == batch_digest(lane[-1].encode()), "a lane out of order"
                    else:
                        assert body.first_seq == 0
                    lane.append(body)
    return topics
