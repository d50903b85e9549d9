"""Source log and sealed log of one partition."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_stores.recordlog import DamagedLogError
from rlhf_audit_stores.sealedlog import SealedLog
from rlhf_audit_stores.sourcelog import SourceLog


def test_a_source_log_gives_back_offsets_times_and_values(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path)
    assert log.append(b"value", 1_700_000_000_123_000) == 0
    assert log.append_many([None, b""], -1000) == range(1, 3)
    log.sync()
    expected = [
        SourceMessage(0, 1_700_000_000_123_000, b"value"),
        SourceMessage(1, -1000, None),
        SourceMessage(2, -1000, b""),
    ]
    assert list(log.read_from(0)) == expected
    log.close()
    log = SourceLog.open(tmp_path)
    assert (log.first_offset, log.next_offset, log.durable_offset) == (0, 3, 3)
    assert list(log.read_from(1)) == expected[1:]
    log.close()


def test_a_source_log_keeps_its_id_and_no_two_have_the_same(tmp_path: Path) -> None:
    ids = []
    for folder in ("a", "a", "b"):
        log = SourceLog.open(tmp_path / folder)
        ids.append(log.source_id)
        log.append(b"value", 0)
        log.sync()
        log.close()
    assert ids[0] == ids[1] != ids[2]
    assert {len(source_id) for source_id in ids} == {16}


def test_a_source_log_that_lost_its_id_is_refused(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path)
    log.append(b"value", 0)
    log.sync()
    log.close()
    for broken in (b"", b"00ff", b"\xff" * 32, b"zz" * 16):
        (tmp_path / "source.id").write_bytes(broken)
        with pytest.raises(DamagedLogError, match=r"source\.id"):
            SourceLog.open(tmp_path)
    (tmp_path / "source.id").unlink()
    with pytest.raises(DamagedLogError, match="its id is missing"):
        SourceLog.open(tmp_path)


def test_a_time_that_kafka_could_not_keep_is_refused(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path)
    with pytest.raises(ValueError, match="whole milliseconds"):
        log.append(b"value", 1_700_000_000_123_456)
    assert log.next_offset == 0
    log.close()


def test_a_source_log_drops_what_is_stored_up_to_the_last_message(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path)
    log.append_many([b"prompt that must go", b"last"], 0)
    log.roll()
    log.append(b"next", 0)
    log.sync()
    log.drop_before(2)
    assert log.first_offset == 2
    assert list(log.read_from(2)) == [SourceMessage(2, 0, b"next")]
    assert b"prompt" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    log.close()


def test_sealed_records_are_numbered_from_one(tmp_path: Path) -> None:
    log = SealedLog.open(tmp_path)
    assert (log.first_m, log.next_m, log.durable_m) == (1, 1, 1)
    assert log.append([b"one", b"two"]) == range(1, 3)
    log.sync()
    assert list(log.read_from(1)) == [(1, b"one"), (2, b"two")]
    log.roll()
    log.drop_before(3)
    assert (log.first_m, log.next_m) == (3, 3)
    log.restart_at(10)
    assert log.append([b"ten"]) == range(10, 11)
    log.sync()
    log.close()
    log = SealedLog.open(tmp_path)
    assert (log.first_m, log.next_m, log.durable_m) == (10, 11, 11)
    assert list(log.read_from(10)) == [(10, b"ten")]
    log.close()
