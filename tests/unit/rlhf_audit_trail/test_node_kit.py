"""A training node elsewhere: what it is given is enough to record, and nothing that signs or decrypts."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.ledger_facts import known_facts, ledger_facts
from rlhf_audit_trail.node_kit import LEDGER_FILE
from rlhf_audit_trail.recording import AuditTrail
from rlhf_audit_trail.settings import load_settings
from rlhf_audit_trail.trail_state import _run_of
from spooling import spooled


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    directory = tmp_path / "trail"
    ledger_facts(directory, load_settings(directory, environ={"RLHF_AUDIT_PARTITIONS": "annotations=3"}))
    (directory / "config.toml").write_text('topic_prefix = "lab."\n', encoding="utf-8")
    return directory


def test_a_kit_holds_one_secret_and_what_names_the_ledger(trail: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    assert main(["keys", str(trail), "--node-kit", str(node)]) == 0
    files = {path.relative_to(node).as_posix() for path in node.rglob("*") if path.is_file()}
    assert files == {LEDGER_FILE, "keys/routing.key", "config.toml"}
    assert stat.S_IMODE((node / "keys" / "routing.key").stat().st_mode) == 0o600
    assert known_facts(node) == known_facts(trail)
    assert known_facts(node).partitions["annotations"] == 3
    assert load_settings(node).topic_prefix == "lab."
    assert main(["keys", str(trail), "--node-kit", str(node)]) == 0, "again changes nothing"


def test_a_node_records_for_the_ledger_of_its_kit_and_begins_none(trail: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    main(["keys", str(trail), "--node-kit", str(node)])
    with AuditTrail(node, "far", rank=0, world_size=1, runtime=False) as far:
        far.log_annotations(items=["a"], rewards=[1.0], annotators=["rater"])
    assert {body.ledger_id for _, body in spooled(node)} == {known_facts(trail).ledger_id}
    assert not (node / "objects").exists()


def test_a_rank_that_moves_to_another_node_is_another_producer(trail: Path, tmp_path: Path) -> None:
    """Both nodes take epoch 0 on disks of their own: under one name the sealer would lose the second one's events."""
    names = []
    for node in (tmp_path / "node1", tmp_path / "node2", tmp_path / "node1"):
        main(["keys", str(trail), "--node-kit", str(node)])
        with AuditTrail(node, "far/run", rank=3, world_size=4, runtime=False) as far:
            far.log_annotations(items=["a"], rewards=[1.0])
            far.flush()
            names.append(far.producer)
    assert names[0] == names[2] != names[1]
    for name in (*names, f"{names[0]}/2"):
        assert _run_of(name) == ("far/run", "run", 3)
    assert {body.epoch for _, body in spooled(tmp_path / "node1")} == {0, 1}


def test_producers_of_the_shipper_are_no_runs() -> None:
    for name in (f"shipper/{bytes(16).hex()}", f"shipper/{bytes(16).hex()}/7", f"runtime/{bytes(16).hex()}"):
        assert _run_of(name)[1:] == ("runtime", None)


def test_a_kit_of_another_ledger_is_not_overwritten(trail: Path, tmp_path: Path) -> None:
    other, node = tmp_path / "other", tmp_path / "node"
    ledger_facts(other, load_settings(other, environ={}))
    main(["keys", str(trail), "--node-kit", str(node)])
    assert main(["keys", str(other), "--node-kit", str(node)]) == 2
    assert known_facts(node) == known_facts(trail)
    assert main(["keys", str(trail), "--node-kit", str(other)]) == 2, "a trail is no place for a kit"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ledger_id": "00", "partitions": {"annotations": 1}}'])
def test_a_broken_kit_is_told(trail: Path, tmp_path: Path, text: str) -> None:
    node = tmp_path / "node"
    main(["keys", str(trail), "--node-kit", str(node)])
    (node / LEDGER_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="make the kit again"):
        known_facts(node)


def test_a_kit_names_no_annotator_and_no_signing_key(trail: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    main(["keys", str(trail), "--node-kit", str(node)])
    known = json.loads((node / LEDGER_FILE).read_text(encoding="ascii"))
    assert known.keys() == {"ledger_id", "partitions"}


def test_a_kit_is_made_of_a_ledger_whose_objects_lie_elsewhere(
    trail: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = known_facts(trail)
    bucket = FolderStore(trail.rename(tmp_path / "moved") / "objects")
    (trail / "keys").mkdir(parents=True)
    shutil.copy(tmp_path / "moved/keys/routing.key", trail / "keys")
    monkeypatch.setattr("rlhf_audit_trail.places.open_objects", lambda directory, settings: bucket)
    node = tmp_path / "node"
    assert main(["keys", str(trail), "--node-kit", str(node), "--objects-url", "s3://evidence/trail"]) == 0
    assert known_facts(node) == facts


def test_no_second_ledger_is_begun_where_the_evidence_is_kept_elsewhere(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={"RLHF_AUDIT_OBJECTS_URL": "s3://evidence/trail"})
    with pytest.raises(ConfigError, match="--node-kit"):
        ledger_facts(tmp_path, settings)
    assert list(tmp_path.iterdir()) == []


def test_a_kit_whose_making_was_cut_short_is_made_again(trail: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    main(["keys", str(trail), "--node-kit", str(node)])
    (node / LEDGER_FILE).unlink()
    assert main(["keys", str(trail), "--node-kit", str(node)]) == 0
    assert known_facts(node) == known_facts(trail)
