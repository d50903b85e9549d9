"""Crash tests make thousands of small trails: in memory where that is possible.

Which bytes survive a death is decided by the fake disks, not by what lies
under them, so the speed of a real disk only costs time here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own with a random name is made below it


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    place = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="rlhf-audit-crash-", dir=place) as folder:
        yield Path(folder)
