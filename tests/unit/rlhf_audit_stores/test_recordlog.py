"""Record logs: what was appended is read, a torn tail is cut off, a changed record is refused."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crash.fake_disk import CountingDisk, FullDisk, PassingDisk
from rlhf_audit_schemas.errors import TamperError
from rlhf_audit_stores._segment import HEAD_BYTES, RECORD_HEAD_BYTES
from rlhf_audit_stores.disk import Disk, DiskFullError, Handle, RealDisk
from rlhf_audit_stores.recordlog import BrokenLogError, DamagedLogError, RecordLog

RECORDS = [b"record %d " % number * 7 for number in range(12)]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def filled(folder: Path, *, group: int = 1, max_segment_bytes: int = 1 << 20) -> Path:
    """A closed log that holds RECORDS, synced after each ``group`` of them. Returns its last segment."""
    log = RecordLog.open(folder, max_segment_bytes=max_segment_bytes)
    for start in range(0, len(RECORDS), group):
        log.append(RECORDS[start : start + group])
        log.sync()
    log.close()
    return segments(folder)[-1]


def contents(folder: Path) -> list[bytes]:
    log = RecordLog.open(folder)
    try:
        return [payload for _, payload in log.read_from(log.first_offset)]
    finally:
        log.close()


@given(
    batches=st.lists(st.lists(st.binary(max_size=300), max_size=5), max_size=12),
    max_segment_bytes=st.integers(1, 1000),
    first=st.integers(0, 10**12),
    data=st.data(),
)
def test_what_was_appended_is_read_back_from_any_offset(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[bytes]],
    max_segment_bytes: int,
    first: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = RecordLog.open(folder, max_segment_bytes=max_segment_bytes, first_offset=first)
    expected: list[bytes] = []
    for batch in batches:
        start = first + len(expected)
        assert log.append(batch) == range(start, start + len(batch))
        expected += batch
        if data.draw(st.booleans()):
            log.sync()
            log.close()
            log = RecordLog.open(folder, max_segment_bytes=max_segment_bytes)
    log.sync()
    assert (log.first_offset, log.next_offset, log.durable_offset) == (first, first + len(expected), log.next_offset)
    start = data.draw(st.integers(0, len(expected)))
    assert list(log.read_from(first + start)) == list(enumerate(expected[start:], first + start))
    log.close()


def test_only_what_is_durable_is_read(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path)
    log.append([b"one"])
    assert list(log.read_from(0)) == []
    log.sync()
    reading = log.read_from(0)
    assert next(reading) == (0, b"one")
    log.append([b"two"])
    log.sync()
    assert next(reading) == (1, b"two")
    log.close()


def test_one_append_is_one_write_and_one_sync_is_one_sync(tmp_path: Path) -> None:
    disk = CountingDisk(RealDisk())
    log = RecordLog.open(tmp_path, disk)
    disk.calls.clear()
    log.append(RECORDS)
    log.sync()
    log.sync()
    log.close()
    assert disk.names == ["write", "sync", "close"]


@pytest.mark.parametrize("group", [1, 5, 12])
def test_a_tail_cut_anywhere_keeps_exactly_the_whole_records_before_the_cut(tmp_path: Path, group: int) -> None:
    whole = filled(tmp_path / "whole", group=group).read_bytes()
    ends = list(itertools.accumulate((RECORD_HEAD_BYTES + len(record) for record in RECORDS), initial=HEAD_BYTES))
    name = segments(tmp_path / "whole")[0].name
    for size in range(HEAD_BYTES, len(whole)):
        folder = tmp_path / "cut"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(whole[:size])
        expected = RECORDS[: sum(end <= size for end in ends) - 1]
        assert contents(folder) == expected
        assert (folder / name).stat().st_size == ends[len(expected)]


@pytest.mark.parametrize("group", [1, 5, 12])
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, group: int) -> None:
    last = filled(tmp_path, group=group)
    whole = last.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        last.write_bytes(changed)
        with pytest.raises(DamagedLogError, match=rf"{last.name} byte \d+: "):
            RecordLog.open(tmp_path)
    last.write_bytes(whole)
    assert contents(tmp_path) == RECORDS


def test_two_exchanged_records_are_refused(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path)
    log.append([b"first", b"other"])
    log.sync()
    log.close()
    [path] = segments(tmp_path)
    whole = path.read_bytes()
    middle = HEAD_BYTES + RECORD_HEAD_BYTES + 5
    path.write_bytes(whole[:HEAD_BYTES] + whole[middle:] + whole[HEAD_BYTES:middle])
    with pytest.raises(DamagedLogError, match="expected record 0 of this segment, found record 1"):
        RecordLog.open(tmp_path)


def test_lost_sectors_of_an_unacknowledged_write_are_cut_off_with_what_follows(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path)
    log.append([b"kept"])
    log.sync()
    log.append([b"x" * 2000, b"follows"])
    log.close()
    [path] = segments(tmp_path)
    changed = bytearray(path.read_bytes())
    changed[512:1024] = bytes(512)
    path.write_bytes(changed)
    assert contents(tmp_path) == [b"kept"]


def test_lost_sectors_of_an_acknowledged_record_are_refused(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path)
    for payload in (b"x" * 2000, b"follows"):
        log.append([payload])
        log.sync()
    log.close()
    [path] = segments(tmp_path)
    changed = bytearray(path.read_bytes())
    changed[512:1024] = bytes(512)
    path.write_bytes(changed)
    with pytest.raises(DamagedLogError):
        RecordLog.open(tmp_path)


def test_a_payload_cannot_pose_as_a_record(tmp_path: Path) -> None:
    filled(tmp_path / "other")
    forged = segments(tmp_path / "other")[0].read_bytes()[HEAD_BYTES:]
    log = RecordLog.open(tmp_path / "log")
    log.append([b"kept"])
    log.sync()
    log.append([forged * 3])
    log.close()
    [path] = segments(tmp_path / "log")
    path.write_bytes(path.read_bytes()[:-1])
    assert contents(tmp_path / "log") == [b"kept"]


def test_damage_in_an_older_segment_is_refused_when_it_is_read(tmp_path: Path) -> None:
    filled(tmp_path, max_segment_bytes=300)
    first, second = segments(tmp_path)[:2]
    whole = first.read_bytes()
    for changed in (whole[:-1], whole[: HEAD_BYTES + 3], whole[:HEAD_BYTES], whole[:-5] + b"xxxxx"):
        first.write_bytes(changed)
        log = RecordLog.open(tmp_path)
        with pytest.raises(DamagedLogError, match=first.name):
            list(log.read_from(0))
        assert next(log.read_from(int(second.stem)))[1] == RECORDS[int(second.stem)]
        log.close()


@pytest.mark.parametrize("size", [0, 3, HEAD_BYTES - 1])
def test_a_segment_without_its_head_is_refused(tmp_path: Path, size: int) -> None:
    last = filled(tmp_path)
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(TamperError, match="head of the segment"):
        RecordLog.open(tmp_path)


def test_dropping_deletes_whole_segments_and_rolling_makes_small_logs_shrink(tmp_path: Path) -> None:
    filled(tmp_path, max_segment_bytes=300)
    log = RecordLog.open(tmp_path, max_segment_bytes=300)
    log.drop_before(5)
    assert 2 < log.first_offset <= 5
    assert [payload for _, payload in log.read_from(5)] == RECORDS[5:]
    with pytest.raises(ValueError, match="was dropped"):
        next(log.read_from(0))
    log.roll()
    log.roll()
    log.drop_before(log.next_offset)
    assert (log.first_offset, log.next_offset) == (len(RECORDS), len(RECORDS))
    assert [path.stat().st_size for path in segments(tmp_path)] == [HEAD_BYTES]
    log.append([b"next"])
    log.sync()
    log.close()
    assert contents(tmp_path) == [b"next"]


def test_a_log_that_begins_anew_holds_nothing_old(tmp_path: Path) -> None:
    filled(tmp_path, max_segment_bytes=300)
    log = RecordLog.open(tmp_path)
    with pytest.raises(ValueError, match="cannot skip back"):
        log.restart_at(3)
    log.restart_at(100)
    assert log.append([b"new"]) == range(100, 101)
    log.sync()
    assert list(log.read_from(100)) == [(100, b"new")]
    log.close()
    assert contents(tmp_path) == [b"new"]


def test_after_a_full_disk_nothing_of_the_append_is_left_and_the_log_goes_on(tmp_path: Path) -> None:
    disk = FullDisk(RealDisk(), after_bytes=500)
    log = RecordLog.open(tmp_path, disk)
    log.append([b"fits"])
    log.sync()
    with pytest.raises(DiskFullError, match=r"disk full at .*\.log: free space and run again"):
        log.append([b"x" * 400, b"x" * 400])
    assert log.next_offset == 1
    disk.free(2000)
    log.append([b"fits now"])
    log.sync()
    assert [payload for _, payload in log.read_from(0)] == [b"fits", b"fits now"]
    log.close()
    assert contents(tmp_path) == [b"fits", b"fits now"]


class FailingSync(PassingDisk):
    """A device that reports an error once."""

    def __init__(self, inner: Disk) -> None:
        super().__init__(inner)
        self.fails = False

    def sync(self, handle: Handle) -> None:
        if self.fails:
            raise OSError(5, "input/output error")
        super().sync(handle)


def test_after_a_failed_sync_nothing_unacknowledged_looks_durable(tmp_path: Path) -> None:
    disk = FailingSync(RealDisk())
    log = RecordLog.open(tmp_path, disk)
    log.append([b"durable"])
    log.sync()
    log.append([b"lost"])
    disk.fails = True
    with pytest.raises(OSError, match="input/output"):
        log.sync()
    disk.fails = False
    for act in (log.sync, log.roll, lambda: log.append([b"more"])):
        with pytest.raises(BrokenLogError, match="open the log again"):
            act()
    log.close()
    assert contents(tmp_path) == [b"durable"]


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="is closed"):
        log.append([b"more"])


def test_foreign_files_are_left_alone_and_unfinished_ones_swept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / ".tmp-0123").write_bytes(b"torn")
    filled(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0" * 20 + ".log", "notes.txt"]


def test_reading_takes_constant_memory_and_finds_a_late_record_without_reading_all(tmp_path: Path) -> None:
    log = RecordLog.open(tmp_path)
    for _ in range(200):
        log.append([bytes(100_000)])
    log.sync()
    tracemalloc.start()
    assert sum(len(payload) for _, payload in log.read_from(0)) == 20_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    reads: list[int] = []

    class Watching(PassingDisk):
        def read_range(self, path: Path, offset: int, length: int) -> bytes:
            reads.append(offset)
            return super().read_range(path, offset, length)

    log.close()
    log = RecordLog.open(tmp_path, Watching(RealDisk()))
    reads.clear()
    assert [offset for offset, _ in log.read_from(199)] == [199]
    assert len(reads) <= 2
    log.close()


class Draining(RealDisk):
    """Whoever drains a spool deletes the old segment as soon as there is a newer one."""

    deleted = 0

    def truncate(self, path: Path, size: int) -> None:
        self.unlink(path)
        self.deleted += 1
        super().truncate(path, size)


def test_a_segment_that_others_deleted_while_the_log_rolled_stops_nothing(tmp_path: Path) -> None:
    disk = Draining()
    log = RecordLog.open(tmp_path, disk)
    log.append(RECORDS[:1])
    log.reserve(1 << 16)
    log.roll()
    log.append(RECORDS[1:2])
    log.sync()
    log.close()
    assert disk.deleted == 1
    assert contents(tmp_path) == RECORDS[1:2]
