"""What is special about the folder: order of effects, leftovers, modes. The laws stand in the contract test."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crash.fake_disk import CountingDisk, FullDisk
from rlhf_audit_stores.disk import DiskFullError, RealDisk
from rlhf_audit_stores.durable import AlreadyStoredError
from rlhf_audit_stores.objects import (
    FolderStore,
    MemoryStore,
    NotStoredError,
    ObjectStore,
    SwapLostError,
    Version,
)

NAMES = ["a", "b/c", "b/d", "b.e/f"]


def test_a_batch_syncs_each_file_then_names_them_then_syncs_each_folder_once(tmp_path: Path) -> None:
    disk = CountingDisk(RealDisk())
    store = FolderStore(tmp_path, disk)
    store.put_many([("a/1", b"1"), ("a/2", b"2"), ("b/3", b"3")])
    disk.calls.clear()
    store.put_many([("a/4", b"4"), ("a/5", b"5"), ("b/6", b"6")])
    files = ["create", "write"] * 3 + ["sync"] * 3 + ["close"] * 3
    assert disk.names == files + ["link", "unlink"] * 3 + ["sync_dir"] * 2
    assert [path for name, path in disk.calls if name == "link"] == [tmp_path / name for name in ("a/4", "a/5", "b/6")]


def test_putting_what_is_there_writes_nothing_and_makes_its_name_durable(tmp_path: Path) -> None:
    FolderStore(tmp_path).put("a/1", b"1")
    disk = CountingDisk(RealDisk())
    FolderStore(tmp_path, disk).put("a/1", b"1")
    assert set(disk.names) == {"sync_dir"}
    assert ("sync_dir", tmp_path / "a") in disk.calls


def test_leftovers_are_neither_listed_nor_got_and_are_swept_when_asked(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a/b/object", b"data")
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        (folder / ".tmp-0123").write_bytes(b"torn")
    assert [info.name for info in store.list("")] == ["a/b/object"]
    assert store.sweep() == 3
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["object"]
    assert FolderStore(tmp_path / "nowhere").sweep() == 0


def test_what_somebody_else_put_there_is_listed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a/object", b"data")
    (tmp_path / "a" / "no name of ours").write_bytes(b"12345")
    (tmp_path / "a" / "link").symlink_to("object")
    assert [info.name for info in store.list("")] == ["a/link", "a/no name of ours", "a/object"]


def test_objects_have_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    for name, mode in (("public", 0o644), ("private", 0o600)):
        store = FolderStore(tmp_path / name, mode=mode)
        store.put("object", b"data")
        store.swap("checkpoint", b"data", None)
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name).iterdir()} == {mode}


def test_a_full_disk_leaves_no_leftovers_and_the_batch_succeeds_after_space_is_made(tmp_path: Path) -> None:
    disk = FullDisk(RealDisk(), after_bytes=150)
    store = FolderStore(tmp_path, disk)
    batch = [(f"a/{number}", bytes(100)) for number in range(3)]
    with pytest.raises(DiskFullError):
        store.put_many(batch)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    disk.free(1000)
    store.put_many(batch)
    assert [info.size for info in store.list("a/")] == [100, 100, 100]


def test_a_fork_in_a_batch_leaves_no_leftovers(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a/2", b"old")
    with pytest.raises(AlreadyStoredError):
        store.put_many([("a/1", b"1"), ("a/2", b"new")])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["2"]


@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(["put", "delete", "swap", "old swap"]),
            st.sampled_from(NAMES),
            st.binary(max_size=2),
        ),
        max_size=20,
    )
)
def test_a_folder_does_what_memory_does(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str, bytes]]
) -> None:
    folder = FolderStore(tmp_path_factory.mktemp("store"))
    memory = MemoryStore()
    for act, name, data in acts:
        assert outcome(folder, act, name, data) == outcome(memory, act, name, data)
        assert list(folder.list("")) == list(memory.list(""))
        assert list(folder.list("b/")) == list(memory.list("b/"))


def outcome(store: ObjectStore, act: str, name: str, data: bytes) -> object:
    try:
        if act == "put":
            store.put(name, data)
            return None
        if act == "delete":
            store.delete(name)
            return None
        expected: Version | None
        try:
            expected = store.get_versioned(name)[1]
        except NotStoredError:
            expected = None
        if act == "old swap":
            expected = Version("of something else")
        store.swap(name, data, expected)
        return store.get(name)
    except (AlreadyStoredError, SwapLostError) as error:
        return type(error)
