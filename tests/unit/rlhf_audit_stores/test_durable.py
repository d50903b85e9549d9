"""Durable files, their order of effects, and the lock of a folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.fake_disk import CountingDisk, FullDisk
from rlhf_audit_schemas.errors import TamperError, TransportError
from rlhf_audit_stores.disk import DiskFullError, RealDisk
from rlhf_audit_stores.durable import (
    AlreadyStoredError,
    FolderLock,
    LockedError,
    create_file_durably,
    make_folders_durably,
    replace_file_durably,
    sweep,
    write_file_durably,
)

HOLD_LOCK = """
import sys
from pathlib import Path
from rlhf_audit_stores.durable import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_file_is_synced_before_it_gets_its_name_and_the_name_is_synced_after(tmp_path: Path) -> None:
    disk = CountingDisk(RealDisk())
    write_file_durably(disk, tmp_path / "file", b"data")
    assert disk.names == ["sync_dir", "create", "write", "sync", "close", "rename", "sync_dir"]
    disk.calls.clear()
    create_file_durably(disk, tmp_path / "new", b"data")
    assert disk.names == ["sync_dir", "create", "write", "sync", "close", "link", "unlink", "sync_dir"]


def test_every_new_folder_is_synced_before_anything_is_put_into_it(tmp_path: Path) -> None:
    disk = CountingDisk(RealDisk())
    make_folders_durably(disk, tmp_path / "a" / "b")
    assert disk.calls == [
        ("sync_dir", tmp_path.parent),
        ("mkdir", tmp_path / "a"),
        ("sync_dir", tmp_path),
        ("mkdir", tmp_path / "a" / "b"),
        ("sync_dir", tmp_path / "a"),
    ]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_written_file_replaces_what_was_there_and_has_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "deep" / "file"
    for data in (b"old", b"", b"new"):
        replace_file_durably(RealDisk(), path, data, mode=mode)
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_created_once_even_with_the_same_bytes(tmp_path: Path) -> None:
    create_file_durably(RealDisk(), tmp_path / "file", b"data")
    for data in (b"data", b"other"):
        with pytest.raises(AlreadyStoredError, match="file: already stored") as caught:
            create_file_durably(RealDisk(), tmp_path / "file", data)
        assert isinstance(caught.value, TamperError)
    assert (tmp_path / "file").read_bytes() == b"data"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_of_sixteen_racing_creators_one_wins(tmp_path: Path) -> None:
    start = threading.Barrier(16)

    def create(number: int) -> bool:
        start.wait()
        try:
            create_file_durably(RealDisk(), tmp_path / "epochs" / "0", b"same")
        except AlreadyStoredError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(create, range(16))) == 1


def test_a_full_disk_is_told_and_leaves_the_old_contents_and_no_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file_durably(RealDisk(), path, b"old")
    full = FullDisk(RealDisk(), after_bytes=2)
    with pytest.raises(DiskFullError, match="free space and run again") as caught:
        write_file_durably(full, path, b"new contents")
    assert isinstance(caught.value, TransportError)
    assert caught.value.retriable
    assert {child.name: child.read_bytes() for child in tmp_path.iterdir()} == {"file": b"old"}


def test_a_real_full_disk_is_recognised() -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full here")
    disk = RealDisk()
    handle = disk.open_append(device)
    with pytest.raises(DiskFullError, match="/dev/full"):
        disk.write(handle, b"data")
    disk.close(handle)


def test_sweeping_removes_unfinished_files_and_nothing_else(tmp_path: Path) -> None:
    for name in (".tmp-1", ".tmp-2", "file", ".hidden", "x.tmp-3"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".tmp-folder").mkdir()
    assert sweep(RealDisk(), tmp_path) == 2
    assert sorted(child.name for child in tmp_path.iterdir()) == [".hidden", ".tmp-folder", "file", "x.tmp-3"]
    assert sweep(RealDisk(), tmp_path) == 0


def test_a_locked_folder_is_refused_to_others_naming_who_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "trail"
    with FolderLock(folder):
        with pytest.raises(LockedError, match=rf"trail is in use by process {os.getpid()}: wait until it ends"):
            FolderLock(folder).acquire()
        with FolderLock(tmp_path / "other"):
            pass
    with FolderLock(folder):
        pass


def test_one_lock_is_taken_once_and_released_as_often_as_one_likes(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    with pytest.raises(LockedError):
        lock.acquire()
    lock.release()
    lock.release()
    lock.acquire()
    lock.release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(LockedError, match=f"process {holder.pid}") as caught:
            FolderLock(tmp_path).acquire()
        assert caught.value.retriable
    finally:
        holder.kill()
        holder.communicate()
    with FolderLock(tmp_path):
        pass
