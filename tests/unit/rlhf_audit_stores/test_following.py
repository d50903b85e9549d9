"""Reading a log that somebody else is writing, and source logs that remember what they took from one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.following import RecordFollower
from rlhf_audit_stores.recordlog import DamagedLogError, RecordLog
from rlhf_audit_stores.sourcelog import Origin, SourceLog

DISK = RealDisk()
SPOOL = bytes(range(16))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=60), cut=st.integers(1, 7), budget=st.integers(1, 900))
def test_a_follower_reads_every_record_once_in_order(
    sizes: list[int], cut: int, budget: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = RecordLog.open(folder, DISK, max_segment_bytes=1000)
    follower = RecordFollower(folder, DISK)
    payloads = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    seen: list[tuple[int, bytes]] = []
    for first in range(0, len(payloads), cut):
        log.append(payloads[first : first + cut])
        seen += follower.read(budget)
    while found := follower.read(budget):
        seen += found
    log.close()
    assert seen == list(enumerate(payloads))


def test_a_record_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path, DISK)
    log.append([b"one", b"two"])
    log.close()
    (segment,) = tmp_path.glob("*.log")
    whole = segment.read_bytes()
    follower = RecordFollower(tmp_path, DISK)
    segment.write_bytes(whole[:-1])
    assert follower.read(100) == [(0, b"one")]
    follower.check_end()  # a torn end is a crash, no damage
    segment.write_bytes(whole)
    assert follower.read(100) == [(1, b"two")]


def test_a_change_behind_the_end_is_damage_once_the_writer_has_gone(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path, DISK)
    log.append([b"one" * 100])
    log.sync()
    log.append([b"two" * 100])
    log.sync()
    log.close()
    (segment,) = tmp_path.glob("*.log")
    changed = bytearray(segment.read_bytes())
    changed[60] ^= 1
    segment.write_bytes(changed)
    follower = RecordFollower(tmp_path, DISK)
    assert follower.read(10_000) == []
    with pytest.raises(DamagedLogError):
        follower.check_end()


def test_a_follower_begins_at_the_first_record_that_is_kept(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path, DISK, max_segment_bytes=200)
    for number in range(20):
        log.append([bytes([number]) * 50])
    log.sync()
    log.drop_before(10)
    found = RecordFollower(tmp_path, DISK).read(1 << 20)
    assert [offset for offset, _ in found] == list(range(log.first_offset, 20))
    log.close()


def test_nothing_there_is_nothing_read(tmp_path: Path) -> None:
    assert RecordFollower(tmp_path / "nowhere", DISK).read(10) == []


def test_a_source_log_knows_what_it_took_after_reopening(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path, DISK)
    log.append_many([b"a", b"b"], 1000, [Origin(SPOOL, 4), Origin(SPOOL, 7)])
    log.append(b"tick", 2000)
    assert log.taken(SPOOL) == 8
    log.sync()
    log.close()
    again = SourceLog.open(tmp_path, DISK)
    assert again.taken(SPOOL) == 8
    assert again.taken(bytes(16)) == 0
    assert [message.value for message in again.read_from(0)] == [b"a", b"b", b"tick"]
    again.close()


def test_what_was_taken_outlives_the_records_that_said_so(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path, DISK)
    log.append_many([b"a"], 1000, [Origin(SPOOL, 4)])
    log.sync()
    log.roll()
    log.append_many([b"b"], 1000, [Origin(SPOOL, 5)])  # not durable: it must not count after a crash
    log.append(b"c", 1000)
    log.drop_before(1)
    assert log.first_offset == 1
    log.close()
    again = SourceLog.open(tmp_path, DISK)
    assert again.taken(SPOOL) == 6
    again.forget([SPOOL])
    assert again.taken(SPOOL) == 0
    again.close()


def test_a_null_value_and_a_plain_one_stay_what_they_were(tmp_path: Path) -> None:
    log = SourceLog.open(tmp_path, DISK)
    log.append(None, 1000)
    log.append(b"", 1000)
    log.sync()
    assert [message.value for message in log.read_from(0)] == [None, b""]
    log.close()


def test_a_segment_that_was_read_to_its_end_may_be_deleted(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path, DISK, max_segment_bytes=100)
    follower = RecordFollower(tmp_path, DISK)
    log.append([b"x" * 90])
    assert follower.read(1000) == [(0, b"x" * 90)]
    log.append([b"y" * 90])
    log.drop_before(1)
    assert follower.read(1000) == [(1, b"y" * 90)]
    log.close()
