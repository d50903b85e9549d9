"""Real brokers for every test in this folder: one for all of them, three or secure ones for those that ask.

Without Java or Maven they skip on a laptop and fail where REQUIRE_SERVICES is
set. Data is thrown away, so the brokers are killed and not stopped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kafka.apicurio import running_registry
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.kafka_jars import KafkaUnavailableError, jars, java


@contextmanager
def throwaway_cluster(directory: Path, **asked: object) -> Iterator[KafkaCluster]:
    """Brokers that are ready; skips the test, aloud, where none can be run."""
    try:
        java()
        jars()
    except KafkaUnavailableError as error:
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail(str(error))
        pytest.skip(f"NO KAFKA HERE: {error}")
    with KafkaCluster(directory, stop_timeout_s=0, **asked) as cluster:  # type: ignore[arg-type]  # passed on as given
        yield cluster


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker for all tests. Whoever stops or kills brokers makes a cluster of its own."""
    with throwaway_cluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker with logins over TLS and rights; users are made by the tests."""
    with throwaway_cluster(tmp_path_factory.mktemp("secure-kafka"), secure=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers that the tests of one file may kill, if they start them again."""
    with throwaway_cluster(tmp_path_factory.mktemp("three"), brokers=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Confluent-compatible Schema Registry for all tests; a test begins by deleting what others left in it."""
    with running_registry(tmp_path_factory.mktemp("apicurio")) as url:
        yield url


@pytest.fixture
def topic_prefix() -> str:
    """No two tests share a topic or a group."""
    return f"t{secrets.token_hex(4)}."


@pytest.fixture
def kafka_settings(kafka: KafkaCluster, topic_prefix: str) -> KafkaSettings:
    """How to reach the one broker, with names of this test alone."""
    return kafka.settings(topic_prefix)
