"""The judges for every test in this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interop.judge import InteropUnavailableError, build


@pytest.fixture(scope="session")
def interop_binary() -> Path:
    """The built ``interop`` program; skips where it cannot be built, and fails there if REQUIRE_SERVICES is set."""
    try:
        return build()
    except InteropUnavailableError as error:
        if os.environ.get("REQUIRE_SERVICES"):
            pytest.fail(str(error))
        pytest.skip(str(error))
