"""What a shipper tells people and machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from rlhf_audit_producers.shipper_trouble import blame_of
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_trail.ship_report import ShipReport
from shipping import Brokers, Clock, parcel, shipper
from spooling import withdrawals, writer

RIGHTS, UNREACHABLE = blame_of(29), blame_of(-187)


def test_trouble_is_said_once_with_advice_then_every_minute_and_that_it_is_over() -> None:
    said: list[str] = []
    clock = Clock()
    report = ShipReport(said.append, clock)
    for _ in range(100):
        report.trouble(RIGHTS, "lab.audit.gradients")
        clock.now += 1.0
    assert len(said) == 2
    assert "WRITE and DESCRIBE" in said[0]
    assert said[0].startswith("lab.audit.gradients: ")
    report.acknowledged(parcel(("annotations", 0), 1))
    assert report.explanation, "another stream that goes on is no cure"
    report.acknowledged(parcel(("gradients", 0), 1))
    assert (said[-1], report.explanation) == ("lab.audit.gradients: shipping again", "")


def test_brokers_that_answer_again_end_the_trouble_with_all_of_them() -> None:
    said: list[str] = []
    report = ShipReport(said.append, Clock())
    report.trouble(UNREACHABLE, "")
    report.acknowledged(parcel(("lifecycle", 0), 1))
    assert said == [f"brokers: {UNREACHABLE.text}", "brokers: shipping again"]


def test_metrics_count_what_was_acknowledged_and_what_waits(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    queue.put(withdrawals(0, 5))
    spool.close("finished")
    clock, health = Clock(), WorkerHealth("ship")
    report = ShipReport(lambda text: None, clock, health=health, measure=lambda: 1234)
    brokers = Brokers(lambda *_: "refuse")
    one = shipper(tmp_path, brokers, clock=clock)
    one.queue._on_acknowledged = report.acknowledged
    one.queue._on_trouble = report.trouble
    for _ in range(10):
        one.turn()
        report.turned(one)
        clock.now += 1.0
    text = health.exposition().decode()
    assert "rlhf_audit_spool_bytes 1234.0" in text
    assert 'rlhf_audit_ship_errors_total{reason="rights"}' in text
    assert float(text.split("rlhf_audit_spool_oldest_seconds ")[-1].split()[0]) > 5
    assert health.unready() is not None
    brokers.answer = lambda *_: "ok"
    clock.now += 100
    while one.turn():
        report.turned(one)
        clock.now += 1.0
    report.turned(one)
    text = health.exposition().decode()
    shipped = sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("rlhf_audit_shipped_records_total{")
    )
    assert shipped == report.records == len(brokers.values)
    assert report.bytes_shipped == sum(len(value) for log in brokers.topics.values() for value in log)
    assert (health.unready(), "rlhf_audit_spool_oldest_seconds 0.0" in text) == (None, True)


def test_a_line_for_a_person_comes_every_few_seconds(tmp_path: Path) -> None:
    said: list[str] = []
    clock = Clock()
    report = ShipReport(said.append, clock, is_shown=True)
    one = shipper(tmp_path, Brokers(), clock=clock)
    for number in range(100):
        report.acknowledged(parcel(("annotations", 0), number))
        report.turned(one)
        clock.now += 0.1
    assert 2 <= len(said) <= 5
    assert said[-1].startswith("shipped ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("_AUTHENTICATION", "password"),
        ("SASL_AUTHENTICATION_FAILED", "password"),
        ("UNSUPPORTED_SASL_MECHANISM", "password"),
        ("TOPIC_AUTHORIZATION_FAILED", "rights"),
        ("CLUSTER_AUTHORIZATION_FAILED", "rights"),
        ("UNKNOWN_TOPIC_OR_PART", "no_topic"),
        ("_UNKNOWN_TOPIC", "no_topic"),
        ("_UNKNOWN_PARTITION", "no_topic"),
        ("MSG_SIZE_TOO_LARGE", "too_large"),
        ("RECORD_LIST_TOO_LARGE", "too_large"),
        ("_TRANSPORT", "unreachable"),
        ("_ALL_BROKERS_DOWN", "unreachable"),
        ("_RESOLVE", "unreachable"),
        ("_SSL", "tls"),
        ("_MSG_TIMED_OUT", "timeout"),
        ("_TIMED_OUT", "timeout"),
        ("_TIMED_OUT_QUEUE", "timeout"),
        ("REQUEST_TIMED_OUT", "timeout"),
        ("NOT_ENOUGH_REPLICAS", "timeout"),
        ("NOT_ENOUGH_REPLICAS_AFTER_APPEND", "timeout"),
        ("INVALID_RECORD", "other"),
    ],
)
def test_the_numbers_are_those_of_the_client(name: str, reason: str) -> None:
    assert blame_of(getattr(KafkaError, name)).reason == reason
    assert not blame_of(getattr(KafkaError, name)).is_collateral


@pytest.mark.parametrize("name", ["_FATAL", "_GAPLESS_GUARANTEE", "_PURGE_QUEUE", "_PURGE_INFLIGHT"])
def test_what_fails_because_another_one_did_is_blamed_on_nobody(name: str) -> None:
    assert blame_of(getattr(KafkaError, name)).is_collateral
