"""What the demo trains on: its own small set, or a user's file under the mapping flags of ingest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail import cli
from rlhf_audit_trail.demo import inputs
from rlhf_audit_trail.demo.training_process import added_lines


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    inputs.add_flags(parser, "pairs", "pairs")
    inputs.add_flags(parser, "annotations", "annotations")
    return parser.parse_args(arguments)


def trained_on(tmp_path: Path, source: inputs.InputFile) -> list[dict[str, str]]:
    target = tmp_path / "rows.jsonl"
    count = inputs.write_training_rows(source, target)
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == count
    return rows


def test_the_made_up_set_is_the_same_every_time_and_all_of_it_is_trained_on(tmp_path: Path) -> None:
    found = inputs.inputs_of(parsed(), tmp_path)
    assert [each.path.name for each in found.files] == ["pairs.jsonl", "judgements.jsonl"]
    given = [json.loads(line) for line in inputs.made_up_pairs().splitlines()]
    assert [json.loads(line) for line in found.pairs.path.read_text(encoding="utf-8").splitlines()] == given
    names = ("annotation_id", "prompt", "chosen", "rejected")
    assert trained_on(tmp_path, found.pairs) == [{name: row[name] for name in names} for row in given]


def test_a_file_of_the_user_is_read_under_the_flags_that_ingest_takes(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('number,ask,better,worse\n7,"a, b",yes,no\n8,,yes,no\n', encoding="utf-8")
    maps = ("annotation_id=number,prompt=ask", "chosen=better,rejected=worse")
    args = parsed("--pairs", str(path), *(word for each in maps for word in ("--pairs-map", each)))
    found = inputs.inputs_of(args, tmp_path)
    assert found.files == [
        inputs.InputFile(path, ("--map", "annotation_id=number,prompt=ask", "--map", "chosen=better,rejected=worse"))
    ]
    assert trained_on(tmp_path, found.pairs) == [
        {"annotation_id": "7", "prompt": "a, b", "chosen": "yes", "rejected": "no"}
    ]


def test_rows_without_an_id_are_known_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\nnonsense\n' * 2, encoding="utf-8")
    assert [row["annotation_id"] for row in trained_on(tmp_path, inputs.InputFile(path))] == ["line-1", "line-3"]


def test_a_file_without_pairs_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "p", "response": "r", "score": 1}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.jsonl: no row has prompt, chosen and rejected"):
        inputs.write_training_rows(inputs.InputFile(path), tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairs", "nowhere.jsonl"), "--pairs nowhere.jsonl: no such file"),
        (("--pairs-map", "prompt=ask"), "no --pairs FILE"),
        (("--annotations-scores", "a=b:1"), "no --annotations FILE"),
        (("--steps", "0"), "--steps: expected at least 1"),
    ],
)
def test_arguments_that_cannot_be_are_usage_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "was not made by the demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_the_script_has_the_three_lines_that_are_shown() -> None:
    assert [line.partition("# added line ")[2][0] for line in added_lines()] == ["1", "2", "3"]


def test_the_story_of_the_feedback_alone_shows_every_forgery_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_AUDIT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("RLHF_AUDIT_CLICKHOUSE", "off")
    flags = ["--out", str(tmp_path / "demo"), "--feedback-only", "--progress", "off"]
    for _ in range(2):  # a folder that a demo made is made anew
        assert cli.main(["demo", *flags]) == 0
    text = capsys.readouterr().out
    assert text.count("NO TRAINING IN THIS DEMO") == 2
    assert text.count("as it should") == 16
    assert "the expected checkpoint (size" in text
