"""Exit status, level, memory and requirements: the three outcomes never mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders import START_US, STRANGER
from evidence_world import World, full_world
from flipping import checkpoint_fields
from rlhf_audit_auditor.evidence import FolderEvidence, StoreEvidence, Trail
from rlhf_audit_auditor.memory import Memory, default_memory
from rlhf_audit_auditor.opening import open_trail
from rlhf_audit_auditor.requirements import Requirements, parse_requirements
from rlhf_audit_auditor.verify import Options, verify
from rlhf_audit_ledger.note import key_for_origin
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
from rlhf_audit_stores.objects import MemoryStore


@pytest.fixture
def world(tmp_path: Path) -> World:
    return full_world(tmp_path / "world")


def copied(world: World, folder: Path) -> Path:
    """The world's objects and payloads as files."""
    for name, store in (("objects", world.objects), ("vault", world.vault)):
        for info in store.list(""):
            path = folder / name / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.get(info.name))
    return folder


def test_a_whole_trail_passes_and_says_what_it_proves(world: World) -> None:
    report = world.verify()
    assert report.exit_code == 0
    assert report.level == "agrees with itself"
    assert report.completeness is not None
    assert report.completeness.verdict == "yes"
    assert report.events_by_stream()["annotations"] == {"annotation": 332}
    assert report.payloads.rehashed == report.payloads.messages == 8
    assert any("never used: lifecycle/0" in line for line in report.proved())


def test_without_payloads_the_log_is_checked_all_the_same_and_completeness_is_unknown(world: World) -> None:
    report = world.verify(with_payloads=False)
    assert report.exit_code == 0
    assert report.events == 332
    assert report.payloads.rehashed == 0
    assert report.completeness is not None
    assert report.completeness.verdict == "unknown"


def test_a_key_from_elsewhere_is_another_level(world: World) -> None:
    assert verify(world.trail(is_key_own=False), Options()).level == "key from elsewhere"


def test_a_known_checkpoint_that_is_extended_is_the_highest_level(world: World) -> None:
    report = verify(world.trail(is_key_own=False), Options(expect=world.checkpoint))
    assert report.level == "extends a checkpoint known before"


def test_a_key_that_no_checkpoint_names_could_not_check(world: World) -> None:
    stranger = key_for_origin(STRANGER.public_key, world.genesis.log_name).format()
    with pytest.raises(CouldNotCheckError, match="no checkpoint names"):
        verify(replace(world.trail(), vkey=stranger), Options())


def test_no_object_could_not_check() -> None:
    with pytest.raises(CouldNotCheckError, match="nothing to check"):
        verify(Trail(StoreEvidence(MemoryStore()), None), Options())


def test_an_empty_and_a_missing_folder_could_not_be_checked(tmp_path: Path) -> None:
    (tmp_path / "empty" / "objects").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(CouldNotCheckError):
            verify(open_trail(folder), Options())


def test_an_object_that_cannot_be_read_is_neither_fine_nor_tampered(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    assert verify(open_trail(folder), Options()).exit_code == 0
    path = folder / "objects" / "segments" / "annotations" / "0" / "000000000001.avro"
    path.unlink()
    path.symlink_to(path)  # reading it fails for everybody, root too
    report = verify(open_trail(folder), Options())
    assert report.exit_code == 3
    assert any("000000000001.avro" in line for line in report.unreadable)


def test_leftovers_of_an_unfinished_write_are_told_and_no_finding(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    (folder / "objects" / "global" / ".tmp-0011").write_bytes(b"torn")
    report = verify(open_trail(folder), Options())
    assert report.exit_code == 0
    assert any("1 temporary" in note for note in report.notes)


def test_the_folder_may_be_the_trail_or_its_objects(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    assert verify(open_trail(folder), Options()).exit_code == 0
    assert verify(open_trail(folder / "objects"), Options()).exit_code == 0


def test_a_key_inside_the_trail_is_the_trails_own_word(world: World, tmp_path: Path) -> None:
    folder = copied(world, tmp_path / "copy")
    line = key_for_origin(world.log.public_key, world.genesis.log_name).format() + "\n"
    for place, is_own in ((folder / "mine.vkey", True), (tmp_path / "kept.vkey", False)):
        place.write_text(line)
        assert open_trail(folder, vkey_file=place).is_key_own is is_own


def test_a_lost_payload_object_could_not_be_checked(world: World) -> None:
    world.vault.delete("annotations/0/000000000001.0")
    report = world.verify()
    assert report.exit_code == 3
    assert report.payloads.unreadable == 2
    assert world.verify(with_payloads=False).exit_code == 0


def test_another_vault_key_could_not_check(world: World) -> None:
    report = verify(replace(world.trail(), vault_key=bytes(32)), Options())
    assert report.exit_code == 3
    assert report.findings == []


def test_payloads_asked_for_without_a_key_could_not_be_checked(world: World) -> None:
    wanted = Options(require=Requirements(payload=True))
    assert world.verify(wanted, with_payloads=False).exit_code == 3
    assert world.verify(wanted).exit_code == 0
    assert verify(world.trail(), Options(log_only=True)).payloads.is_asked is False


def test_a_schema_that_is_not_the_shipped_one_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = full_world(tmp_path / "world")
    kind, version, digest = 0x0101, 1, bytes(32)
    monkeypatch.setattr("rlhf_audit_auditor.global_log.shipped_schemas", lambda: [(kind, version, digest)])
    report = world.verify()
    assert [finding.code for finding in report.findings] == ["schema"]
    assert any("is not shipped" in note for note in report.notes)


class TestMemory:
    def test_the_accepted_checkpoint_is_expected_the_next_time(self, world: World, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "state")
        options = Options(memory=memory)
        assert world.verify(options).level == "agrees with itself"
        assert memory.read(world.ledger_id) == world.checkpoint
        part = world.partition(number=1)
        part.take(part.lane("ingest/99").cut(3, final=True).value)
        part.close()
        assert world.verify(options).level == "extends a checkpoint known before"
        assert memory.read(world.ledger_id) == world.checkpoint

    def test_a_rolled_back_log_is_refused_and_not_remembered(self, world: World, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "state")
        older = world.checkpoint
        part = world.partition(number=1)
        part.take(part.lane("ingest/99").cut(3, final=True).value)
        part.close()
        newer = world.checkpoint
        assert world.verify(Options(memory=memory)).exit_code == 0
        world.objects.delete("global/checkpoint")
        world.objects.put("global/checkpoint", older)
        assert world.verify(Options(memory=memory)).exit_code == 1
        assert memory.read(world.ledger_id) == newer

    def test_nothing_is_remembered_of_a_trail_that_does_not_pass(self, world: World, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "state")
        world.objects.put("stray", b"")
        assert world.verify(Options(memory=memory)).exit_code == 1
        assert memory.read(world.ledger_id) is None

    def test_its_folder_comes_from_the_environment(self) -> None:
        assert default_memory({"RLHF_AUDIT_STATE": "/a"}).folder == Path("/a")
        assert default_memory({"XDG_STATE_HOME": "/b"}).folder == Path("/b/rlhf-audit")


class TestExpect:
    def test_bytes_that_are_no_checkpoint_are_a_usage_error(self, world: World) -> None:
        with pytest.raises(ConfigError):
            world.verify(Options(expect=b"nothing"))

    def test_a_partition_checkpoint_is_a_usage_error(self, world: World) -> None:
        with pytest.raises(ConfigError, match="global log"):
            world.verify(Options(expect=world.objects.get("logs/annotations/0/checkpoint")))

    def test_a_checkpoint_with_a_broken_signature_accuses_nobody(self, world: World) -> None:
        data = bytearray(world.checkpoint)
        at = checkpoint_fields(world.checkpoint)["signature"][20]
        data[at] = ord("A") if data[at] != ord("A") else ord("B")
        assert world.verify(Options(expect=bytes(data))).exit_code == 3


class TestRequirements:
    def test_fresh_compares_the_newest_window_with_now(self, world: World) -> None:
        hour = parse_requirements("fresh=1h")
        assert world.verify(Options(require=hour, now_us=START_US + 1_000_000)).exit_code == 0
        report = world.verify(Options(require=hour, now_us=START_US + 7_200_000_000))
        assert (report.exit_code, report.status) == (1, "requirement not met")

    def test_complete_fails_on_an_open_lane(self, world: World) -> None:
        assert world.verify(Options(require=Requirements(complete=True))).exit_code == 0
        part = world.partition(number=1)
        part.take(part.lane("ingest/99").cut(3).value)
        part.close()
        assert world.verify(Options(require=Requirements(complete=True))).exit_code == 1

    def test_witnessed_is_never_met_yet(self, world: World) -> None:
        assert world.verify(Options(require=Requirements(witnessed=True))).exit_code == 1

    @pytest.mark.parametrize("text", ["all", "fresh", "fresh=1", "fresh=h", "complete=1", "fresh=-1h"])
    def test_other_words_are_usage_errors(self, text: str) -> None:
        with pytest.raises(ConfigError):
            parse_requirements(text)

    def test_words_combine(self) -> None:
        assert parse_requirements("complete,fresh=90s,payload") == Requirements(True, True, False, 90_000_000)


def test_a_folder_lists_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("a/b", "a.b", "a-c/d", "a/b.p/1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x") if not path.is_dir() else None
    names = [info.name for info in FolderEvidence(tmp_path).list("")]
    assert names == sorted(names)
