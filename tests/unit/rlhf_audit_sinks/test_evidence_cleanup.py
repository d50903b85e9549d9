"""What is left to tidy up after a window is stored is no reason to store it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from evidence_world import World
from rlhf_audit_schemas.errors import TransportError
from rlhf_audit_stores.objects import MemoryStore


@pytest.mark.parametrize("error", [TransportError("no answer"), OSError(28, "No space left on device")])
def test_partial_tiles_that_cannot_be_deleted_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    world = World(tmp_path)
    part = world.partition(number=0)
    failures = 0

    def fail(self: MemoryStore, names: object) -> None:
        nonlocal failures
        failures += 1
        raise error

    monkeypatch.setattr(MemoryStore, "delete_many", fail)
    for _ in range(300):  # so that a tile becomes full, and its partial form may go
        part.take(b"rubbish")
        part.tick()
        part.store()
    assert failures > 0
