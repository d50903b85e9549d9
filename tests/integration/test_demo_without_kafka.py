"""``rlhf-audit demo --kafka`` where Kafka cannot be: said at once, and nothing was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_audit_trail.cli import main

pytest.importorskip("faust")


def test_without_java_the_demo_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert main(["demo", "--kafka", "--out", str(tmp_path / "demo")]) == 3
    said = capsys.readouterr().err
    assert "no Java here" in said
    assert "apt-get install" in said
    assert not (tmp_path / "demo").exists()


def test_without_maven_and_jars_the_demo_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n", encoding="ascii")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["demo", "--kafka", "--out", str(tmp_path / "demo")]) == 3
    assert "no Maven here" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("brokers", ["", "somewhere", "a:b", 'a:1"', "a:1,,b:2"])
def test_brokers_that_cannot_be_are_a_wrong_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], brokers: str
) -> None:
    assert main(["demo", "--brokers", brokers, "--out", str(tmp_path / "demo")]) == 2
    assert "host:port" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
