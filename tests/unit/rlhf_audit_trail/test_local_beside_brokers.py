"""``rlhf-audit local`` where the records go to Kafka: refused, with what to do instead; nothing is founded."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_audit_trail.cli import main


@pytest.mark.parametrize("flags", [[], ["--until-idle"]])
def test_local_refuses_where_the_config_names_brokers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    (tmp_path / "config.toml").write_text('brokers = "127.0.0.1:9"\n', encoding="utf-8")
    assert main(["local", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert "rlhf-audit ship" in said
    assert "topics apply --continue" in said
    assert str(tmp_path / "config.toml") in said
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


def test_local_refuses_where_the_environment_names_brokers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_AUDIT_BROKERS", "127.0.0.1:9")
    assert main(["local", str(tmp_path)]) == 2
    assert "RLHF_AUDIT_BROKERS" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
