"""A worker's pages over HTTP on loopback: what a scraper, a supervisor and a stranger are told."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.health import HealthServer, WorkerHealth


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sealer(clock: Clock) -> WorkerHealth:
    return WorkerHealth("seal", stall_seconds=30, monotonic=clock, now=clock)


@pytest.fixture
def server(sealer: WorkerHealth) -> Iterator[HealthServer]:
    with sealer.serve() as server:
        yield server


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_metrics_are_served_in_a_form_prometheus_parses(sealer: WorkerHealth, server: HealthServer) -> None:
    sealer.sealed_messages.labels("annotations", "3", "sealed").inc(5)
    status, text = ask(server, "/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert status == 200
    assert samples["rlhf_audit_sealed_messages_total", "3", "annotations", "sealed"] == 5
    assert samples["rlhf_audit_worker_turn_timestamp_seconds", "seal"] == 1_000
    assert not [name for name, *_ in samples if name.endswith("_created")]
    assert any(name == "process_resident_memory_bytes" for name, *_ in samples)


def test_a_worker_that_stops_turning_is_noticed_and_recovers(
    sealer: WorkerHealth, server: HealthServer, clock: Clock
) -> None:
    assert ask(server, "/healthz") == (200, "ok\n")
    clock.now += 30
    assert ask(server, "/healthz") == (200, "ok\n")
    clock.now += 1
    assert ask(server, "/healthz") == (503, "no turn for 31 s\n")
    sealer.alive()
    assert ask(server, "/healthz") == (200, "ok\n")


def test_a_worker_is_not_ready_until_it_says_so_and_tells_why(sealer: WorkerHealth, server: HealthServer) -> None:
    assert ask(server, "/readyz") == (503, "starting\n")
    sealer.ready(True)
    assert ask(server, "/readyz") == (200, "ok\n")
    sealer.ready(False, "brokers\ndo not answer")
    assert ask(server, "/readyz") == (503, "brokers do not answer\n")
    assert ask(server, "/healthz") == (200, "ok\n")
    assert 'rlhf_audit_worker_ready{role="seal"} 0.0' in sealer.exposition().decode()


def test_a_stalled_worker_is_not_ready_whatever_it_said_last(
    sealer: WorkerHealth, server: HealthServer, clock: Clock
) -> None:
    sealer.ready(True)
    clock.now += 31
    assert ask(server, "/readyz") == (503, "no turn for 31 s\n")


def test_other_pages_and_methods_are_refused_and_head_has_no_body(server: HealthServer) -> None:
    assert ask(server, "/")[0] == 404
    assert ask(server, "/metrics/../secret")[0] == 404
    assert ask(server, "/metrics", "POST")[0] == 501
    assert ask(server, "/metrics", "HEAD") == (200, "")
    assert ask(server, "/healthz?verbose=1")[0] == 200


def test_a_client_that_sends_nothing_does_not_hold_up_the_next(server: HealthServer) -> None:
    with socket.create_connection((server.host, server.port)):
        assert ask(server, "/healthz")[0] == 200


def test_a_taken_port_is_an_error_that_names_the_setting(server: HealthServer) -> None:
    with pytest.raises(ConfigError, match=f"metrics_port: cannot listen on 127.0.0.1:{server.port}"):
        WorkerHealth("ship").serve(server.port)


def test_a_closed_server_lets_its_port_go() -> None:
    health = WorkerHealth("sink")
    server = health.serve()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)
    health.serve(server.port).close()
