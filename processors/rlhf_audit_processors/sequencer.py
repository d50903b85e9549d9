"""The sequencer: the one writer of the global log.

Order of every publication, so that a crash at any point is repaired by doing
the same again:

1. stage: which entries come next and the checkpoint over them, durable beside the store;
2. tiles and bundles, put-if-absent: a pure function of the stage;
3. the checkpoint, by compare-and-swap; from here on it is public;
4. partial tiles whose full form is durable may go.

The order of entries depends on time, so it must be decided once: without the
stage, a restart could write other bytes under a partial tile's name. It
refuses to shrink, to sign a tree that does not extend the published one, and
to go on from a stage that does not fit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.globallog import is_checkpoint
from rlhf_audit_ledger.merkle import leaf_hashes
from rlhf_audit_ledger.note import split_note
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT, GLOBAL_PREFIX
from rlhf_audit_ledger.tiles import Edge, TileReader, grow, load_edge
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import replace_file_durably
from rlhf_audit_stores.objects import NotStoredError, ObjectStore, Version
from rlhf_audit_stores.stored_state import RefusedToGoOnError


@dataclass(frozen=True, slots=True)
class Stage:
    """What is being published: entries that follow ``base``, and the signed checkpoint over all."""

    base: int
    entries: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """JSON; local state, not part of the format."""
        entries = [base64.b64encode(entry).decode("ascii") for entry in self.entries]
        return json.dumps({"base": self.base, "entries": entries, "checkpoint": self.checkpoint.decode()}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Stage:
        """Raises FormatError on anything else."""
        try:
            raw = json.loads(data)
            entries = tuple(base64.b64decode(entry, validate=True) for entry in raw["entries"])
            return cls(int(raw["base"]), entries, raw["checkpoint"].encode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError("stage of the global log is not readable") from error


class Sequencer:
    """Appends to the global log. One at a time per ledger: the caller holds the lock."""

    def __init__(self, objects: ObjectStore, stage_path: Path, disk: Disk) -> None:
        self._objects = objects
        self._stage_path = stage_path
        self._disk = disk
        self._edge = Edge.empty()
        self._version: Version | None = None
        self._checkpoint: bytes | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a genesis was ever staged or published: from then on its keys are the ledger's."""
        return self._disk.exists(self._stage_path) or self._objects.exists(GLOBAL_CHECKPOINT)

    @property
    def size(self) -> int:
        """Entries published."""
        return self._edge.size

    @property
    def root(self) -> bytes:
        """Root at ``size``."""
        return self._edge.root()

    @property
    def checkpoint(self) -> bytes | None:
        """The published checkpoint, None before the first."""
        return self._checkpoint

    def read_stage(self) -> Stage | None:
        """What was being published when the last process ended; the genesis of a ledger that was never published."""
        if not self._disk.exists(self._stage_path):
            return None
        return Stage.decode(self._disk.read(self._stage_path))

    def first_entries(self, count: int) -> tuple[bytes, ...] | None:
        """The first published entries, read before anything can be checked; None if nothing is published."""
        try:
            data, _ = self._objects.get_versioned(GLOBAL_CHECKPOINT)
        except NotStoredError:
            return None
        text, _ = split_note(data)
        size = parse_checkpoint(text).size
        reader = TileReader(size, self._fetch)
        return tuple(reader.entry(index) for index in range(count))

    def open(self, log_key: bytes, origin: str) -> None:
        """Load what is published and finish what was staged. Raises RefusedToGoOnError if they do not fit."""
        try:
            self._checkpoint, self._version = self._objects.get_versioned(GLOBAL_CHECKPOINT)
        except NotStoredError:
            self._checkpoint = None
        else:
            head = open_checkpoint(self._checkpoint, log_key, origin).checkpoint
            self._edge = load_edge(head.size, head.root, self._fetch)
        stage = self.read_stage()
        if stage is None or stage.checkpoint == self._checkpoint:
            return
        if stage.base != self._edge.size:
            raise RefusedToGoOnError(
                f"global log: published size {self._edge.size}, the stage goes on from {stage.base}: the object store "
                "or the trail was restored from an older state, or two writers were at work"
            )
        head = open_checkpoint(stage.checkpoint, log_key, origin).checkpoint
        edge, _, _ = grow(self._edge, stage.entries, leaf_hashes(stage.entries))
        if (head.size, head.root) != (edge.size, edge.root()):
            raise RefusedToGoOnError("global log: the stage's checkpoint is not over its entries")
        self._apply(stage)

    def publish(self, entries: Sequence[bytes], signer: Signer, origin: str) -> bytes:
        """Append entries and publish the checkpoint over them. Returns the checkpoint when it is durable."""
        if not entries and self._checkpoint is not None:
            return self._checkpoint
        edge, _, _ = grow(self._edge, entries, leaf_hashes(entries))
        checkpoint = sign_checkpoint(Checkpoint(origin, edge.size, edge.root()), signer)
        stage = Stage(self._edge.size, tuple(entries), checkpoint)
        replace_file_durably(self._disk, self._stage_path, stage.encode())
        self._apply(stage)
        return checkpoint

    def entries_backwards(self) -> Iterator[bytes]:
        """Published entries, newest first."""
        reader = TileReader(self._edge.size, self._fetch)
        for index in range(self._edge.size - 1, -1, -1):
            yield reader.entry(index)

    def newest_sizes(self, origins: set[str]) -> dict[str, int]:
        """For each origin that the global log names: the largest size published. Stops when all are found."""
        found: dict[str, int] = {}
        for entry in self.entries_backwards():
            if len(found) == len(origins):
                break
            if is_checkpoint(entry):
                text, _ = split_note(entry)
                origin, size, _ = text.split("\n", 2)
                if origin in origins:
                    found.setdefault(origin, int(size))
        return found

    def _apply(self, stage: Stage) -> None:
        edge, tiles, completed = grow(self._edge, stage.entries, leaf_hashes(stage.entries))
        self._objects.put_many((f"{GLOBAL_PREFIX}/{path}", data) for path, data in tiles.items())
        self._version = self._objects.swap(GLOBAL_CHECKPOINT, stage.checkpoint, self._version)
        self._edge = edge
        self._checkpoint = stage.checkpoint
        for path in completed:
            self._objects.delete_many([info.name for info in self._objects.list(f"{GLOBAL_PREFIX}/{path}.p/")])

    def _fetch(self, path: str) -> bytes:
        return self._objects.get(f"{GLOBAL_PREFIX}/{path}")
