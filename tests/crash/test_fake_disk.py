"""The fakes forget and die as they say; otherwise every crash test would pass for nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crash.fake_disk import CountingDisk, Crash, CrashingDisk, FullDisk, VolatileDisk
from rlhf_audit_stores.disk import DiskFullError, RealDisk


def write(disk: VolatileDisk, path: Path, data: bytes, *, sync: bool) -> None:
    handle = disk.create_exclusive(path)
    disk.write(handle, data)
    if sync:
        disk.sync(handle)
    disk.close(handle)


def test_a_power_cut_takes_bytes_that_were_not_synced(tmp_path: Path) -> None:
    disk = VolatileDisk(tmp_path)
    write(disk, tmp_path / "file", b"data", sync=False)
    disk.sync_dir(tmp_path)
    disk.power_cut()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_power_cut_takes_names_that_were_not_synced(tmp_path: Path) -> None:
    disk = VolatileDisk(tmp_path)
    write(disk, tmp_path / "file", b"data", sync=True)
    disk.power_cut()
    assert not (tmp_path / "file").exists()


def test_a_power_cut_leaves_what_was_synced(tmp_path: Path) -> None:
    disk = VolatileDisk(tmp_path)
    disk.mkdir(tmp_path / "folder")
    disk.sync_dir(tmp_path)
    write(disk, tmp_path / "folder" / "file", b"data", sync=True)
    disk.link(tmp_path / "folder" / "file", tmp_path / "folder" / "other")
    disk.sync_dir(tmp_path / "folder")
    disk.power_cut()
    assert (tmp_path / "folder" / "file").read_bytes() == (tmp_path / "folder" / "other").read_bytes() == b"data"


def test_a_power_cut_undoes_renames_and_deletions_that_were_not_synced(tmp_path: Path) -> None:
    for name in ("old", "kept"):
        (tmp_path / name).write_bytes(name.encode())
    disk = VolatileDisk(tmp_path)
    write(disk, tmp_path / "new", b"new", sync=True)
    disk.rename(tmp_path / "new", tmp_path / "old")
    disk.unlink(tmp_path / "kept")
    disk.power_cut()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"old", "kept": b"kept"}


def test_a_torn_power_cut_keeps_every_synced_byte_and_any_part_of_the_rest(tmp_path: Path) -> None:
    seen = set()
    for seed in range(60):
        root = tmp_path / str(seed)
        root.mkdir()
        (root / "log").write_bytes(b"synced")
        disk = VolatileDisk(root)
        handle = disk.open_append(root / "log")
        disk.write(handle, b"tail")
        disk.close(handle)
        disk.power_cut(random.Random(seed))  # noqa: S311 - chance that can be repeated
        seen.add((root / "log").read_bytes())
    assert all(content.startswith(b"synced") for content in seen)
    assert {b"synced", b"syncedtail"} <= seen
    assert any(0 in content for content in seen)


def test_a_dead_process_does_nothing_more(tmp_path: Path) -> None:
    disk = CrashingDisk(RealDisk(), at=2, after=True)
    handle = disk.create_exclusive(tmp_path / "file")
    with pytest.raises(Crash):
        disk.write(handle, b"data")
    with pytest.raises(Crash):
        disk.unlink(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"data"


def test_a_process_may_die_before_or_half_way_in_a_write(tmp_path: Path) -> None:
    for name, torn, expected in (("before", False, b""), ("torn", True, b"da")):
        disk = CrashingDisk(RealDisk(), at=2, torn=torn)
        handle = disk.create_exclusive(tmp_path / name)
        with pytest.raises(Crash):
            disk.write(handle, b"data")
        assert (tmp_path / name).read_bytes() == expected


def test_a_full_disk_takes_what_fits_and_works_again_after_space_is_made(tmp_path: Path) -> None:
    disk = FullDisk(RealDisk(), after_bytes=3)
    handle = disk.create_exclusive(tmp_path / "file")
    with pytest.raises(DiskFullError, match=r"disk full at .*file: free space and run again"):
        disk.write(handle, b"data")
    assert (tmp_path / "file").read_bytes() == b"dat"
    disk.free(1)
    disk.write(handle, b"a")
    assert (tmp_path / "file").read_bytes() == b"data"


def test_effects_are_counted_in_order(tmp_path: Path) -> None:
    disk = CountingDisk(RealDisk())
    disk.close(disk.create_exclusive(tmp_path / "file"))
    disk.read(tmp_path / "file")
    disk.unlink(tmp_path / "file")
    assert disk.names == ["create", "close", "unlink"]
