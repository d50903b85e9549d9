"""``rlhf-audit verify | head``: a reader who has gone is no verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from query_copies import annotation, write_trail


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["for people", "json"])
def test_a_reader_who_has_gone_makes_no_trail_tampered(tmp_path: Path, more: list[str]) -> None:
    write_trail(tmp_path / "trail", [[annotation(1)]])
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "rlhf_audit_trail", "verify", str(tmp_path / "trail"), "--no-memory", *more],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        os.close(write)
    assert ended.returncode == 3, ended.stderr
