"""A ledger goes on from its objects in another source log: recovery, seal loop, sink and sequencer, nothing else.

What the workers on Kafka do, in one thread and without them; the sealed log is a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crash.resealing import genesis_bytes
from rlhf_audit_ledger.control import ControlType, Tick, signed_control
from rlhf_audit_ledger.genesis import Genesis, ledger_id
from rlhf_audit_ledger.ids import global_origin
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_processors.recovery import SealedReader, Source, recover
from rlhf_audit_processors.seal_loop import SealLoop
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.keys import load_keys
from rlhf_audit_stores.objects import FolderStore


@dataclass
class ListSource:
    """A source log in memory whose first messages are gone."""

    source_id: bytes
    messages: list[SourceMessage] = field(default_factory=list)

    @property
    def first_offset(self) -> int:
        return self.messages[0].offset if self.messages else 0

    @property
    def next_offset(self) -> int:
        return self.messages[-1].offset + 1 if self.messages else 0

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        return (message for message in self.messages if message.offset >= offset)


class ListSealed:
    """A sealed log in memory that begins behind what the objects hold."""

    def __init__(self, first_m: int) -> None:
        self.first_m = first_m
        self.records: list[bytes] = []

    @property
    def next_m(self) -> int:
        return self.first_m + len(self.records)

    def read_from(self, m: int) -> Iterator[tuple[int, bytes]]:
        return iter(enumerate(self.records[m - self.first_m :], m))

    def append(self, records: Sequence[bytes]) -> object:
        self.records += records
        return None

    def sync(self) -> None:
        """In memory, so as durable as it gets."""


class Continued:
    """One partition of a trail, from its objects on. ``folder`` holds the sequencer's stage."""

    def __init__(self, trail: Path, stream: str, partition: int, source: Source, sealed: ListSealed) -> None:
        data = genesis_bytes(trail)
        self._keys = load_keys(trail / "keys")
        self._genesis = Genesis.decode(data)
        self._origin = global_origin(self._genesis.log_name, ledger_id(data))
        self.settings = partition_settings(data, stream, partition)
        self._objects = FolderStore(trail / "objects")
        sealer = Sealer(self.settings, self._keys.quarantine_key, self._keys.log)
        reader: SealedReader = sealed
        recovered = recover(sealer, self._objects, reader, source)
        self.loop = SealLoop(sealer, recovered.state, source, sealed)
        self._source_id = source.source_id
        self._window = recovered.unstored
        self._sink = EvidenceSink(
            self.settings,
            objects=self._objects,
            vault=FolderStore(trail / "vault", mode=0o600),
            vault_key=self._keys.vault_key,
            edge=recovered.edge,
            version=recovered.version,
        )
        self._sequencer = Sequencer(self._objects, trail / "spool" / "global.stage", RealDisk())
        self._sequencer.open(self._genesis.log_key, self._origin)

    def run(self) -> list[Sealed]:
        """Seal what is there, store and publish what is closed; returns what was sealed."""
        sealed = []
        for one in self.loop.run():
            sealed.append(one)
            self._window.append(one)
            if one.close is not None:
                self._sequencer.publish([self._sink.store(self._window).checkpoint], self._keys.log, self._origin)
                self._window = []
        return sealed

    def tick(self, now_us: int, counter: int | None = None) -> bytes:
        """The next tick that closes a window."""
        ticks, window_us = self.loop.state.ticks, self.settings.stream.window_us
        ts_us = max(now_us, ticks.number * window_us)
        tick = Tick(
            ledger_id=self.settings.ledger_id,
            source_id=self._source_id,
            stream=self.settings.stream.stream,
            partition=self.settings.partition,
            counter=ticks.counter + 1 if counter is None else counter,
            number=ts_us // window_us,
            ts_us=ts_us,
            flush=True,
            global_size=self._sequencer.size,
            global_root=self._sequencer.root,
        )
        return signed_control(ControlType.TICK, tick.encode(), self._keys.ticker)
