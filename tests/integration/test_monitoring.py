"""Dashboard and alerts against a real Prometheus that scrapes real workers: a fine world, and a broken one."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import DEPLOY, Prometheus, program, running_prometheus
from rlhf_audit_stores.health import Role, WorkerHealth

pytestmark = pytest.mark.service

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
QUERIES = [
    (panel["title"], target["expr"])
    for panel in json.loads((DEPLOY / "grafana/dashboards/pipeline.json").read_text(encoding="utf-8"))["panels"]
    for target in panel.get("targets", [])
]
MACROS = {"$__rate_interval": "10s", "$__interval": "1s", "$stream": ".*"}
STREAMS = ("annotations", "lifecycle")
SINKS = ("objects", "clickhouse")
_WAIT_SECONDS = 30


class World:
    """Five workers behind their pages; ``turn`` is a second of their life."""

    def __init__(self, *, is_fine: bool) -> None:
        self.is_fine = is_fine
        now: Callable[[], float] = time.time if is_fine else lambda: time.time() - 1_000
        roles: tuple[tuple[str, Role], ...] = (
            ("audit-ship", "ship"),
            ("audit-seal", "seal"),
            ("audit-sink-objects", "sink"),
            ("audit-sink-clickhouse", "sink"),
            ("audit-sequence", "sequence"),
        )
        self.workers = {job: WorkerHealth(role, now=now) for job, role in roles}
        for worker in self.workers.values():
            worker.ready(is_fine, "" if is_fine else "brokers do not answer")
        self.turn()

    def turn(self) -> None:
        bad = 0 if self.is_fine else 1
        ship, seal, sequence = (self.workers[f"audit-{role}"] for role in ("ship", "seal", "sequence"))
        for stream in STREAMS:
            ship.shipped_records.labels(stream).inc(10)
            ship.shipped_bytes.labels(stream).inc(10_000)
            seal.sealed_messages.labels(stream, "0", "accepted").inc(10)
            seal.sealed_events.labels(stream, "0").inc(1_000)
            seal.seal_lag_messages.labels(stream, "0").set(3 + 20_000 * bad)
            seal.window_age_seconds.labels(stream, "0").set(4 + 200 * bad)
        ship.spool_bytes.set(70_000)
        ship.spool_oldest_seconds.set(1 + 500 * bad)
        for sink in SINKS:
            health = self.workers[f"audit-sink-{sink}"]
            health.sink_windows.labels(sink, "annotations", "0").inc()
            health.sink_events.labels(sink, "annotations", "0").inc(1_000)
            health.sink_lag_messages.labels(sink, "annotations", "0").set(2 + 20_000 * bad)
            health.sink_paused.labels(sink).set(bad)
            health.sink_duplicates.labels(sink).inc(0)
            if bad:
                health.sink_lag_messages.labels(sink, "annotations", "1").set(5)
        sequence.global_size.set(40)
        sequence.global_published_timestamp_seconds.set(time.time() - 1 - 900 * bad)
        if bad:
            ship.ship_errors.labels("_MSG_TIMED_OUT").inc(100)
            seal.sealed_messages.labels("annotations", "0", "quarantined").inc()
            seal.seal_lag_messages.labels("annotations", "1").set(5)
            self.workers["audit-sink-objects"].forks.labels("sink").inc()
        for worker in self.workers.values():
            worker.alive()


def scraped(place: Path, world: World) -> Iterator[Prometheus]:
    """Prometheus once it has seen enough turns of the world for a rate."""
    with ExitStack() as stack:
        jobs = {}
        for job, worker in world.workers.items():
            server = stack.enter_context(worker.serve())
            jobs[job] = [f"{server.host}:{server.port}"]
        if not world.is_fine:
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                jobs["audit-ship"].append(f"127.0.0.1:{closed.getsockname()[1]}")  # nobody will listen there
            jobs["stray"] = jobs.pop("audit-sequence")  # the role goes missing, its metrics stay
        prometheus = stack.enter_context(running_prometheus(place, jobs))
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            world.turn()
            seen = prometheus.now("min(count_over_time(rlhf_audit_worker_ready[1m]))")
            if seen and float(seen[0]["value"][1]) >= 5:
                break
            assert time.monotonic() < deadline, f"not scraped in {_WAIT_SECONDS} s: {seen}"
            time.sleep(0.25)
        yield prometheus


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    yield from scraped(tmp_path_factory.mktemp("fine"), World(is_fine=True))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    yield from scraped(tmp_path_factory.mktemp("broken"), World(is_fine=False))


def expanded(expr: str) -> str:
    for macro, value in MACROS.items():
        expr = expr.replace(macro, value)
    assert "$" not in expr, "a macro of Grafana that this test does not know"
    return expr


@pytest.mark.parametrize(("title", "expr"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_panel_shows_numbers_when_all_is_well(fine: Prometheus, title: str, expr: str) -> None:
    assert fine.numbers(expanded(expr)), f"{title}: no data"


@pytest.mark.parametrize("expr", [expr for title, expr in QUERIES if title.startswith(("Forks", "Failed", "Outcomes"))])
def test_the_panels_of_errors_rise_above_zero_when_there_are_some(
    fine: Prometheus, broken: Prometheus, expr: str
) -> None:
    assert max(fine.numbers(expanded(expr))) == 0
    assert max(broken.numbers(expanded(expr))) > 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_holds_in_the_broken_world_and_in_no_other(
    fine: Prometheus, broken: Prometheus, rule: dict[str, Any]
) -> None:
    assert fine.now(rule["expr"]) == []
    assert broken.now(rule["expr"]) != []


def test_prometheus_evaluates_the_rules_without_error_and_fires_the_ones_without_delay(broken: Prometheus) -> None:
    rules = [rule for group in broken.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys((rule["alert"] for rule in RULES), "ok")
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing == {rule["alert"] for rule in RULES if "for" not in rule}


def test_promtool_and_amtool_accept_the_configuration() -> None:
    for command in (
        [program("promtool"), "check", "config", str(DEPLOY / "prometheus/prometheus.yml")],
        [program("promtool"), "check", "rules", str(DEPLOY / "prometheus/alerts.yml")],
        [program("amtool"), "check-config", str(DEPLOY / "alertmanager/alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_alertmanager_sends_an_alert_to_the_receiver_of_its_severity(severity: str) -> None:
    config = DEPLOY / "alertmanager/alertmanager.yml"
    done = subprocess.run(
        [program("amtool"), "config", "routes", "test", f"--config.file={config}", f"severity={severity}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{severity}\n")


def test_the_alerts_pass_their_own_tests() -> None:
    done = subprocess.run(
        [program("promtool"), "test", "rules", "alerts_test.yml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ["ship", "seal", "sink", "sequence"])
def test_promtool_finds_nothing_to_blame_in_the_exposition(role: Role) -> None:
    text = WorkerHealth(role).exposition()
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
