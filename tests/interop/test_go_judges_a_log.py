"""Programs that nobody here wrote judge our logs, our forgeries and our proofs; ours must agree with them.

The table of forgeries says what each judge can see. Two histories signed with the real key are beyond any judge that
looks at one folder: a checkpoint known from elsewhere settles those, and the last tests show it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from interop.judge import Verdicts, ask, judge_log, module_folder, write_proof
from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from rlhf_audit_ledger.domain import sha256
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.merkle import leaf_hashes, root_of
from rlhf_audit_ledger.note import key_for_origin, parse_private_key
from rlhf_audit_ledger.proofs import (
    ProofError,
    consistency_proof,
    verify_consistency,
    verify_inclusion,
)
from rlhf_audit_ledger.tiles import Edge, TileReader, decode_bundle, expected_objects, grow, load_edge
from rlhf_audit_schemas.errors import AuditTrailError

pytestmark = pytest.mark.service

SIGNER = SeedSigner(bytes(range(32)))
ORIGIN = "example.com/rlhf/global"
VKEY = key_for_origin(SIGNER.public_key, ORIGIN).format()
SIZE = 700  # a partial bundle, and partial tiles on levels 0 and 1
ENTRIES = [b"\x01\x01" + sha256(b"event %d" % number) for number in range(SIZE)]
# A litewitness (torchwood v0.9.0) with the seed 20..3f co-signed exactly this log.
WITNESS_VKEY = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
WITNESS_LINE = (
    "— witness.example/w1 IDJKvgAAAABrAT1ssfSQn38T6g+4WO53RPmukYBq+bmGCJEvJQkzwR47EK76ipWFDOBEgLb3mjlEUCtyu2MH1GYZrpN"
    "M1AEqauvgCg==\n"
)


def write_log(folder: Path, entries: list[bytes], cuts: tuple[int, ...] = ()) -> None:
    """A log grown in batches that end at ``cuts``, with its checkpoint."""
    edge, begin = Edge.empty(), 0
    for end in (*cuts, len(entries)):
        edge, objects, _ = grow(edge, entries[begin:end], leaf_hashes(entries[begin:end]))
        for path, data in objects.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        begin = end
    (folder / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(ORIGIN, edge.size, edge.root()), SIGNER))


def keep_only_needed(folder: Path) -> None:
    """Delete the partial objects that the current checkpoint does not need."""
    size = open_checkpoint((folder / "checkpoint").read_bytes(), SIGNER.public_key, ORIGIN).checkpoint.size
    needed = {folder / path for path in expected_objects(size)}
    for path in (folder / "tile").rglob("*"):
        if path.is_file() and path not in needed:
            path.unlink()


def we_accept(folder: Path) -> bool:
    """Our own verdict by our own library: every object derived anew from the bundles, then edge and root."""

    def fetch(path: str) -> bytes:
        return (folder / path).read_bytes()

    try:
        checkpoint = open_checkpoint(fetch("checkpoint"), SIGNER.public_key, ORIGIN).checkpoint
        load_edge(checkpoint.size, checkpoint.root, fetch)
        entries: list[bytes] = []
        for path in expected_objects(checkpoint.size):
            if path.startswith("tile/entries/"):
                entries += decode_bundle(fetch(path), min(256, checkpoint.size - len(entries)))
        edge, objects, _ = grow(Edge.empty(), entries, leaf_hashes(entries))
        return edge.root() == checkpoint.root and all(fetch(path) == data for path, data in objects.items())
    except (AuditTrailError, FileNotFoundError):
        return False


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    write_log(folder, ENTRIES, cuts=(1, 256, 600))
    return folder


@pytest.fixture
def log(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest log, free to be forged."""
    return Path(shutil.copytree(honest, tmp_path / "log"))


def test_every_judge_accepts_an_honest_log(interop_binary: Path, log: Path) -> None:
    verdicts = judge_log(interop_binary, log, VKEY, prove=(0, 255, 256, 511, 512, 699))
    assert verdicts == Verdicts(fsck=True, entries=True, note=True, proofs=True), verdicts.said
    assert we_accept(log)
    keep_only_needed(log)
    assert judge_log(interop_binary, log, VKEY, prove=(0, 699)).all_accept
    assert we_accept(log)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 65_536, 66_000])
def test_every_judge_accepts_logs_at_the_borders_of_tiles(interop_binary: Path, tmp_path: Path, size: int) -> None:
    write_log(tmp_path, [b"entry %d" % number for number in range(size)], cuts=(size // 2,))
    keep_only_needed(tmp_path)
    verdicts = judge_log(interop_binary, tmp_path, VKEY, prove={0, size // 2, size - 1})
    assert verdicts.all_accept, verdicts.said
    assert we_accept(tmp_path)


def test_a_log_is_refused_under_another_key_or_name(interop_binary: Path, log: Path) -> None:
    other_key = key_for_origin(SeedSigner(bytes(32)).public_key, ORIGIN).format()
    other_name = key_for_origin(SIGNER.public_key, ORIGIN + "/other").format()
    for vkey in (other_key, other_name):
        assert judge_log(interop_binary, log, vkey) == Verdicts(fsck=False, entries=False, note=False)


# ------------------------------------------------------------------ forgeries


def change(path: str, at: int) -> Callable[[Path], None]:
    def forge(log: Path) -> None:
        data = bytearray((log / path).read_bytes())
        data[at] ^= 1
        (log / path).write_bytes(data)

    return forge


def lose(path: str) -> Callable[[Path], None]:
    return lambda log: (log / path).unlink()


def change_size(log: Path) -> None:
    path = log / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n700\n", b"\n701\n"))


def roll_back(log: Path) -> None:
    checkpoint = Checkpoint(ORIGIN, 600, root_of(leaf_hashes(ENTRIES[:600])))
    (log / "checkpoint").write_bytes(sign_checkpoint(checkpoint, SIGNER))


def roll_back_without_its_partial_tiles(log: Path) -> None:
    keep_only_needed(log)
    roll_back(log)


def seal_anew(log: Path) -> None:
    shutil.rmtree(log / "tile")
    write_log(log, [*ENTRIES[:300], b"\x01\x01" + sha256(b"forged"), *ENTRIES[301:]])


CHANGED = Verdicts(fsck=False, entries=False, note=True)
UNSIGNED = Verdicts(fsck=False, entries=False, note=False)
UNSEEN = Verdicts(fsck=True, entries=True, note=True)

FORGERIES: dict[str, tuple[Callable[[Path], None], Verdicts]] = {
    "a byte in a full bundle": (change("tile/entries/000", 100), CHANGED),
    "the length prefix in a full bundle": (change("tile/entries/000", 1), CHANGED),
    "a full bundle lost": (lose("tile/entries/001"), CHANGED),
    "a byte in the partial bundle": (change("tile/entries/002.p/188", 100), CHANGED),
    "the length prefix in the partial bundle": (change("tile/entries/002.p/188", 1), CHANGED),
    "the partial bundle lost": (lose("tile/entries/002.p/188"), CHANGED),
    "a full tile changed": (change("tile/0/001", 5_000), CHANGED),
    "a full tile lost": (lose("tile/0/000"), CHANGED),
    "the partial tile of level 0 changed": (change("tile/0/002.p/188", 6_015), CHANGED),
    "the partial tile of level 0 lost": (lose("tile/0/002.p/188"), CHANGED),
    "the partial tile of level 1 changed": (change("tile/1/000.p/2", 63), CHANGED),
    "the partial tile of level 1 lost": (lose("tile/1/000.p/2"), CHANGED),
    "a digit of the size": (change_size, UNSIGNED),
    "a byte of the signature": (change("checkpoint", -20), UNSIGNED),
    "a byte of the root": (change("checkpoint", len(ORIGIN) + 10), UNSIGNED),
    "no checkpoint": (lose("checkpoint"), UNSIGNED),
    "an older checkpoint, its partial tiles gone": (roll_back_without_its_partial_tiles, CHANGED),
    "an older checkpoint, its partial tiles kept": (roll_back, UNSEEN),
    "another history sealed with the real key": (seal_anew, UNSEEN),
}


@pytest.mark.parametrize(("forge", "expected"), FORGERIES.values(), ids=FORGERIES.keys())
def test_every_judge_sees_of_a_forgery_what_can_be_seen(
    interop_binary: Path, log: Path, forge: Callable[[Path], None], expected: Verdicts
) -> None:
    forge(log)
    verdicts = judge_log(interop_binary, log, VKEY)
    assert verdicts == expected, verdicts.said
    assert we_accept(log) == expected.all_accept


@pytest.mark.parametrize("forge", [roll_back, seal_anew])
def test_a_checkpoint_from_elsewhere_shows_what_no_judge_can_see(log: Path, forge: Callable[[Path], None]) -> None:
    known = open_checkpoint((log / "checkpoint").read_bytes(), SIGNER.public_key, ORIGIN).checkpoint
    forge(log)
    now = open_checkpoint((log / "checkpoint").read_bytes(), SIGNER.public_key, ORIGIN).checkpoint
    reader = TileReader(now.size, lambda path: (log / path).read_bytes())
    proof = consistency_proof(min(known.size, now.size), now.size, reader.hash_at)
    with pytest.raises(ProofError):
        verify_consistency(known.size, known.root, now.size, now.root, proof)


# ------------------------------------------------------------------ proofs


def test_forged_proofs_are_refused(interop_binary: Path, honest: Path, tmp_path: Path) -> None:
    proof, entry = write_proof(honest, 300, tmp_path)
    assert ask(interop_binary, "proof", VKEY, proof, entry)[0]
    lines = proof.read_text().split("\n")
    for forged in (
        [lines[0], "index 301", *lines[2:]],
        [*lines[:2], *lines[3:]],
        [*lines[:2], lines[2], *lines[2:]],
        [*lines[:2], lines[3], lines[2], *lines[4:]],
        lines[1:],
    ):
        proof.write_text("\n".join(forged))
        assert not ask(interop_binary, "proof", VKEY, proof, entry)[0]
    proof.write_text("\n".join(lines))
    entry.write_bytes(ENTRIES[301])
    assert not ask(interop_binary, "proof", VKEY, proof, entry)[0]


def test_a_policy_with_a_witness_accepts_the_cosigned_proof_alone(
    interop_binary: Path, log: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy"
    policy.write_text(f"log {VKEY}\nwitness w1 {WITNESS_VKEY}\nquorum w1\n")
    assert not ask(interop_binary, "policy", policy, *write_proof(log, 300, tmp_path))[0]
    checkpoint = log / "checkpoint"
    checkpoint.write_text(checkpoint.read_text() + WITNESS_LINE)
    assert ask(interop_binary, "policy", policy, *write_proof(log, 300, tmp_path))[0]
    opened = open_checkpoint(checkpoint.read_bytes(), SIGNER.public_key, ORIGIN)
    assert [line.name for line in opened.others] == ["witness.example/w1"]


def test_the_proofs_of_another_library_verify_and_no_change_to_them_does(interop_binary: Path) -> None:
    printed = subprocess.run([interop_binary, "vectors", "64"], capture_output=True, text=True, check=True).stdout
    vectors = [json.loads(line) for line in printed.splitlines()]
    assert len(vectors) == 4_160
    for vector in vectors:
        proof = [bytes.fromhex(value) for value in vector["proof"]]
        verify_vector(vector, proof)
        changed = [[*proof, bytes(32)]]
        if proof:
            at = len(proof) // 2
            flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
            changed += [[*proof[:at], flipped, *proof[at + 1 :]], proof[:at] + proof[at + 1 :], proof[:-1], proof[1:]]
            changed += [[proof[0], *proof], [*proof[:at], proof[at][:31], *proof[at + 1 :]]]
        for forged in changed:
            with pytest.raises(ProofError):
                verify_vector(vector, forged)


def verify_vector(vector: dict[str, str], proof: list[bytes]) -> None:
    """One printed vector, with this proof in place of its own."""
    if vector["kind"] == "inclusion":
        leaf, root = bytes.fromhex(vector["leaf"]), bytes.fromhex(vector["root"])
        verify_inclusion(leaf, int(vector["index"]), int(vector["size"]), proof, root)
    else:
        old_root, new_root = bytes.fromhex(vector["old_root"]), bytes.fromhex(vector["new_root"])
        verify_consistency(int(vector["old_size"]), old_root, int(vector["new_size"]), new_root, proof)


# ------------------------------------------------------------------ a log made by others


def test_a_log_made_by_tessera_comes_out_byte_for_byte(interop_binary: Path) -> None:
    """Tessera ships the log of fifteen words with all its partial objects and every checkpoint since size 0."""
    assert interop_binary.exists()
    shipped = module_folder("github.com/transparency-dev/tessera") / "testdata" / "log"
    private_key = "PRIVATE+KEY+example.com/log/testdata+33d7b496+AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg"
    origin, signer = parse_private_key(private_key)
    words = b"one two three four five six seven eit nain ten ileven twelf threeten fourten fivten".split()
    edge, objects = Edge.empty(), dict[str, bytes]()
    for size in range(16):
        if size:
            edge, new, _ = grow(edge, words[size - 1 : size], leaf_hashes(words[size - 1 : size]))
            objects |= new
        checkpoint = sign_checkpoint(Checkpoint(origin, size, edge.root()), signer)
        assert checkpoint == (shipped / f"checkpoint.{size}").read_bytes()
    theirs = {path.relative_to(shipped).as_posix(): path.read_bytes() for path in (shipped / "tile").rglob("*.p/*")}
    assert objects == theirs
