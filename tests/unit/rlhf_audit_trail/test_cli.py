"""The command line: exit status, what is said where, and what is never said."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, CouldNotCheckError, TamperError, TransportError
from rlhf_audit_trail import cli, commands
from rlhf_audit_trail.commands import config
from rlhf_audit_trail.counting import counted
from rlhf_audit_trail.settings import KEYS


def run_with(monkeypatch: pytest.MonkeyPatch, outcome: int | BaseException) -> int:
    """Run the config command with its work replaced by this outcome."""

    def work(args: argparse.Namespace) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(config, "run", work)
    return cli.main(["config"])


@pytest.mark.parametrize(
    ("outcome", "status", "message"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (ConfigError("x"), 2, "rlhf-audit: x\n"),
        (TamperError("x"), 1, "rlhf-audit: FAILED: x\n"),
        (CouldNotCheckError("x"), 3, "rlhf-audit: could not check: x\n"),
        (TransportError("x"), 3, "rlhf-audit: could not check: x\n"),
        (AuditTrailError("x"), 3, "rlhf-audit: could not check: x\n"),
        (PermissionError(13, "denied", "f"), 3, "rlhf-audit: could not check: [Errno 13] denied: 'f'\n"),
        (KeyboardInterrupt(), 130, "rlhf-audit: interrupted\n"),
    ],
)
def test_each_outcome_has_its_exit_status_and_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: int | BaseException,
    status: int,
    message: str,
) -> None:
    monkeypatch.delenv("RLHF_AUDIT_DEBUG", raising=False)
    assert run_with(monkeypatch, outcome) == status
    assert capsys.readouterr() == ("", message)


def test_a_defect_is_reported_without_its_message_which_may_hold_an_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RLHF_AUDIT_DEBUG", raising=False)
    assert run_with(monkeypatch, ValueError("the secret prompt")) == 3
    shown = capsys.readouterr().err
    assert "ValueError" in shown
    assert "secret" not in shown
    assert "Traceback" not in shown


def test_the_debug_switch_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLHF_AUDIT_DEBUG", "1")
    assert run_with(monkeypatch, ValueError("x")) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_unknown_command_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["confg"]) == 2
    assert capsys.readouterr().err == "rlhf-audit: unknown command 'confg', did you mean 'config'?\n"


def test_a_command_like_no_other_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zzzzzz"]) == 2
    assert "known: " in capsys.readouterr().err


def test_no_command_shows_the_help_on_stderr_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:6]) == ("", "usage:")


@pytest.mark.parametrize(("flags", "status"), [(["--version"], 0), (["--help"], 0), (["--nope"], 2)])
def test_flags_of_the_program_itself(flags: list[str], status: int) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(flags)
    assert caught.value.code == status


@pytest.mark.parametrize("name", commands.NAMES)
def test_every_command_has_help_examples_and_the_exit_statuses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"usage: rlhf-audit {name}" in shown
    assert "examples:" in shown
    assert f"rlhf-audit {name}" in shown.partition("examples:")[2]
    assert "exit status: 0 checked and fine, 1 tampered" in shown


def test_config_shows_each_value_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("window_seconds = 5\n", encoding="utf-8")
    monkeypatch.setenv("RLHF_AUDIT_PROGRESS", "off")
    assert cli.main(["config", "--show", "--json", "--batch-events", "7", str(tmp_path)]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["window_seconds"] == {"value": 5, "origin": f"file {tmp_path / 'config.toml'}"}
    assert settings["progress"] == {"value": "off", "origin": "environment RLHF_AUDIT_PROGRESS"}
    assert settings["batch_events"] == {"value": 7, "origin": "flag --batch-events"}
    assert settings["log_name"]["origin"] == "default"


def test_config_for_people_has_one_line_for_each_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--show", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(KEYS)


def test_a_reader_that_leaves_early_gets_no_traceback_and_no_pass(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rlhf_audit_trail", "config", "--show", str(tmp_path)],
            stdout=write_end,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (3, b"")


@pytest.mark.parametrize("command", ["verify", "status", "local"])
def test_an_unknown_flag_is_answered_with_the_usage_of_its_command(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, str(tmp_path), "--foo"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: rlhf-audit {command} ")
    assert "unrecognized arguments: --foo" in said


@pytest.mark.parametrize(("count", "text"), [(0, "0 windows"), (1, "1 window"), (2000, "2,000 windows")])
def test_one_thing_has_no_s(count: int, text: str) -> None:
    assert counted(count, "window") == text
