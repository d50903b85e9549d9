"""The strongest forgery: one event edited, then everything sealed again with the real keys.

What an insider can do who holds the log key and the vault key. The edited
producer's batches are signed anew with a key made up for it, since the real
one died with its process; ticks are signed anew for the roots of the new global
log; all windows close where they closed. The result agrees with itself in
every byte, and only a checkpoint kept elsewhere refuses it.

Reads the trail window by window, in the order in which the global log names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rlhf_audit_ledger.batch import BATCH_TYPE, NO_BATCH, BatchBody, batch_digest, encode_batch, open_envelope
from rlhf_audit_ledger.checkpoint import parse_checkpoint
from rlhf_audit_ledger.control import Control, ControlType, Tick, signed_control
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.globallog import is_checkpoint
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.ids import log_origin
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.note import split_note
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT, SEGMENT, segment_name, vault_name
from rlhf_audit_ledger.seal import Sealed, Sealer, seal_all
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_ledger.tiles import Edge, TileReader
from rlhf_audit_ledger.vault import open_vault
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.keys import TrailKeys
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.founding import Ledger, read_ledger

_START = KINDS["producer_start"]
_FORGER = SeedSigner(bytes(range(32)))  # stands for any key that a forger makes up


class NothingToForgeError(AuditTrailError):
    """The trail holds nothing that this forgery could be done to."""


class Reseal:
    """Seals ``trail`` again into ``out`` (``objects/`` and ``vault/``), one event edited on the way."""

    def __init__(self, trail: Path, out: Path, keys: TrailKeys) -> None:
        self._objects = FolderStore(trail / "objects")
        self._vault = FolderStore(trail / "vault")
        self._keys = keys
        self._out_objects = FolderStore(out / "objects")
        self._out_vault = FolderStore(out / "vault")
        self._sequencer = Sequencer(self._out_objects, out / "stage", RealDisk())
        self._roots: dict[int, bytes] = {}
        self._partitions: dict[tuple[str, int], tuple[Sealer, SealState, EvidenceSink]] = {}
        self._windows: dict[tuple[str, int], int] = {}
        self._forged: tuple[str, int] | None = None
        self._heads: dict[tuple[str, int, str, int], bytes] = {}

    def run(self) -> str:
        """Do it; returns which event was edited, in words. Raises NothingToForgeError if there is none."""
        leaves = self._leaves()
        first = (next(leaves), next(leaves))
        ledger = read_ledger(*first)
        self._publish(first, ledger)
        edited = self._choose(ledger)
        for leaf in leaves:
            if is_checkpoint(leaf):
                self._window(self._place(leaf, ledger), ledger)
        return edited

    def _leaves(self) -> Iterator[bytes]:
        data = self._objects.get(GLOBAL_CHECKPOINT)
        size = parse_checkpoint(split_note(data)[0]).size
        reader = TileReader(size, lambda path: self._objects.get(f"global/{path}"))
        for index in range(size):
            yield reader.entry(index)

    def _publish(self, entries: tuple[bytes, ...], ledger: Ledger) -> None:
        self._sequencer.publish(entries, self._keys.log, ledger.global_origin)
        self._roots[self._sequencer.size] = self._sequencer.root

    @staticmethod
    def _place(leaf: bytes, ledger: Ledger) -> tuple[str, int]:
        origin = leaf.split(b"\n", 1)[0].decode()
        for stream, count in ledger.genesis.partition_counts.items():
            for number in range(count):
                if origin == log_origin(ledger.genesis.log_name, ledger.ledger_id, stream, number):
                    return stream, number
        raise NothingToForgeError(f"the global log names {origin}, which the genesis does not")

    def _choose(self, ledger: Ledger) -> str:
        """The producer of the first annotation: all its batches have to be signed anew."""
        for number in range(ledger.genesis.partition_counts.get("annotations", 0)):
            name = segment_name("annotations", number, 0)
            for message in self._messages(name, "annotations", number, 0) if self._objects.exists(name) else ():
                if message.value is not None and message.value[:1] == BATCH_TYPE:
                    body = BatchBody.decode(open_envelope(message.value)[0])
                    if body.events:
                        self._forged = (body.producer, body.epoch)
                        self._target = ("annotations", number, body.first_seq)
                        return f"event {body.first_seq} of {body.producer} in annotations/{number}"
        raise NothingToForgeError("the trail holds no annotation to edit")

    def _messages(self, name: str, stream: str, number: int, window: int) -> Iterator[SourceMessage]:
        records = SEGMENT.decode(name, self._objects.get(name))
        vaulted = vault_name(stream, number, window)
        payload = open_vault(f"vault/{vaulted}", self._vault.get(vaulted), self._keys.vault_key)
        for raw, one in zip(records, payload, strict=True):
            header = SealHeader.decode(raw["header"])
            if header.end_offset is None:
                yield SourceMessage(header.offset, header.ts_us, one.value)

    def _window(self, place: tuple[str, int], ledger: Ledger) -> None:
        stream, number = place
        window = self._windows.get(place, 0)
        self._windows[place] = window + 1
        name = segment_name(stream, number, window)
        sealed: list[Sealed] = []
        for message in self._messages(name, stream, number, window):
            if place not in self._partitions:
                self._open(place, SEGMENT.decode(name, self._objects.get(name))[0]["header"], ledger)
            sealer, state, sink = self._partitions[place]
            value = None if message.value is None else self._forge(message.value, stream, number)
            state, new = seal_all(sealer, state, replace(message, value=value))
            self._partitions[place] = (sealer, state, sink)
            sealed += new
        stored = self._partitions[place][2].store(sealed)
        self._publish((stored.checkpoint,), ledger)

    def _open(self, place: tuple[str, int], header: bytes, ledger: Ledger) -> None:
        settings = partition_settings(ledger.genesis_bytes, *place)
        sink = EvidenceSink(
            settings,
            objects=self._out_objects,
            vault=self._out_vault,
            vault_key=self._keys.vault_key,
            edge=Edge.empty(),
            version=None,
        )
        state = first_state(settings, SealHeader.decode(header).source_id)
        self._partitions[place] = (Sealer(settings, self._keys.quarantine_key, self._keys.log), state, sink)

    def _forge(self, value: bytes, stream: str, number: int) -> bytes:
        if value[:1] != BATCH_TYPE:
            return self._tick(value)
        body = BatchBody.decode(open_envelope(value)[0])
        if (body.producer, body.epoch) != self._forged:
            return value
        lane = (body.producer, body.epoch, stream, number)
        events = list(body.events)
        if (stream, number, body.first_seq) == self._target:
            events[0] = events[0][:-1] + bytes((events[0][-1] ^ 1,))
        if body.kind == _START.number:
            events = [
                _START.codec.encode({**_START.codec.decode(one), "public_key": _FORGER.public_key}) for one in events
            ]
        forged = replace(
            body,
            events=events,
            prev_batch=self._heads.get(lane, NO_BATCH),
            open_key=None if body.open_key is None else _FORGER.public_key,
        )
        self._heads[lane] = batch_digest(forged.encode())
        return encode_batch(forged, _FORGER).value

    def _tick(self, value: bytes) -> bytes:
        control = Control.decode(value)
        if control.control != ControlType.TICK:
            return value
        tick = Tick.decode(control.body)
        tick = replace(tick, global_root=self._roots.get(tick.global_size, tick.global_root))
        return signed_control(ControlType.TICK, tick.encode(), self._keys.ticker)
