"""A whole ledger in memory, written by the real sealer, sink and sequencer, and doctored where a test says so.

An insider is played by sealing a message as something that it is not: the
chain, the log and every signature are then made from that, with the real keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from builders import LOG, QUARANTINE_KEY, ROOT, SOURCE_ID, START_US, TICKER, WINDOW_US, Lane
from rlhf_audit_auditor.evidence import StoreEvidence, Trail
from rlhf_audit_auditor.report import Report
from rlhf_audit_auditor.verify import Options, verify
from rlhf_audit_ledger.checkpoint import sign_checkpoint
from rlhf_audit_ledger.control import ControlType, Tick, signed_control
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.entries import offset_salt
from rlhf_audit_ledger.genesis import Genesis, KeyRole, SchemaEntry, StreamSettings, ledger_id, sign_genesis
from rlhf_audit_ledger.globallog import genesis_leaf, signature_leaf
from rlhf_audit_ledger.ids import global_origin
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.note import key_for_origin
from rlhf_audit_ledger.seal import Sealed, Sealer, checkpoint_of, seal_all
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_ledger.step import Move, advance
from rlhf_audit_ledger.tiles import Edge
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_schemas.kinds import shipped_schemas
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.objects import MemoryStore

VAULT_KEY = bytes(reversed(range(32)))
Doctor = Callable[[Sealer, SealState, SourceMessage, bytes], Move]


class World:
    """One ledger. ``folder`` only holds the sequencer's stage."""

    def __init__(self, folder: Path, *, log: Signer = LOG, nonce: int = 0, max_entries: int = 65_536) -> None:
        self.log = log
        genesis = Genesis(
            log_name="rlhf-audit.test",
            nonce=bytes([nonce]) * 32,
            ts_us=START_US,
            root_key=ROOT.public_key,
            log_key=log.public_key,
            signers=(KeyRole("ticker", TICKER.public_key),),
            streams=(
                StreamSettings("annotations", 2, WINDOW_US, max_entries),
                StreamSettings("lifecycle", 1, WINDOW_US, max_entries),
            ),
            schemas=tuple(SchemaEntry(*entry) for entry in shipped_schemas()),
        )
        self.genesis, self.genesis_bytes = genesis, genesis.encode()
        self.ledger_id = ledger_id(self.genesis_bytes)
        self.origin = global_origin(genesis.log_name, self.ledger_id)
        self.objects, self.vault = MemoryStore(), MemoryStore()
        folder.mkdir(exist_ok=True)
        self._sequencer = Sequencer(self.objects, folder / "stage", RealDisk())
        leaves = (genesis_leaf(self.genesis_bytes), signature_leaf(sign_genesis(self.genesis_bytes, ROOT)))
        self._sequencer.publish(leaves, log, self.origin)
        self.partitions: dict[tuple[str, int], Partition] = {}

    def partition(self, stream: str = "annotations", number: int = 0) -> Partition:
        """A partition of the ledger, made at first use."""
        return self.partitions.setdefault((stream, number), Partition(self, stream, number))

    def publish(self, checkpoints: Sequence[bytes]) -> bytes:
        """Put checkpoints into the global log; returns the new global checkpoint."""
        return self._sequencer.publish(list(checkpoints), self.log, self.origin)

    @property
    def head(self) -> tuple[int, bytes]:
        """Size and root of the global log."""
        return self._sequencer.size, self._sequencer.root

    @property
    def checkpoint(self) -> bytes:
        """The global checkpoint."""
        return self.objects.get("global/checkpoint")

    def trail(self, *, with_payloads: bool = True, is_key_own: bool = True) -> Trail:
        """As a verifier sees it."""
        return Trail(
            objects=StoreEvidence(self.objects),
            vault=StoreEvidence(self.vault) if with_payloads else None,
            vkey=key_for_origin(self.log.public_key, self.genesis.log_name).format(),
            is_key_own=is_key_own,
            vault_key=VAULT_KEY if with_payloads else None,
        )

    def verify(self, options: Options | None = None, *, with_payloads: bool = True) -> Report:
        """What the verifier says."""
        return verify(self.trail(with_payloads=with_payloads), options or Options())


class Partition:
    """Source values in, windows out."""

    def __init__(self, world: World, stream: str, number: int) -> None:
        self.world = world
        self.settings = partition_settings(world.genesis_bytes, stream, number)
        self.sealer = Sealer(self.settings, QUARANTINE_KEY, world.log)
        self.state = first_state(self.settings, SOURCE_ID)
        self.open: list[Sealed] = []
        self.sink = EvidenceSink(
            self.settings,
            objects=world.objects,
            vault=world.vault,
            vault_key=VAULT_KEY,
            edge=Edge.empty(),
            version=None,
        )

    def lane(self, producer: str = "ingest/aa", epoch: int = 0, *, signer: Signer | None = ROOT) -> Lane:
        """A new lane of this partition."""
        return Lane(self.settings, producer, epoch, signer=signer)

    def take(self, *values: bytes | None, doctor: Doctor | None = None) -> None:
        """Seal source values; ``doctor`` says what each of them is to be sealed as."""
        for value in values:
            offset = self.state.next_offset
            message = SourceMessage(offset, START_US + 1_000 * offset, value)
            if doctor is None:
                self.state, new = seal_all(self.sealer, self.state, message)
                self.open += new
            else:
                salt = offset_salt(QUARANTINE_KEY, self.state.source_id, offset)
                self._seal_as(doctor(self.sealer, self.state, message, salt), message, salt)

    def _seal_as(self, move: Move, message: SourceMessage, salt: bytes) -> None:
        result = advance(self.settings, self.state, move)
        checkpoint = None
        if result.close is not None:
            checkpoint = sign_checkpoint(checkpoint_of(self.settings, result), self.world.log)
        record = SealedRecord(
            move.header_bytes,
            result.state.link,
            move.entries,
            result.close_entry,
            checkpoint,
            result.lane_rows,
            message.value,
        )
        self.state = result.state
        self.open.append(Sealed(record, move.header, move.event_entries, result.leaves, result.close, salt))

    def tick(self, **changes: object) -> None:
        """A flushing tick that saw the global log as it is."""
        size, root = self.world.head
        counter = self.state.ticks.counter + 1
        tick = Tick(
            ledger_id=self.settings.ledger_id,
            source_id=self.state.source_id,
            stream=self.settings.stream.stream,
            partition=self.settings.partition,
            counter=counter,
            number=START_US // WINDOW_US,
            ts_us=START_US,
            flush=True,
            global_size=size,
            global_root=root,
        )
        tick = replace(tick, **changes)  # type: ignore[arg-type]  # fields of a tick
        self.take(signed_control(ControlType.TICK, tick.encode(), TICKER))

    def store(self) -> bytes:
        """Store the closed window; returns its checkpoint, which is not published yet."""
        window, self.open = self.open, []
        return self.sink.store(window).checkpoint

    def close(self, **tick: object) -> None:
        """Tick, store, publish."""
        self.tick(**tick)
        self.world.publish([self.store()])


def full_world(folder: Path) -> World:
    """Three windows in annotations/0, one in annotations/1; lanes ended, nothing missing."""
    world = World(folder)
    for number, counts in ((0, (300, 20, 7)), (1, (5,))):
        part = world.partition(number=number)
        lane = part.lane(f"ingest/{number:02x}")
        for index, count in enumerate(counts):
            part.take(lane.cut(count, final=index == len(counts) - 1).value)
            part.close()
    return world
