"""A run on a disk that is full: it ends, and says what it lost."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from crash.fake_disk import FullDisk
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_trail import AuditTrail
from spooling import drain, sealed_events

ROWS = 5


@pytest.fixture(autouse=True)
def _no_run_id_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RLHF_AUDIT_RUN_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def recorded(directory: Path, disk: FullDisk) -> AuditTrail:
    """A trail that was given rows, and waits for its close."""
    with AuditTrail(directory, run_id="first", rank=0, world_size=1, runtime=False) as founded:
        founded.flush()
    trail = AuditTrail(directory, run_id="run", rank=0, world_size=1, runtime=False, disk=disk)
    trail.log_annotations(
        prompts=["p"] * ROWS, responses=["r"] * ROWS, rewards=[1.0] * ROWS, annotators="a", all_ranks=False
    )
    return trail


def test_a_disk_that_stays_full_is_told_at_the_end_with_the_number_of_events_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    trail = recorded(tmp_path, FullDisk(RealDisk(), after_bytes=0))
    trail.close()
    trail.close()
    told = [record.getMessage() for record in caplog.records if "were lost" in record.getMessage()]
    assert told == [f"{ROWS} events of run/0 were lost: the ledger does not tell how many"]
    assert caplog.text.count("cannot be opened yet") <= 1, "it is said once, not at every try"


def test_room_that_comes_back_before_the_end_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = FullDisk(RealDisk(), after_bytes=0)
    trail = recorded(tmp_path, full)
    full.free(1 << 30)
    trail.close()
    assert "were lost" not in caplog.text
    drain(tmp_path)
    assert len(sealed_events(tmp_path, "annotation")) == ROWS


def test_a_trail_that_could_not_be_opened_says_how_many_events_went_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "keys").write_bytes(b"in the way")
    with AuditTrail(tmp_path, run_id="run", rank=0, world_size=1, runtime=False) as trail:
        trail.log_annotations(prompts=["p"], responses=["r"], rewards=[1.0], annotators="a", all_ranks=False)
    assert "1 event of run/0 was lost" in caplog.text


def test_a_run_that_lost_nothing_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorded(tmp_path, FullDisk(RealDisk(), after_bytes=1 << 30)).close()
    assert "lost" not in caplog.text


def test_losses_that_the_ledger_declares_are_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with AuditTrail(tmp_path, run_id="run", rank=0, world_size=1, runtime=False, queue_events=2) as trail:
        trail.log_annotations(
            prompts=["p"] * ROWS, responses=["r"] * ROWS, rewards=[1.0] * ROWS, annotators="a", all_ranks=False
        )
    assert f"{ROWS} events of run/0 were lost: the ledger declares them" in caplog.text
    drain(tmp_path)
    assert sum(event["count"] for event in sealed_events(tmp_path, "loss")) == ROWS
