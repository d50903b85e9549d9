"""Die at every effect of a store, before, after and half-way, with and without a power cut: what was acknowledged
is there, nothing torn is visible, and the next process goes on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from crash.fake_disk import Crash, CrashingDisk, VolatileDisk
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import is_temporary, replace_file_durably
from rlhf_audit_stores.keys import TrailKeys, create_keys
from rlhf_audit_stores.objects import FolderStore, NotStoredError, Version
from rlhf_audit_stores.sealedlog import SealedLog
from rlhf_audit_stores.sourcelog import SourceLog

PowerCut = Callable[[VolatileDisk], None]


def no_power_cut(disk: VolatileDisk) -> None:
    pass


def strict_power_cut(disk: VolatileDisk) -> None:
    disk.power_cut()


def torn_power_cut(seed: int) -> PowerCut:
    return lambda disk: disk.power_cut(random.Random(seed))  # noqa: S311 - chance that can be repeated


WAYS = [
    pytest.param(False, False, id="before"),
    pytest.param(True, False, id="after"),
    pytest.param(False, True, id="half"),
]
CUTS = [
    pytest.param(no_power_cut, id="power stays"),
    pytest.param(strict_power_cut, id="all unsynced lost"),
    *(pytest.param(torn_power_cut(seed), id=f"some unsynced lost {seed}") for seed in range(4)),
]
every_death = pytest.mark.parametrize(("after", "torn"), WAYS)
every_cut = pytest.mark.parametrize("cut", CUTS)


class Life(Protocol):
    """What a process does, and what must hold after it died."""

    def run(self, disk: Disk) -> None: ...

    def check(self, disk: Disk) -> None: ...


def die_everywhere(
    root: Path, make_life: Callable[[Path], Life], cut: PowerCut, *, after: bool, torn: bool, least: int
) -> None:
    """Run a fresh life for each effect until one survives; ``least`` guards against a run without effects."""
    for at in itertools.count(1):
        place = root / str(at)
        place.mkdir()
        volatile = VolatileDisk(place)
        life = make_life(place / "home")
        crashing = CrashingDisk(volatile, at=at, after=after, torn=torn)
        try:
            life.run(crashing)
        except Crash:
            cut(volatile)
            life.check(volatile)
            if cut is no_power_cut:
                volatile.power_cut()  # the second process built on what the first had not synced
            else:
                cut(volatile)
            life.check(volatile)
        else:
            assert at > least
            return


@dataclass
class SourceLogLife:
    """Appends, syncs, rolls, drops. The expected value of every offset is known beforehand."""

    folder: Path
    acknowledged: int = 0  # offsets below this were synced
    dropped: int = 0  # offsets below this may be gone
    source_id: bytes | None = None

    @staticmethod
    def value(offset: int) -> bytes | None:
        return None if offset % 5 == 3 else b"%d;" % offset * (40 + 97 * (offset % 7))

    def run(self, disk: Disk) -> None:
        log = SourceLog.open(self.folder, disk, max_segment_bytes=2000)
        self.source_id = log.source_id
        for size in (1, 3, 2, 1, 4):
            start = log.next_offset
            log.append_many([self.value(offset) for offset in range(start, start + size)], start * 1000)
            log.append(self.value(start + size), (start + size) * 1000)
            log.sync()
            self.acknowledged = log.next_offset
        self.dropped = 4
        log.drop_before(4)
        log.roll()
        self.dropped = log.next_offset
        log.drop_before(log.next_offset)
        log.append(self.value(log.next_offset), 0)
        log.sync()
        self.acknowledged = log.next_offset
        log.close()

    def check(self, disk: Disk) -> None:
        log = SourceLog.open(self.folder, disk, max_segment_bytes=2000)
        assert self.source_id in (None, log.source_id)
        assert log.first_offset <= max(self.dropped, 0)
        assert log.next_offset >= self.acknowledged
        found = list(log.read_from(log.first_offset))
        assert [message.offset for message in found] == list(range(log.first_offset, log.next_offset))
        assert [message.value for message in found] == [self.value(message.offset) for message in found]
        log.append(self.value(log.next_offset), 0)
        log.sync()
        self.source_id, self.acknowledged = log.source_id, log.next_offset
        log.close()


@every_death
@every_cut
def test_a_source_log_keeps_what_was_synced_and_shows_nothing_torn(
    tmp_path: Path, cut: PowerCut, after: bool, torn: bool
) -> None:
    die_everywhere(tmp_path, SourceLogLife, cut, after=after, torn=torn, least=60)


@dataclass
class SealedLogLife:
    """A sealed log that lags behind the objects and begins anew at a higher m."""

    folder: Path
    acknowledged: range = range(1, 1)
    may_be_anew: bool = False

    def run(self, disk: Disk) -> None:
        log = SealedLog.open(self.folder, disk, max_segment_bytes=300)
        for _ in range(3):
            log.append([b"sealed %d" % m for m in range(log.next_m, log.next_m + 3)])
            log.sync()
            self.acknowledged = range(1, log.next_m)
        self.may_be_anew = True
        log.restart_at(100)
        log.append([b"sealed 100"])
        log.sync()
        self.acknowledged, self.may_be_anew = range(100, 101), False
        log.close()

    def check(self, disk: Disk) -> None:
        log = SealedLog.open(self.folder, disk, max_segment_bytes=300)
        found = dict(log.read_from(log.first_m))
        assert all(record == b"sealed %d" % m for m, record in found.items())
        assert list(found) == list(range(log.first_m, log.next_m))
        if not self.may_be_anew:
            assert set(self.acknowledged) <= set(found)
        log.close()


@every_death
@every_cut
def test_a_sealed_log_keeps_what_was_synced_also_while_it_begins_anew(
    tmp_path: Path, cut: PowerCut, after: bool, torn: bool
) -> None:
    die_everywhere(tmp_path, SealedLogLife, cut, after=after, torn=torn, least=30)


@dataclass
class FolderStoreLife:
    """Windows as the evidence sink writes them: objects, a checkpoint, partial tiles deleted."""

    folder: Path
    stored: dict[str, bytes] = field(default_factory=dict)  # acknowledged
    attempted: dict[str, set[bytes]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)

    def steps(self) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        yield "put", [("segments/a/0/0.avro", b"segment" * 100), ("logs/a/0/tile/0/000.p/2", b"tile")]
        yield "swap", [("logs/a/0/checkpoint", b"checkpoint 2")]
        yield "put", [("segments/a/0/1.avro", b"other"), ("logs/a/0/tile/0/000", b"tile full"), ("global/x", b"")]
        yield "swap", [("logs/a/0/checkpoint", b"checkpoint 256")]
        yield "delete", [("logs/a/0/tile/0/000.p/2", b"")]

    def run(self, disk: Disk) -> None:
        store = FolderStore(self.folder, disk)
        store.sweep()
        for act, items in self.steps():
            for name, data in items:
                self.attempted.setdefault(name, set()).add(data)
            if act == "put":
                store.put_many(items)
                self.stored |= dict(items)
            elif act == "swap":
                [(name, data)] = items
                self.swap(store, name, data)
                self.stored[name] = data
            else:
                self.deleted |= {name for name, _ in items}
                for name, _ in items:
                    self.stored.pop(name, None)
                store.delete_many(sorted(self.deleted))

    @staticmethod
    def swap(store: FolderStore, name: str, data: bytes) -> None:
        current: Version | None
        try:
            found, current = store.get_versioned(name)
        except NotStoredError:
            found, current = b"", None
        if found != data:
            store.swap(name, data, current)

    def check(self, disk: Disk) -> None:
        store = FolderStore(self.folder, disk)
        for info in store.list(""):
            data = store.get(info.name)
            assert data in self.attempted[info.name], f"{info.name} is torn"
            assert info.size == len(data)
        for name, data in self.stored.items():
            if not name.endswith("checkpoint"):
                assert store.get(name) == data
        if checkpoint := self.stored.get("logs/a/0/checkpoint"):
            assert len(store.get("logs/a/0/checkpoint")) >= len(checkpoint)  # it only grows
        again = FolderStoreLife(self.folder)
        again.run(disk)
        for name, data in again.stored.items():
            assert store.get(name) == data
        assert not [path for path in self.folder.rglob("*") if is_temporary(path.name)]
        self.stored, self.attempted, self.deleted = again.stored, again.attempted, again.deleted


@every_death
@every_cut
def test_a_folder_store_keeps_what_was_put_and_shows_nothing_torn(
    tmp_path: Path, cut: PowerCut, after: bool, torn: bool
) -> None:
    die_everywhere(tmp_path, FolderStoreLife, cut, after=after, torn=torn, least=60)


@dataclass
class ReplacedFileLife:
    """One file, replaced again and again."""

    folder: Path
    acknowledged: int = 0

    def run(self, disk: Disk) -> None:
        for number in range(1, 4):
            replace_file_durably(disk, self.folder / "deep" / "file", b"%d" % number * 50)
            self.acknowledged = number

    def check(self, disk: Disk) -> None:
        path = self.folder / "deep" / "file"
        if self.acknowledged or disk.exists(path):
            assert disk.read(path) in (b"%d" % self.acknowledged * 50, b"%d" % (self.acknowledged + 1) * 50)


@every_death
@every_cut
def test_a_replaced_file_holds_the_old_or_the_new_contents(
    tmp_path: Path, cut: PowerCut, after: bool, torn: bool
) -> None:
    die_everywhere(tmp_path, ReplacedFileLife, cut, after=after, torn=torn, least=15)


@dataclass
class KeysLife:
    """Keys are made; whoever has seen them must find the same ones again."""

    folder: Path
    keys: TrailKeys | None = None

    def run(self, disk: Disk) -> None:
        self.keys = create_keys(self.folder, disk)
        create_keys(self.folder / "other", disk)

    def check(self, disk: Disk) -> None:
        keys = create_keys(self.folder, disk)
        if self.keys is not None:
            assert fingerprint(keys) == fingerprint(self.keys)
        self.keys = keys


def fingerprint(keys: TrailKeys) -> tuple[bytes, ...]:
    signers = (keys.root, keys.log, keys.ticker)
    return (*(one.public_key for one in signers), keys.routing_key, keys.quarantine_key, keys.vault_key)


@every_death
@every_cut
def test_keys_that_were_made_once_stay_the_same(tmp_path: Path, cut: PowerCut, after: bool, torn: bool) -> None:
    die_everywhere(tmp_path, KeysLife, cut, after=after, torn=torn, least=50)
