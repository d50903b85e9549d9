"""``ship`` and ``spool`` without brokers: what they say when something is missing, and what lies in the spools."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_audit_producers.spool_lock import acquire_drain
from rlhf_audit_trail import runtime_start
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.settings import load_settings
from shipping import Brokers, Clock, shipper
from spooling import withdrawals, writer


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RLHF_AUDIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """A rank that has ended."""
    facts = ledger_facts(tmp_path, load_settings(tmp_path, environ={}))
    spool, queue = writer(tmp_path, facts=facts)
    spool.open()
    queue.put(withdrawals(0, 5))
    spool.close("finished")
    return tmp_path


@pytest.fixture
def living(trail: Path) -> Iterator[None]:
    """A rank that holds its lock."""
    spool, _ = writer(trail, producer="run/8")
    spool.open()
    yield
    spool.abandon()


def test_without_brokers_it_says_where_to_name_them(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ship", str(trail), "--drain"]) == 2
    assert "--brokers" in capsys.readouterr().err


def test_without_a_ledger_it_says_how_to_bring_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ship", str(tmp_path), "--brokers", "127.0.0.1:1", "--drain"]) == 3
    assert "holds no ledger yet" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon", "1e9"])
def test_a_bound_that_is_none_is_refused(seconds: str, trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ship", str(trail), "--drain-seconds", seconds])
    assert caught.value.code == 2
    assert "--drain-seconds" in capsys.readouterr().err


def test_status_tells_who_records_and_what_waits(trail: Path, living: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spool", "status", str(trail)]) == 0
    before = capsys.readouterr().out
    assert "nobody at the moment" in before
    assert "run/8 epoch 0  records" in before
    assert "run/0 epoch 0  gone" in before
    lock = acquire_drain(trail / "spool")
    assert lock is not None
    clock = Clock()
    one = shipper(trail, Brokers(), clock=clock)
    for _ in range(100):
        one.turn()
        clock.now += 0.3
    one.close()
    assert main(["spool", "status", str(trail), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["shipping"], state["refused"]) == (True, 0)
    left = {each["producer"]: (each["records"], each["is_alive"]) for each in state["spools"]}
    assert left == {"run/8": (0, True)}
    lock.release()


def test_adopt_leaves_alone_what_somebody_records_into(
    trail: Path, living: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spool", "adopt", str(trail), "--brokers", "127.0.0.1:1"]) == 2
    assert "run/8 still record here" in capsys.readouterr().err
    assert main(["spool", "adopt", str(tmp_path / "nowhere")]) == 2
    assert "holds no spool/ folder" in capsys.readouterr().err


def test_a_training_starts_the_shipper_where_brokers_are_named_and_the_runtime_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = runtime_start.runtime_command
    assert command(tmp_path) == "local"
    assert command(tmp_path, brokers="k:9092") == "ship"
    assert command(tmp_path, brokers="") == "local"
    monkeypatch.setenv("RLHF_AUDIT_BROKERS", "k:9092")
    assert command(tmp_path) == "ship"
    monkeypatch.delenv("RLHF_AUDIT_BROKERS")
    (tmp_path / "config.toml").write_text('brokers = "k:9092"\n', encoding="utf-8")
    assert command(tmp_path) == "ship"
    (tmp_path / "config.toml").write_text("brokers = 9\n", encoding="utf-8")
    assert command(tmp_path) == "local", "whose log says what is wrong"
