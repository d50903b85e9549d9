"""The lock: every package by hash, no address, and what the project file asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = FILE["project"]


def locked(name: str) -> dict[str, str]:
    """Package -> pinned version, with a check that each has a hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([a-z0-9-]+)==(\S+)([^\n]*(?:\\\n\s+--hash=sha256:[0-9a-f]{64}[^\n]*)+)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S", text, re.MULTILINE)), "a line of the lock is no pin with hashes"
    return {package: version for package, version, _ in pins}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("name", ["base", "build", "dev", "training", "workers"])
def test_the_lock_names_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|trusted-host| @ ", text)


def test_the_lock_holds_what_the_project_asks_for() -> None:
    assert names(PROJECT["dependencies"]) <= locked("base").keys()
    extras = PROJECT["optional-dependencies"]
    assert names(extras["dev"]) <= locked("dev").keys()
    assert names(extras["trl"] + extras["sinks"]) <= locked("training").keys()
    roles = names(extras["workers"] + extras["processors"] + extras["registry"]) - {PROJECT["name"]}
    assert names(PROJECT["dependencies"]) | roles <= locked("workers").keys()
    assert names(FILE["dependency-groups"]["build"]) <= locked("build").keys()


def test_the_locks_agree() -> None:
    assert locked("base").items() <= locked("dev").items()
    assert locked("base").items() <= locked("training").items()
    dev, training = locked("dev"), locked("training")
    both = dev.keys() & training.keys()
    assert {name: dev[name] for name in both} == {name: training[name] for name in both}
    assert locked("base").items() <= locked("workers").items()
    assert locked("workers").items() <= dev.items()
    assert locked("build").items() <= dev.items()


def test_torch_and_what_only_an_extra_needs_is_never_in_the_base() -> None:
    heavy = {"torch", "transformers", "trl", "faust-streaming", "aiokafka", "clickhouse-connect", "chdb", "fastapi"}
    assert not heavy & locked("base").keys()
    assert not heavy & names(PROJECT["dependencies"])


def test_the_image_of_the_workers_holds_no_engine_and_no_tool() -> None:
    assert not {"chdb", "torch", "pytest", "mypy", "hatchling", "grafana-foundation-sdk"} & locked("workers").keys()
