"""A training node elsewhere: what it is given is enough to record, and nothing that signs or decrypts."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.ledger_facts import known_facts, ledger_facts
from rlhf_audit_trail.node_kit import LEDGER_FILE
from rlhf_audit_trail.recording import AuditTrail
from rlhf_audit_trail.settings import load_settings
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
