"""Fifty times `kill -9` of the runtime while two ranks record 200,000 events, its query copy's process among the dead,
and a rank killed in mid-step: each event sealed once, bytes as a fresh sealing makes them, the ledger says who left
without an end, and ClickHouse holds each event once by a plain count."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chaos.ingest_child import PHASE_BYTES
from crash.resealing import differences
from query_copies import copy_processes, require_chdb
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.settings import load_settings
from spooling import sealed
from verifying import findings_of

EVENTS, PER_SECOND, SEED = 100_000, 2_500, 20261125
KILLS, COPY_KILLS, AMID_INSERTS, LONGEST_LIFE_S = 50, 15, 10, 1.0
PER_GRANT = EVENTS // (KILLS + 2)  # a rank cannot be done before the last kill
AT_WORK_S = 60.0  # until a copy process has caught up with earlier ones and stores, on a machine that does much else
DIES_S = 60.0  # what a copy process that lost its runtime may take to catch up and end
HERE = Path(__file__).parent

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("default")]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "RLHF_AUDIT_WINDOW_SECONDS": "1", "RLHF_AUDIT_CLICKHOUSE": "on"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def grant(rank: subprocess.Popen[str]) -> None:
    assert rank.stdin is not None
    os.write(rank.stdin.fileno(), b".")


def windows_stored(trail: Path) -> int:
    """Windows that copy processes say they stored in ClickHouse."""
    log = trail / "clickhouse" / "process.log"
    return log.read_text(encoding="utf-8").count("window stored") if log.exists() else 0


def inserts(trail: Path) -> set[str]:
    """Inserts into ClickHouse that are under way, or were when their process was killed."""
    folder = trail / "clickhouse" / "tmp"
    return {entry.name for entry in folder.iterdir()} if folder.exists() else set()


def live(child: subprocess.Popen[str], chance: random.Random, trail: Path, *, until_insert: bool) -> None:
    """Let a runtime live for a while; it must not end by itself."""
    before, deadline = inserts(trail), time.monotonic() + AT_WORK_S
    while until_insert and not inserts(trail) - before:
        assert time.monotonic() < deadline, "the query copy inserts nothing"
        time.sleep(0.001)
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=chance.uniform(0.0, 0.1 if until_insert else LONGEST_LIFE_S))
        pytest.fail("the runtime ended although ranks record")


class Sealed:
    """What the ledger of the trail holds, read once."""

    def __init__(self, trail: Path) -> None:
        self.outcomes: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.items: Counter[str] = Counter()
        self.others: dict[str, list[dict[str, Any]]] = {}
        for header, body in sealed(trail):
            self.outcomes.add(header.outcome)
            if body is None or header.outcome not in ("accepted", "gap_filled"):
                continue
            kind = KINDS_BY_NUMBER[body.kind]
            self.counts[kind.name] += len(body.events)
            decoded = map(kind.codec.decode, body.events)
            if kind.name == "annotation":
                self.items.update(event["item"] for event in decoded)
            else:
                self.others.setdefault(kind.name, []).extend(decoded)

    def producers(self, kind: str) -> list[str]:
        return [event["producer"] for event in self.others.get(kind, [])]


def in_clickhouse(trail: Path) -> dict[str, tuple[int, int]]:
    """Table -> count() and how many different places of the ledger its rows name; nothing is brought up to date."""
    from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine

    engine = EmbeddedEngine(trail)
    try:
        client = engine.client()
        tables = client.query(
            "SELECT database, table, countIf(name = 'leaf_index') FROM system.columns "
            "WHERE database IN ('audit', 'audit_restricted') AND table != 'migrations' GROUP BY database, table"
        ).result_rows
        found = {}
        for database, name, has_leaves in tables:
            place = "leaf_index" if has_leaves else {"messages": "m", "windows": "window"}[name]
            query = f"SELECT count(), uniqExact(stream, partition, {place}) FROM {database}.{name}"  # noqa: S608 - ours
            ((count, places),) = client.query(query).result_rows
            found[name] = (count, places)
        client.close()
        return found
    finally:
        engine.close()


def test_fifty_kills_of_the_runtime_lose_no_event_and_double_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_chdb()
    trail, copy, phase = tmp_path / "trail", tmp_path / "copy", tmp_path / "phase"
    ledger_facts(trail, load_settings(trail, environ={"RLHF_AUDIT_WINDOW_SECONDS": "1"}))
    ranks = [start("recording_child.py", trail, rank, EVENTS, PER_SECOND, PER_GRANT) for rank in range(2)]
    victim = start("recording_child.py", trail, 7, EVENTS, PER_SECOND, PER_GRANT)
    chance = random.Random(SEED)  # noqa: S311 - a schedule that can be repeated
    with_copies = chance.sample(range(KILLS), COPY_KILLS)
    amid_inserts = with_copies[:AMID_INSERTS]
    phases: Counter[str] = Counter()
    copies: set[int] = set()
    killed_copies: set[int] = set()
    torn = 0
    for kills in range(KILLS):
        phase.write_bytes(b"starting".ljust(PHASE_BYTES))
        child = start("runtime_child.py", trail, copy, phase)
        while phase.read_bytes().startswith(b"starting"):
            assert child.poll() is None, "the runtime ended although ranks record"
            time.sleep(0.002)
        live(child, chance, trail, until_insert=kills in amid_inserts)
        alive = copy_processes(trail)
        doomed = alive if kills in with_copies else []
        kill(*chance.sample([child.pid, *doomed], 1 + len(doomed)))
        child.communicate()
        copies.update(alive)
        killed_copies.update(doomed)
        torn += bool(doomed and inserts(trail))
        phases[phase.read_bytes().decode().strip()] += 1
        for rank in (*ranks, victim):
            if rank.poll() is None:
                grant(rank)
        if kills == KILLS // 2:
            kill(victim.pid)
            victim.communicate()
    stored_meanwhile = windows_stored(trail)
    phase.write_bytes(b"last".ljust(PHASE_BYTES))
    last = start("runtime_child.py", trail, copy, phase)
    for process in ranks:
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert last.communicate(timeout=300)[0].strip() == "ran"
    deadline = time.monotonic() + DIES_S
    while left := copy_processes(trail):
        assert time.monotonic() < deadline, f"copy processes without a runtime: {left}"
        time.sleep(0.05)
    hit = "".join(f"  {count:3} {name}\n" for name, count in phases.most_common())
    with capsys.disabled():
        sys.stdout.write(
            f"\nkill -9 of the runtime, seed {SEED}: {KILLS} kills; phases hit:\n{hit}"
            f"  {len(killed_copies)} of {len(copies)} copy processes killed, {torn} times amid an insert, the others "
            f"ended by themselves; {stored_meanwhile} windows stored in ClickHouse between the kills\n"
        )
    found = Sealed(trail)
    assert max(found.items.values()) == 1
    for number in range(2):
        assert sum(item.startswith(f"{number}-") for item in found.items) == EVENTS
    of_victim = sorted(int(item.removeprefix("7-")) for item in found.items if item.startswith("7-"))
    assert 0 < len(of_victim) < EVENTS
    assert of_victim == list(range(len(of_victim)))
    assert found.outcomes == {"accepted"}
    assert found.producers("producer_lost") == ["chaos/7"]
    assert {"chaos/0", "chaos/1"} <= set(found.producers("producer_end"))
    assert "chaos/7" not in found.producers("producer_end")
    assert differences(trail, copy) == []
    assert findings_of(trail) == []
    rows = in_clickhouse(trail)
    assert {name: found for name, found in rows.items() if len(set(found)) > 1} == {}, "rows that are there twice"
    assert rows.pop("windows")[0] == sum(1 for _ in (trail / "objects" / "segments").rglob("*.avro"))
    assert rows.pop("messages")[0] > 0
    assert {name: count for name, (count, _) in rows.items() if count} == dict(found.counts)
    assert torn > 0
    assert len(killed_copies) > COPY_KILLS // 2
    assert copies - killed_copies
