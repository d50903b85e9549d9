"""Forgeries of structure, by outsiders, operators and insiders: each is refused and names the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builders import LOG, STRANGER
from evidence_world import VAULT_KEY, World, full_world
from rlhf_audit_auditor.report import Report
from rlhf_audit_auditor.verify import Options, verify
from rlhf_audit_ledger.checkpoint import parse_checkpoint, sign_checkpoint
from rlhf_audit_ledger.entries import QUARANTINE, EntryClass, entry, quarantine_digest
from rlhf_audit_ledger.header import BatchFacts, SealHeader
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.note import key_for_origin, sign_note, split_note
from rlhf_audit_ledger.objects import SEGMENT as SEGMENTS
from rlhf_audit_ledger.seal import Sealer, move_of
from rlhf_audit_ledger.state import SealState
from rlhf_audit_ledger.step import Move
from rlhf_audit_ledger.vault import open_vault, seal_vault
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.objects import MemoryStore

SEGMENT = "segments/annotations/0/000000000001.avro"
GLOBAL = "global/checkpoint"
PARTITION = "logs/annotations/0/checkpoint"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = full_world(tmp_path / "world")
    assert made.verify().exit_code == 0
    return made


def put(store: MemoryStore, name: str, data: bytes | None) -> None:
    store.delete(name)
    if data is not None:
        store.put(name, data)


def assert_refused(report: Report, *places: str) -> None:
    """Exit status 1, and each place stands in some finding."""
    assert report.exit_code == 1
    for place in places:
        assert any(place in finding.place for finding in report.findings), (place, report.findings)


def test_a_deleted_segment_is_missed(world: World) -> None:
    put(world.objects, SEGMENT, None)
    assert_refused(world.verify(), SEGMENT)
    assert_refused(world.verify(with_payloads=False), SEGMENT)


def test_a_deleted_window_is_the_only_finding_because_the_next_ones_are_run_again(world: World) -> None:
    put(world.objects, SEGMENT, None)
    findings = world.verify().findings
    assert [finding.object for finding in findings] == [SEGMENT]


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "global/notes",
        "logs/annotations/0/tile/0/001",
        "logs/annotations/0/tile/entries/000.p/300",
        "logs/annotations/9/checkpoint",
        "logs/other/0/checkpoint",
        "segments/annotations/0/000000000003.avro.bak",
        "segments/annotations/0/000000000004.avro",
        "segments/annotations/0/4.avro",
        "segments/lifecycle/0/000000000009.avro",
    ],
)
def test_an_added_object_is_unexplained(world: World, name: str) -> None:
    world.objects.put(name, b"added")
    assert_refused(world.verify(), name)


@pytest.mark.parametrize("name", ["annotations/0/000000000004.0", "annotations/0/000000000001.1", "lifecycle/7/x"])
def test_an_added_payload_object_is_unexplained(world: World, name: str) -> None:
    world.vault.put(name, b"added")
    assert_refused(world.verify(), f"vault/{name}")


def test_the_newest_objects_removed_while_the_checkpoint_stays(world: World) -> None:
    for name in ("segments/annotations/0/000000000002.avro", "logs/annotations/0/tile/entries/001.p/75"):
        world.objects.get(name)
        put(world.objects, name, None)
    assert_refused(world.verify(), "000000000002.avro", "tile/entries/001.p/75")


def test_the_newest_window_removed_with_the_checkpoint_that_was_true_before(world: World) -> None:
    """The operator without keys: the global log still names what is gone."""
    put(world.objects, PARTITION, SEGMENTS.decode(SEGMENT, world.objects.get(SEGMENT))[-1]["checkpoint"])
    put(world.objects, "segments/annotations/0/000000000002.avro", None)
    assert_refused(world.verify(), "annotations/0")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SEGMENT, "segments/annotations/0/000000000002.avro"),
        (SEGMENT, "segments/annotations/1/000000000000.avro"),
        (PARTITION, "logs/annotations/1/checkpoint"),
        (PARTITION, GLOBAL),
        ("logs/annotations/0/tile/0/000", "logs/annotations/0/tile/entries/000"),
    ],
)
def test_two_objects_swapped(world: World, one: str, other: str) -> None:
    first, second = world.objects.get(one), world.objects.get(other)
    put(world.objects, one, second)
    put(world.objects, other, first)
    assert_refused(world.verify(), one, other)


def test_two_payload_objects_swapped(world: World) -> None:
    names = ("annotations/0/000000000000.0", "annotations/0/000000000001.0")
    first, second = (world.vault.get(name) for name in names)
    put(world.vault, names[0], second)
    put(world.vault, names[1], first)
    assert_refused(world.verify(), *names)


def test_a_payload_encrypted_anew_under_the_real_key_does_not_fit_its_window(world: World) -> None:
    name = "vault/annotations/0/000000000001.0"
    records = open_vault(name, world.vault.get(name[6:]), VAULT_KEY)
    value = records[0].value
    assert value is not None
    edited = [replace(records[0], value=value[:-80] + bytes((value[-80] ^ 1,)) + value[-79:]), *records[1:]]
    put(world.vault, name[6:], seal_vault(name, edited, VAULT_KEY))
    assert_refused(world.verify(), name)


def test_a_payload_object_under_another_key_while_others_are_under_ours(world: World) -> None:
    name = "vault/annotations/0/000000000001.0"
    records = open_vault(name, world.vault.get(name[6:]), VAULT_KEY)
    put(world.vault, name[6:], seal_vault(name, records, bytes(32)))
    assert_refused(world.verify(), name)


def test_a_window_sealed_under_another_key(tmp_path: Path, world: World) -> None:
    other = World(tmp_path / "other", log=STRANGER)
    lane = other.partition().lane("ingest/00")
    for count in (300, 20, 7):
        other.partition().take(lane.cut(count).value)
        other.partition().close()
    for name in (SEGMENT, PARTITION):
        put(world.objects, name, other.objects.get(name))
    assert_refused(world.verify(), SEGMENT, PARTITION)


def test_a_trail_wiped_and_begun_anew_under_the_same_name(tmp_path: Path, world: World) -> None:
    anew = World(tmp_path / "anew", nonce=1)
    anew.partition().take(anew.partition().lane().cut(5, final=True).value)
    anew.partition().close()
    assert anew.verify().exit_code == 0
    assert_refused(anew.verify(Options(expect=world.checkpoint)), GLOBAL)


def test_a_trail_begun_anew_under_another_key_is_refused_before_its_key_is_looked_at(
    tmp_path: Path, world: World
) -> None:
    anew = World(tmp_path / "anew", log=STRANGER)
    honest_key = key_for_origin(LOG.public_key, world.genesis.log_name).format()
    trail = replace(anew.trail(), vkey=honest_key)
    report = verify(trail, Options(expect=world.checkpoint))
    assert_refused(report, GLOBAL)
    assert "or the wrong file was given" in " ".join(finding.message for finding in report.findings)
    with pytest.raises(CouldNotCheckError, match="no checkpoint names the key"):
        verify(trail, Options())


def test_the_global_log_rolled_back_with_the_old_checkpoint_kept(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    part = world.partition()
    lane = part.lane()
    kept: list[bytes] = []
    for count in (300, 20, 7):
        part.take(lane.cut(count, final=count == 7).value)
        part.close()
        kept.append(world.checkpoint)
    put(world.objects, GLOBAL, kept[1])
    report = world.verify()
    assert report.exit_code == 0
    assert report.pending != []  # indistinguishable from a publication cut short
    assert_refused(world.verify(Options(expect=kept[2])), GLOBAL)
    assert world.verify(Options(expect=kept[0])).exit_code == 0


def test_a_signature_line_added(world: World) -> None:
    for name in (GLOBAL, PARTITION):
        honest = world.objects.get(name)
        text = split_note(honest)[0]
        line = sign_note(text, "stranger.example", STRANGER).decode().split("\n\n", 1)[1]
        put(world.objects, name, honest + line.encode())
        assert_refused(world.verify(), name)
        put(world.objects, name, honest)
    assert world.verify().exit_code == 0


def test_a_checkpoint_with_the_right_text_by_another_key(world: World) -> None:
    for name in (GLOBAL, PARTITION):
        honest = world.objects.get(name)
        put(world.objects, name, sign_checkpoint(parse_checkpoint(split_note(honest)[0]), STRANGER))
        assert_refused(world.verify(), name)
        put(world.objects, name, honest)


def test_a_missing_checkpoint(world: World) -> None:
    for name in (GLOBAL, PARTITION):
        honest = world.objects.get(name)
        put(world.objects, name, None)
        assert_refused(world.verify(), name)
        put(world.objects, name, honest)


def facts_doctor(**changes: object) -> Callable[[Sealer, SealState, SourceMessage, bytes], Move]:
    """Seal a batch with other facts than its bytes give."""

    def doctor(sealer: Sealer, state: SealState, message: SourceMessage, salt: bytes) -> Move:
        move = move_of(sealer.settings, state, message, salt)
        assert move.header.batch is not None
        assert move.row is not None
        facts: BatchFacts = replace(move.header.batch, **changes)  # type: ignore[arg-type]  # fields of the facts
        header = replace(move.header, batch=facts)
        row = replace(move.row, producer=facts.producer)
        return replace(move, header=header, header_bytes=header.encode(), row=row)

    return doctor


def quarantine(sealer: Sealer, state: SealState, message: SourceMessage, salt: bytes) -> Move:
    """Seal a message as one that could not be accepted."""
    value = message.value or b""
    digest = quarantine_digest(salt, value)
    header = SealHeader(state.source_id, message.offset, message.ts_us, "quarantined", None, digest, None)
    body = {"reason": "undecodable", "length": len(value), "digest": digest}
    return Move(header, header.encode(), (entry(EntryClass.QUARANTINE, QUARANTINE.encode(body)),))


@pytest.mark.parametrize(
    "doctor",
    [
        facts_doctor(producer="ingest/ff"),
        facts_doctor(kind=0x0102),
        facts_doctor(final=True),
        facts_doctor(digest=bytes(32)),
        quarantine,
    ],
    ids=["moved to another lane", "read under another schema", "ended early", "other digest", "good, quarantined"],
)
def test_an_insider_with_all_keys_who_seals_a_message_as_what_it_is_not(
    tmp_path: Path, doctor: Callable[[Sealer, SealState, SourceMessage, bytes], Move]
) -> None:
    world = World(tmp_path / "world")
    part = world.partition()
    part.take(part.lane("ingest/aa").cut(5, final=True).value)
    part.close()
    part.take(part.lane("ingest/bb").cut(5).value, doctor=doctor)
    part.close()
    assert_refused(world.verify(), "annotations/0, window 1")


def test_an_event_replaced_in_payload_and_log_breaks_the_producers_signature(tmp_path: Path) -> None:
    """The insider holds the log key and not the producer's, which died with its process."""
    world = World(tmp_path / "world")
    part = world.partition()
    lane = part.lane()
    value = lane.cut(5).value
    honest = move_of(part.settings, part.state, SourceMessage(0, 0, value), bytes(16))
    edited = value.replace(b"event 3", b"event X")

    def doctor(sealer: Sealer, state: SealState, message: SourceMessage, salt: bytes) -> Move:
        return replace(honest, header=replace(honest.header, ts_us=message.ts_us))

    part.take(edited, doctor=doctor)
    part.close()
    assert_refused(world.verify(), "annotations/0, window 0")


def test_a_tick_that_names_a_global_state_that_never_was(tmp_path: Path) -> None:
    for changes in ({"global_root": bytes(32)}, {"global_size": 99}, {"global_size": 0}):
        world = World(tmp_path / f"world{len(changes)}{changes}".replace("/", "")[:20])
        part = world.partition()
        part.take(part.lane().cut(5, final=True).value)
        part.close(**changes)
        assert_refused(world.verify(), "annotations/0, window 0")
