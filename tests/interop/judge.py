"""Hands one log folder to the programs of others and collects their verdicts.

A folder holds ``checkpoint`` and ``tile/``: one C2SP log. Tessera's fsck derives every tile anew, torchwood's client
reads every entry, x/mod opens the note, and formats with merkle check the proofs of single entries. All of them run
inside ``interop`` (``main.go``), which is built on first use. None of them can know a newer or another honest history
of the same log: only a checkpoint from elsewhere shows that.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_audit_ledger.checkpoint import parse_checkpoint
from rlhf_audit_ledger.note import split_note
from rlhf_audit_ledger.proofs import inclusion_proof
from rlhf_audit_ledger.tiles import TILE_WIDTH, TileReader

HERE = Path(__file__).parent
FSCK_SECONDS = 10  # ample for 200,000 entries; a checker without a verdict by then has refused
MAX_WORKERS = 100_000


class InteropUnavailableError(Exception):
    """The judges could not be built here; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """True means accepted; ``said`` holds what a judge gave as its reason to refuse."""

    fsck: bool
    entries: bool
    note: bool
    proofs: bool | None = None
    said: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def all_accept(self) -> bool:
        return self.fsck and self.entries and self.note and self.proofs is not False


def build() -> Path:
    """The ``interop`` program, built from the pinned modules; raises InteropUnavailableError where that cannot be."""
    go = shutil.which("go")
    if go is None:
        raise InteropUnavailableError("no go on the path: programs written by others cannot judge our logs here")
    binary = HERE / "bin" / "interop"
    built = subprocess.run(
        [go, "build", "-trimpath", "-buildvcs=false", "-o", str(binary), "."],
        cwd=HERE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if built.returncode:
        raise InteropUnavailableError(f"go build of tests/interop failed: {built.stderr[-2000:]}")
    return binary


def module_folder(module: str) -> Path:
    """Where the pinned version of a Go module lies on this machine."""
    found = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", module], cwd=HERE, capture_output=True, text=True, check=True
    )
    return Path(found.stdout.strip())


def ask(binary: Path, *arguments: str | Path) -> tuple[bool, str]:
    """One verdict and what was said with it; raises RuntimeError if the judge was asked wrongly."""
    try:
        done = subprocess.run(
            [binary, *arguments], capture_output=True, text=True, check=False, timeout=FSCK_SECONDS + 50
        )
    except subprocess.TimeoutExpired:
        return False, "no verdict in time"
    if done.returncode not in (0, 1):
        raise RuntimeError(f"interop {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode == 0, done.stderr


def judge_log(binary: Path, folder: Path, vkey: str, *, prove: Iterable[int] = ()) -> Verdicts:
    """What the judges say about one log folder; ``prove`` are entries whose inclusion proofs are judged too."""
    said: dict[str, str] = {}
    prove = list(prove)
    with tempfile.TemporaryDirectory() as scratch:
        vkey_file = Path(scratch, "log.vkey")
        vkey_file.write_text(vkey + "\n")
        workers = str(_workers(folder))
        fsck, said["fsck"] = ask(binary, "fsck", folder, vkey_file, workers, str(FSCK_SECONDS))
        entries, said["entries"] = ask(binary, "entries", vkey, folder)
        note, said["note"] = ask(binary, "note", vkey, folder / "checkpoint")
        proofs = None
        for index in prove:
            proof, entry = write_proof(folder, index, Path(scratch))
            accepted, said[f"proof of {index}"] = ask(binary, "proof", vkey, proof, entry)
            proofs = accepted and proofs is not False
    return Verdicts(fsck, entries, note, proofs, said)


def write_proof(folder: Path, index: int, into: Path) -> tuple[Path, Path]:
    """A C2SP tlog-proof of one entry, made from the folder, and the entry: the paths of both."""
    checkpoint = (folder / "checkpoint").read_bytes()
    size = parse_checkpoint(split_note(checkpoint)[0]).size
    reader = TileReader(size, lambda path: (folder / path).read_bytes())
    proof, entry = into / f"{index}.tlog-proof", into / f"{index}.entry"
    proof.write_bytes(tlog_proof(index, inclusion_proof(index, size, reader.hash_at), checkpoint))
    entry.write_bytes(reader.entry(index))
    return proof, entry


def tlog_proof(index: int, hashes: Iterable[bytes], checkpoint: bytes) -> bytes:
    """The text of a C2SP tlog-proof."""
    lines = ["c2sp.org/tlog-proof@v1", f"index {index}", *(base64.b64encode(value).decode() for value in hashes), ""]
    return "\n".join(lines).encode() + b"\n" + checkpoint


def _workers(folder: Path) -> int:
    """One more than the log has tiles: each fault stops one worker, and fsck hangs when none is left."""
    try:
        size = int((folder / "checkpoint").read_text().split("\n")[1])
    except (OSError, IndexError, ValueError):
        return 1
    tiles = 0
    while size:
        tiles += -(-size // TILE_WIDTH)
        size //= TILE_WIDTH
    return min(tiles + 1, MAX_WORKERS)
