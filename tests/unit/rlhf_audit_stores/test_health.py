"""A worker's own word: only its role's metrics, a stall is noticed, and a reason is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from rlhf_audit_stores.health import PREFIX, SPECS, Role, WorkerHealth

ROLES: tuple[Role, ...] = ("ship", "seal", "sink", "sequence")
NOTE = Path(__file__).parents[3] / "docs/design/0004-kafka.md"


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


def exposed(health: WorkerHealth) -> set[str]:
    families = text_string_to_metric_families(health.exposition().decode())
    return {family.name for family in families if family.name.startswith(PREFIX)}


@pytest.mark.parametrize("role", ROLES)
def test_a_worker_has_the_metrics_of_its_role_and_no_others(role: Role) -> None:
    health = WorkerHealth(role)
    for name, spec in SPECS.items():
        assert hasattr(health, name) == (role in spec.roles)
    assert exposed(health) <= {PREFIX + name for name, spec in SPECS.items() if role in spec.roles}


def test_every_metric_is_a_typed_attribute() -> None:
    assert set(WorkerHealth.__annotations__) == set(SPECS)
    for name, spec in SPECS.items():
        assert WorkerHealth.__annotations__[name] == spec.kind.__name__


def test_the_table_of_the_design_note_is_what_workers_expose() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (counter|gauge) \|([^|]*)\|", NOTE.read_text(encoding="utf-8"), re.M)
    told = {
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)))
        for names, kind, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert told == {
        (name + ("_total" if spec.kind is Counter else ""), spec.kind.__name__.lower(), spec.labels)
        for name, spec in SPECS.items()
    }


def test_labels_are_places_and_codes_never_people_or_contents() -> None:
    assert {label for spec in SPECS.values() for label in spec.labels} == {
        "stream", "partition", "outcome", "reason", "sink", "where", "role",
    }  # fmt: skip


def test_two_workers_of_one_process_do_not_share_a_registry() -> None:
    one, other = WorkerHealth("sequence"), WorkerHealth("sequence")
    one.global_size.set(7)
    assert "rlhf_audit_global_size 7.0" in one.exposition().decode()
    assert "rlhf_audit_global_size 0.0" in other.exposition().decode()


def test_a_long_or_empty_reason_stays_one_short_line(sealer: WorkerHealth) -> None:
    sealer.ready(False, "x" * 10_000)
    assert sealer.unready() == "x" * 200
    sealer.ready(False)
    assert sealer.unready() == "not ready"


def test_a_worker_that_stops_turning_is_noticed_and_recovers(sealer: WorkerHealth, clock: Clock) -> None:
    sealer.ready(True)
    clock.now += 30
    assert (sealer.stalled(), sealer.unready()) == (None, None)
    clock.now += 1
    assert sealer.stalled() == sealer.unready() == "no turn for 31 s"
    sealer.alive()
    assert (sealer.stalled(), sealer.unready()) == (None, None)
