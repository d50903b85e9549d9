"""What of a trainer's arguments gets into the record."""

from __future__ import annotations

import json

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
