"""What of a trainer's arguments gets into the record."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("numpy")

from rlhf_audit_producers.hooks.run_facts import argument_facts


def test_arguments_that_name_a_secret_or_a_folder_stay_out_also_inside_others() -> None:
    arguments = {
        "learning_rate": 1e-5,
        "hub_token": "SECRET",
        "api_key": "SECRET",
        "output_dir": "/home/SECRET",
        "cache_path": "/home/SECRET",
        "endpoint": "https://SECRET",
        "accelerator_config": {"split_batches": False, "password": "SECRET"},
        "unset": None,
    }
    said = argument_facts(arguments)
    assert "SECRET" not in said
    assert json.loads(said) == {"accelerator_config": {"split_batches": False}, "learning_rate": 1e-5}


def test_values_that_are_no_json_are_told_by_their_class() -> None:
    assert json.loads(argument_facts({"callback": object()})) == {"callback": "object"}


@pytest.mark.parametrize(
    "value",
    [
        "/home/SECRET/checkpoints",
        "~/SECRET",
        "./SECRET/ds.json",
        "../SECRET",
        "C:\\Users\\SECRET",
        "\\\\server\\SECRET",
        "file:///home/SECRET",
        "s3://SECRET/bucket",
        "https://user:SECRET@host/x",
        "runs/SECRET/checkpoint-5",
        "SECRET/",
        "ds_SECRET.json",
        "SECRET.yaml",
        "--config=/home/SECRET/x --other",
        PurePosixPath("/home/SECRET"),
    ],
)
def test_a_path_under_a_harmless_name_is_replaced_wherever_it_stands(value: object) -> None:
    arguments = {"resume_from_checkpoint": value, "deepspeed": {"config": value}, "many": ["a", value]}
    said = argument_facts(arguments)
    assert "SECRET" not in said
    hidden = "<path>"
    assert json.loads(said) == {
        "resume_from_checkpoint": hidden,
        "deepspeed": {"config": hidden},
        "many": ["a", hidden],
    }


def test_a_folder_that_is_here_is_a_path_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "SECRET").mkdir(parents=True)
    assert json.loads(argument_facts({"x": "runs/SECRET"})) == {"x": "runs/SECRET"}
    monkeypatch.chdir(tmp_path)
    assert json.loads(argument_facts({"x": "runs/SECRET"})) == {"x": "<path>"}


@pytest.mark.parametrize(
    "value",
    [
        True,
        3,
        0.1,
        "cosine",
        "org/model-7b",
        "adamw_torch_fused",
        "1/2",
        "a and/or b",
        '{"stage": 2}',
        "</s>",
        "e-5",
        "",
    ],
)
def test_what_is_no_path_stays_as_it_is(value: object) -> None:
    assert json.loads(argument_facts({"x": value})) == {"x": value}
