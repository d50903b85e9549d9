"""A vault in another folder, a state folder that cannot be written to, a trail that is read-only, a copy that lags."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from query_copies import annotation, require_chdb, write_trail
from rlhf_audit_trail import cli, query_ask

pytestmark = pytest.mark.filterwarnings("default")  # what the engine warns of is not ours


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLHF_AUDIT_STATE", str(tmp_path / "state"))
    write_trail(tmp_path / "trail", [[annotation(n) for n in range(3)]])
    return tmp_path / "trail"


def test_a_vault_elsewhere_is_found_by_environment_and_by_the_report(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_chdb()
    (trail / "vault").rename(trail.parent / "elsewhere")
    (trail / "config.toml").write_text('vault_dir = "../elsewhere"\n', encoding="utf-8")
    assert cli.main(["verify", str(trail)]) == 3
    assert "--vault says where it lies" in capsys.readouterr().out
    assert cli.main(["verify", str(trail), "--vault", str(trail.parent / "elsewhere")]) == 0
    assert cli.main(["report", str(trail)]) == 0
    assert next(trail.glob("report*.html")).stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("RLHF_AUDIT_VAULT_DIR", "../elsewhere")
    assert cli.main(["verify", str(trail)]) == 0


def test_ingest_prints_the_command_that_checks_the_trail_wherever_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trail, file = tmp_path / "my trail", tmp_path / "rows.csv"
    file.write_text("item,annotator,score\na,b,1\n", encoding="utf-8")
    trail.mkdir()
    (trail / "config.toml").write_text('vault_dir = "../elsewhere"\nclickhouse = "off"\n', encoding="utf-8")
    assert cli.main(["ingest", str(file), "--out", str(trail)]) == 0
    out = capsys.readouterr().out
    assert f"rlhf-audit verify '{trail}' --vault '{trail}/../elsewhere'" in out


def test_a_trail_that_ingest_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("item,annotator,score\na,b,1\n", encoding="utf-8")
    before = os.umask(0o022)
    try:
        assert cli.main(["ingest", str(file), "--out", str(tmp_path / "new" / "trail")]) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "trail").stat().st_mode & 0o777 == 0o700


def test_a_check_whose_result_cannot_be_remembered_says_so_and_holds(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLHF_AUDIT_STATE", "/proc/nowhere")
    assert cli.main(["verify", str(trail), "--json"]) == 0
    assert "not remembered" in json.dumps(json.loads(capsys.readouterr().out)["notes"])


def test_an_answer_of_a_copy_that_lags_says_so(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_chdb()
    monkeypatch.setattr(query_ask, "_bring_up", lambda *_: None)
    from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
    from rlhf_audit_sinks.clickhouse.migrations import migrate

    engine = EmbeddedEngine(trail)
    client = engine.client()
    migrate(client)
    client.close()
    engine.close()
    assert cli.main(["sql", str(trail), "SELECT count() FROM annotation", "--json"]) == 0
    assert "the query copy is 1 window behind the evidence" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main(["sql", str(trail), "SELECT count() FROM annotation", "--json"]) == 0
    assert "behind" not in capsys.readouterr().err
