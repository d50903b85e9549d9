"""The second reader accepts a small trail made with our tiles, and refuses every flipped byte of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature

from builders import LOG, ROOT, START_US, Lane, log_of, make_genesis, make_sealer, seal_values, tick_value
from oracle import second_reader
from oracle.second_reader import read_trail
from rlhf_audit_ledger.checkpoint import Checkpoint, sign_checkpoint
from rlhf_audit_ledger.genesis import ledger_id, sign_genesis
from rlhf_audit_ledger.globallog import genesis_leaf, signature_leaf
from rlhf_audit_ledger.ids import global_origin
from rlhf_audit_ledger.merkle import leaf_hashes
from rlhf_audit_ledger.note import key_for_origin
from rlhf_audit_ledger.tiles import Edge, grow

FAULTS = (second_reader.RefusedError, InvalidSignature, ValueError, LookupError, OSError)
VKEY = key_for_origin(LOG.public_key, "rlhf-audit.test").format()


def write_log(folder: Path, entries: list[bytes], checkpoint: bytes) -> None:
    _, objects, _ = grow(Edge.empty(), entries, leaf_hashes(entries))
    for path, data in {**objects, "checkpoint": checkpoint}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail of one partition with two windows, 600 events, and its global log."""
    trail = tmp_path_factory.mktemp("trail")
    sealer = make_sealer()
    lane = Lane(sealer.settings)
    ticks = [tick_value(sealer.settings, n, START_US, flush=True) for n in (1, 2)]
    _, records = seal_values(sealer, [lane.cut(300).value, ticks[0], lane.cut(300).value, ticks[1]])
    checkpoints = [one.record.checkpoint for one in records if one.record.checkpoint is not None]
    write_log(trail / "objects/logs/annotations/2", log_of(sealer.settings, records), checkpoints[-1])
    data = make_genesis().encode()
    entries = [genesis_leaf(data), signature_leaf(sign_genesis(data, ROOT)), *checkpoints]
    edge, _, _ = grow(Edge.empty(), entries, leaf_hashes(entries))
    origin = global_origin("rlhf-audit.test", ledger_id(data))
    write_log(trail / "objects/global", entries, sign_checkpoint(Checkpoint(origin, edge.size, edge.root()), LOG))
    (trail / "keys").mkdir()
    (trail / "keys" / "log.vkey").write_text(VKEY + "\n", encoding="utf-8")
    return trail


@pytest.fixture
def trail(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "trail"))


def test_a_sound_trail_is_counted(trail: Path) -> None:
    sizes = read_trail(trail, VKEY)
    assert sorted(sizes.values()) == [2, 4, 603]


def test_partial_tiles_of_an_older_size_may_lie_there_if_they_are_right(trail: Path) -> None:
    tile = trail / "objects/logs/annotations/2/tile/0"
    old = tile / "002.p" / "9"
    old.write_bytes((tile / "002.p" / "91").read_bytes()[: 9 * 32])
    read_trail(trail, VKEY)
    old.write_bytes(bytes(9 * 32))
    with pytest.raises(second_reader.RefusedError):
        read_trail(trail, VKEY)


def test_it_runs_as_a_program(trail: Path) -> None:
    run = [sys.executable, second_reader.__file__, str(trail)]
    assert "603" in subprocess.run(run, check=True, capture_output=True, text=True).stdout
    (trail / "objects/global/checkpoint").write_bytes(b"")
    assert subprocess.run(run, check=False, capture_output=True).returncode != 0


def test_every_file_counts(trail: Path) -> None:
    for path in sorted(path for path in (trail / "objects").rglob("*") if path.is_file()):
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(FAULTS):
                read_trail(trail, VKEY)
        path.unlink()
        with pytest.raises(FAULTS):
            read_trail(trail, VKEY)
        path.write_bytes(good)
    read_trail(trail, VKEY)


def test_another_key_an_extra_file_and_a_lost_log_are_refused(trail: Path) -> None:
    with pytest.raises(second_reader.RefusedError, match="not signed"):
        read_trail(trail, key_for_origin(ROOT.public_key, "rlhf-audit.test").format())
    (trail / "objects/global/tile/extra").write_bytes(b"")
    with pytest.raises(second_reader.RefusedError, match="extra"):
        read_trail(trail, VKEY)
    (trail / "objects/global/tile/extra").unlink()
    shutil.rmtree(trail / "objects/logs")
    with pytest.raises(second_reader.RefusedError, match="are gone"):
        read_trail(trail, VKEY)
