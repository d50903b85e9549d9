"""Two versions of the sealer take turns on one partition, as in a rolling update, and agree byte for byte.

The later version is a copy of the packages that ships one kind of event and one schema more, and knows format 2. Each
turn is a process of its own with another hash seed that seals again all that the other has sealed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rlhf_audit_ledger
import rlhf_audit_schemas
from builders import (
    SOURCE_ID,
    START_US,
    WINDOW_US,
    Lane,
    format_value,
    make_sealer,
    schema_value,
    sealed_from,
    tick_value,
)
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_schemas.kinds import shipped_schemas
from rlhf_audit_stores.sealedlog import SealedLog
from rlhf_audit_stores.sourcelog import SourceLog
from rlhf_audit_trail.runtime_start import python_path

CHILD = Path(__file__).with_name("sealing_version.py")
STOPPED = 7
SEALER = make_sealer()
NEW_KIND = 0x0105


def values() -> list[bytes | None]:
    """Every outcome, and what only the later version ships: a schema before and after it is listed, and a kind."""
    settings = SEALER.settings
    lane, other = Lane(settings), Lane(settings, "run/0")
    first, lost, third = lane.cut(3), lane.cut(2), lane.cut(1)
    fork = lane.other(1, first_seq=lane.next_body.first_seq - 1, events=(b"other",))
    unlisted = other.other(1, schema=2)
    listing = [schema_value(settings, 2), tick_value(settings, 1, START_US + WINDOW_US, flush=True)]
    listed = other.cut(2, schema=2)
    unknown_kind = other.other(1, kind=NEW_KIND)
    unknown_pair = schema_value(settings, 1, NEW_KIND)
    final = [lane.cut(1, final=True).value, tick_value(settings, 2, START_US + 2 * WINDOW_US)]
    return [
        first.value, third.value, None, lost.value, third.value, fork.value, b"rubbish", unlisted.value, *listing,
        listed.value, unknown_kind.value, unknown_pair, tick_value(settings, 1), *final,
    ]  # fmt: skip


@dataclass(frozen=True)
class Version:
    """Where a version's packages lie, in front of ours."""

    name: str
    front: tuple[Path, ...]
    kinds: int

    def turn(self, folder: Path, count: int, *, seed: int = 0) -> int | None:
        """Seal up to ``count`` messages; the last m, None if it stopped before a format that it does not know."""
        path = os.pathsep.join([*map(str, self.front), python_path(), str(CHILD.parents[1])])
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD), str(folder), str(count)],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode == STOPPED:
            return None
        assert done.returncode == 0, done.stderr[-2000:]
        kinds, m = map(int, done.stdout.split())
        assert kinds == self.kinds, self.name
        return m


NOW = Version("this one", (), len(shipped_schemas()))


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Version:
    place = tmp_path_factory.mktemp("later")
    copies = {}
    for package in (rlhf_audit_schemas, rlhf_audit_ledger):
        folder = Path(str(package.__file__)).parent
        copies[folder.name] = place / folder.name / folder.name
        shutil.copytree(folder, copies[folder.name], ignore=shutil.ignore_patterns("__pycache__"))
    schemas, ledger = copies["rlhf_audit_schemas"], copies["rlhf_audit_ledger"]
    change(
        schemas / "kinds.py",
        'Kind("annotation", 0x0101, "annotations"),',
        'Kind("annotation", 0x0101, "annotations", (1, 2)), Kind("ranking", 0x0105, "annotations"),',
    )
    change(ledger / "state.py", "if state.format != FORMAT:", "if state.format not in (FORMAT, 2):")
    schema = json.loads((schemas / "avro/annotation/v1.avsc").read_text(encoding="utf-8"))
    (schemas / "avro/ranking").mkdir()
    (schemas / "avro/ranking/v1.avsc").write_text(json.dumps({**schema, "name": "Ranking"}), encoding="utf-8")
    schema["fields"].append({"name": "more", "type": ["null", "string"], "default": None})
    (schemas / "avro/annotation/v2.avsc").write_text(json.dumps(schema), encoding="utf-8")
    return Version("the later one", (schemas.parent, ledger.parent), NOW.kinds + 2)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name}: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def write_source(folder: Path, source: list[bytes | None]) -> list[SourceMessage]:
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "source.id").write_text(SOURCE_ID.hex() + "\n", encoding="ascii")
    log = SourceLog.open(folder / "source")
    for value in source:
        log.append(value, START_US)
    log.sync()
    found = list(log.read_from(0))
    log.close()
    return found


def sealed_in(folder: Path) -> list[bytes]:
    log = SealedLog.open(folder / "sealed")
    records = [data for _, data in log.read_from(1)]
    log.close()
    return records


def test_versions_that_alternate_seal_what_one_alone_seals(later: Version, tmp_path: Path) -> None:
    messages = write_source(tmp_path, values())
    m: int | None = 0
    for turn in range(6):
        m = (NOW, later)[turn % 2].turn(tmp_path, 3, seed=turn)
    assert m == len(messages)
    _, alone = sealed_from(SEALER, messages)
    assert sealed_in(tmp_path) == [one.record.encode() for one in alone]
    outcomes = {one.header.outcome for one in alone}
    assert outcomes == {
        "accepted", "duplicate", "gap_filled", "conflict", "quarantined", "control", "ignored", "hole",
    }  # fmt: skip


def test_a_format_switch_happens_at_one_record(later: Version, tmp_path: Path) -> None:
    """The version that does not know the new format seals the switch itself, and nothing behind it."""
    settings = SEALER.settings
    lane = Lane(settings)
    first, second = lane.cut(2), lane.cut(3)
    messages = write_source(tmp_path, [first.value, format_value(settings), second.value, tick_value(settings, 1)])
    assert NOW.turn(tmp_path, 9) is None
    before = sealed_in(tmp_path)
    _, alone = sealed_from(SEALER, messages[:2])
    assert before == [one.record.encode() for one in alone]
    assert later.turn(tmp_path, 1) == 3
    assert NOW.turn(tmp_path, 9) is None
    assert later.turn(tmp_path, 9) == 4
    assert sealed_in(tmp_path)[:2] == before
    shutil.rmtree(tmp_path / "sealed")
    assert later.turn(tmp_path, 9) == 4
    assert sealed_in(tmp_path)[:2] == before, "the later version alone makes the switch the same record"
