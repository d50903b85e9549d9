"""The README's quick start, run as it stands there: documentation that does not work is a defect."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_audit_trail import commands

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RATINGS = "annotation_id,rater,prompt,response,rating\n" + "".join(
    f"a{row},rater{row % 3},question {row},answer {row},{row % 5}\n" for row in range(40)
)


def quick_start() -> list[str]:
    """The commands of the first block under the heading, installation aside."""
    section = README.partition("## Quick start")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, "the README has no quick start"
    lines = [line.partition("#")[0].strip() for line in block[1].splitlines()]
    return [line for line in lines if line and not line.startswith("make ")]


def test_the_quick_start_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(RATINGS, encoding="utf-8")
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "rlhf-audit").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rlhf_audit_trail "$@"\n')
    (bin_folder / "rlhf-audit").chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    script = "set -eux\n" + "\n".join(quick_start())
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(set(re.findall(r"rlhf-audit ([a-z]+)\b", README))))
def test_every_command_that_the_readme_names_exists(name: str) -> None:
    assert name in commands.NAMES
