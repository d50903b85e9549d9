"""``rlhf-audit ingest``: what it says, what it returns, and when it writes nothing at all."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_trail import cli


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"rater": f"r{n % 3}", "prompt": f"secret {n}", "stars": n % 5}) for n in range(30)]
    lines.insert(7, '{"rater": secret')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ingest(*arguments: Any) -> int:
    return cli.main(["ingest", *(str(each) for each in arguments)])


def test_a_file_is_sealed_once_and_the_bad_row_is_named(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trail"
    arguments = (rows, "--out", out, "--map", "annotator=rater,prompt=prompt,score=stars")
    assert ingest(*arguments) == 0
    said = capsys.readouterr()
    assert "30 annotation" in said.out
    assert f"{rows}:8: not valid JSON" in said.out
    assert "annotators  3" in said.out
    assert f"rlhf-audit verify {out}" in said.out
    assert "secret" not in said.out + said.err
    objects = sorted(path for path in (out / "objects").rglob("*") if path.is_file())
    assert ingest(*arguments) == 0
    assert "already ingested, nothing to do" in capsys.readouterr().out
    assert sorted(path for path in (out / "objects").rglob("*") if path.is_file()) == objects


def test_columns_called_like_fields_are_mapped_and_said(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(rows, "--out", tmp_path / "trail") == 0
    said = capsys.readouterr().err
    assert "mapped by column names: prompt=prompt, annotator=rater" in said
    assert "columns not recorded: stars" in said


def test_no_annotator_column_is_said_plainly(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest(rows, "--out", tmp_path / "trail", "--map", "score=stars") == 0
    said = capsys.readouterr()
    assert "no claim per annotator is possible" in said.err
    assert "none named: no claim per annotator is possible" in said.out


def test_the_report_for_machines_is_one_json_document(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(rows, "--out", tmp_path / "trail", "--map", "annotator=rater,score=stars", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    (found,) = report["files"]
    assert (found["rows"], found["events"], found["faults"], found["annotators"]) == (31, {"annotation": 30}, 1, 3)
    assert found["first_faults"][0]["line"] == 8
    assert report["ledger"].endswith("/global")
    assert report["size"] > 2


def test_a_dry_run_shows_ids_and_numbers_and_writes_nothing(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trail"
    arguments = (rows, "--out", out, "--map", "annotator=rater,prompt=prompt,score=stars", "--dry-run", "--store-text")
    assert ingest(*arguments) == 0
    said = capsys.readouterr()
    assert "30 would be annotation events" in said.out
    assert "annotator=r1" in said.out
    assert "secret" not in said.out + said.err
    assert ingest(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["shown"][1]["score"] == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--map", "annotatr=rater"), "did you mean 'annotator'"),
        (("--map", "annotator=ratr"), "did you mean 'rater'"),
        (("--map-file", "nowhere.toml"), "no such mapping file"),
        (("--scores", "stars=x"), "--scores"),
        (("nowhere.jsonl",), "no such file"),
        (("-",), "pipes, standard input"),
        (("--batch-events", "0"), "batch_events"),
    ],
)
def test_a_mistake_exits_2_before_anything_is_written(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "trail"
    assert ingest(rows, *arguments, "--out", out) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_after_a_signal_what_was_read_is_kept_and_the_same_command_goes_on(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (rows, "--out", tmp_path / "trail", "--map", "annotator=rater,score=stars")
    real = InputFile.hash

    def hash_and_signal(self: InputFile, on_bytes: Any = None) -> bytes:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, on_bytes)

    monkeypatch.setattr(InputFile, "hash", hash_and_signal)
    assert ingest(*arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(InputFile, "hash", real)
    assert ingest(*arguments) == 0
    said = capsys.readouterr().out
    assert "epoch 1, goes on from epoch 0" in said
    assert "30 annotation" in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_help_shows_an_example_of_every_way_to_score(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        ingest("--help")
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for word in (
        "--scores severity=Major:5",
        "--one-hot score=bad:0,ok:1",
        "labeler==human",
        "axis.NAME",
        "--map-file",
    ):
        assert word in said
