"""The one-process runtime: a trail's directory as a whole ledger.

Composes what the roles give: source logs, seal loops, evidence sinks, the
sequencer. One process per directory, guarded by a lock. Killed at any moment
it resumes from its own output with identical bytes and nothing twice.

    objects/ vault/ keys/ spool/{source and sealed logs, epochs, stage} config.toml
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType

from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.objects import SEGMENT, parse_segment_name
from rlhf_audit_ledger.seal import Sealer
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_processors.unpublished import find_unpublished
from rlhf_audit_processors.window_clock import Instant
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_schemas.errors import ConfigError, FormatError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import FolderLock, make_folders_durably, sweep
from rlhf_audit_stores.epochs import Epoch, last_epoch, take_epoch
from rlhf_audit_stores.keys import TrailKeys, create_keys, load_keys, write_public_keys
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_stores.sourcelog import Origin
from rlhf_audit_trail.founding import Ledger, existing_ledger, found, new_genesis
from rlhf_audit_trail.partition import MAX_WINDOW_BYTES, LocalPartition
from rlhf_audit_trail.settings import Settings
from rlhf_audit_trail.window_sinks import OptionalSinks, WindowSink

_PUBLISH_EVERY_S = 1.0  # closes that wait are published together, at most once a second


class LocalTrail:
    """A trail opened for writing. Use as a context manager; everything sealed is stored after ``drain``."""

    def __init__(
        self,
        directory: Path,
        *,
        log_name: str = "rlhf-audit.local",
        window_seconds: int = 10,
        partitions: Mapping[str, int] = MappingProxyType({}),
        vault_dir: Path | None = None,
        disk: Disk | None = None,
        clock: Callable[[], Instant] = Instant.now,
        sinks: Sequence[WindowSink] = (),
        is_leaving: bool = False,
    ) -> None:
        """``is_leaving``: to end its source logs (``source_switch``); a trail that went on elsewhere opens for no other
        use."""
        self._is_leaving = is_leaving
        self._sinks = OptionalSinks(sinks)
        self.directory = directory
        self._disk = RealDisk() if disk is None else disk
        self._clock = clock
        self._spool = directory / "spool"
        self._vault_dir = directory / "vault" if vault_dir is None else vault_dir
        self._log_name = log_name
        self._window_seconds = window_seconds
        self._new_partitions = partitions
        self._parts: dict[tuple[str, int], LocalPartition] = {}
        self._touched: set[tuple[str, int]] = set()
        self._unpublished: list[bytes] = []
        self._published_at = 0.0
        self.windows_stored = 0

    def __enter__(self) -> LocalTrail:
        make_folders_durably(self._disk, self._spool)
        self._lock = FolderLock(self._spool)
        self._lock.acquire()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close files and give the lock back. What is not drained is found again by the next opening."""
        try:
            for part in self._parts.values():
                part.close()
            self._parts.clear()
        finally:
            self._lock.release()

    def _open(self) -> None:
        self._objects = FolderStore(self.directory / "objects", self._disk)
        self._vault = FolderStore(self._vault_dir, self._disk, mode=0o600)
        for store in (self._objects, self._vault):
            store.sweep()
        for folder in (self._spool, self.directory / "keys"):
            if self._disk.exists(folder):
                sweep(self._disk, folder)
        self._sequencer = Sequencer(self._objects, self._spool / "global.stage", self._disk)
        self._keys = self._load_or_create_keys()
        self.ledger = self._load_or_found()
        self._sequencer.open(self.ledger.genesis.log_key, self.ledger.global_origin)
        self._check_keys()
        write_public_keys(self.directory / "keys", self.ledger.public_key_lines(), self._disk)
        for stream, partitions in self.ledger.genesis.partition_counts.items():
            for number in range(partitions):
                if self._disk.exists(self._partition_folder(stream, number)):
                    self._partition(stream, number)
        self._check_not_switched()
        self._find_unpublished()
        self.work()

    def _load_or_create_keys(self) -> TrailKeys:
        folder = self.directory / "keys"
        return load_keys(folder) if self._sequencer.has_begun else create_keys(folder, self._disk)

    def _load_or_found(self) -> Ledger:
        ledger = existing_ledger(self._sequencer)
        if ledger is not None:
            return ledger
        genesis = new_genesis(
            log_name=self._log_name,
            window_seconds=self._window_seconds,
            partitions=self._new_partitions,
            now_us=self._clock().wall_us,
            root=self._keys.root.public_key,
            log=self._keys.log.public_key,
            ticker=self._keys.ticker.public_key,
        )
        return found(self._sequencer, genesis, root=self._keys.root, log=self._keys.log)

    def _check_keys(self) -> None:
        if self._keys.log.public_key != self.ledger.genesis.log_key:
            raise ConfigError(
                f"{self.directory / 'keys' / 'log.key'} is not the key that this ledger's genesis names: put the right "
                "key back, or start a new trail in another folder"
            )

    def _check_not_switched(self) -> None:
        gone = [part.settings.name for part in self._parts.values() if part.is_switched]
        if gone and not self._is_leaving:
            raise ConfigError(
                f"{self.directory}: this ledger goes on in Kafka ({gone[0]} was switched): ship and seal instead of "
                "working here; if the switch was interrupted, run `rlhf-audit topics apply --continue` again"
            )

    def _partition_folder(self, stream: str, number: int) -> Path:
        return self._spool / stream / str(number)

    def _partition(self, stream: str, number: int) -> LocalPartition:
        key = (stream, number)
        if key not in self._parts:
            settings = partition_settings(self.ledger.genesis_bytes, stream, number)
            self._parts[key] = LocalPartition(
                Sealer(settings, self._keys.quarantine_key, self._keys.log),
                ticker=self._keys.ticker,
                folder=self._partition_folder(stream, number),
                objects=self._objects,
                vault=self._vault,
                vault_key=self._keys.vault_key,
                disk=self._disk,
                now=self._clock(),
            )
            self._touched.add(key)
        return self._parts[key]

    def _find_unpublished(self) -> None:
        """Stored windows whose checkpoints are not in the global log yet: a crash came between the two."""
        stored = [(part.settings, part.published) for part in self._parts.values() if part.published is not None]
        self._unpublished += find_unpublished(self._sequencer, self._objects, stored)

    # What producers see (rlhf_audit_producers.recorder.Recorder).

    @property
    def ledger_id(self) -> bytes:
        """16 bytes."""
        return self.ledger.ledger_id

    @property
    def routing_key(self) -> bytes:
        """Secret that routes annotators to partitions."""
        return self._keys.routing_key

    @property
    def partitions(self) -> Mapping[str, int]:
        """Stream -> P."""
        return self.ledger.genesis.partition_counts

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        """Append source values in order; durable, sealed and stored as far as windows close after ``work``."""
        self.take(stream, partition, values, None)

    def take(self, stream: str, partition: int, values: Sequence[bytes], origins: Sequence[Origin] | None) -> None:
        """``append``; ``origins`` say from which records of which spool the values come."""
        part = self._partition(stream, partition)
        self._touched.add((stream, partition))
        if part.append(list(values), self._clock().wall_us, origins) >= MAX_WINDOW_BYTES:
            self._run(part)
            if part.needs_tick:
                self._tick(part, closes_now=True)
                self._run(part)

    def work(self) -> None:
        """Make durable, seal, store what is complete; publish at most once a second."""
        for key in sorted(self._touched):
            part = self._parts[key]
            self._run(part)
            self._tick_if_due(part)
        self._touched.clear()
        if time.monotonic() - self._published_at >= _PUBLISH_EVERY_S:
            self._publish()

    def work_on_idle(self) -> None:
        """Close the windows whose time is over, published at most once a second: call it several times a second."""
        for key in sorted(self._parts):
            self._tick_if_due(self._parts[key])
        if self._unpublished and time.monotonic() - self._published_at >= _PUBLISH_EVERY_S:
            self._publish()

    def part(self, stream: str, partition: int) -> LocalPartition:
        """One partition, opened if need be. Raises FormatError if the genesis has no such one."""
        if not 0 <= partition < self.partitions.get(stream, 0):
            raise FormatError(f"{stream}/{partition}: no such partition")
        return self._partition(stream, partition)

    def used_parts(self) -> list[LocalPartition]:
        """Partitions that ever held a message, in order."""
        return [self._parts[key] for key in sorted(self._parts) if self._parts[key].is_used]

    def switch_source(self, stream: str, partition: int, new_source_id: bytes, next_offset: int) -> None:
        """End a partition's source log: sealed and stored when it returns, published after ``drain``.

        Raises ConfigError if it was switched already, or the genesis leaves this to an operator.
        """
        part = self.part(stream, partition)
        self._run(part)
        part.switch_to(new_source_id, next_offset, self._clock().wall_us)
        self._run(part)

    def forget_spool(self, log: bytes) -> None:
        """A spool is stored and deleted."""
        for part in self._parts.values():
            part.forget(log)

    def drain(self) -> None:
        """Close every open window; when it returns, all is sealed, stored and in the global log."""
        for key in sorted(self._parts):
            part = self._parts[key]
            self._run(part)
            if part.needs_tick:
                self._tick(part, closes_now=True)
                self._run(part)
        self._touched.clear()
        self._publish(is_drained=True)

    def _run(self, part: LocalPartition) -> None:
        for window in part.work():
            self._unpublished.append(window.checkpoint)
            self.windows_stored += 1
            self._sinks.store(window)

    def _tick(self, part: LocalPartition, *, closes_now: bool) -> None:
        part.tick(
            self._clock().wall_us,
            closes_now=closes_now,
            global_size=self._sequencer.size,
            global_root=self._sequencer.root,
        )

    def _tick_if_due(self, part: LocalPartition) -> None:
        if part.is_time_over(self._clock()):
            self._tick(part, closes_now=False)
            self._run(part)

    def _publish(self, *, is_drained: bool = False) -> None:
        if self._unpublished:
            self._sequencer.publish(self._unpublished, self._keys.log, self.ledger.global_origin)
            self._unpublished = []
            for part in self._parts.values():
                part.drop_stored(is_drained=is_drained)
        self._published_at = time.monotonic()

    @property
    def checkpoint(self) -> bytes:
        """The published global checkpoint."""
        return self._sequencer.checkpoint or b""

    def take_epoch(self, producer: str) -> Epoch:
        """Take the next epoch of a producer exclusively on disk: no two processes ever write one lane."""
        return take_epoch(self._disk, self._spool, producer)

    def last_epoch(self, producer: str) -> int | None:
        """Highest epoch a producer ever took here, None if it is new."""
        return last_epoch(self._disk, self._spool, producer)

    def lanes_of(self, producer: str) -> Sequence[LaneView]:
        """Newest lane of a producer in every partition, as sealed so far."""
        views = []
        for (stream, number), part in sorted(self._parts.items()):
            row = part.state.lanes.get(producer)
            if row is not None:
                views.append(LaneView(stream, number, row.epoch, row.next_seq, row.state == "ended"))
        return views

    def delivered(self, producer: str) -> Mapping[tuple[str, int, str], int]:
        """Sealed events of a producer per (stream, partition, kind) over all epochs, from stored headers."""
        self.drain()
        counts: dict[tuple[str, int, str], int] = {}
        for stream, number, header in self._stored_headers():
            batch = header.batch
            if batch is not None and batch.producer == producer and header.outcome in ("accepted", "gap_filled"):
                kind = KINDS_BY_NUMBER[batch.kind].name
                counts[stream, number, kind] = counts.get((stream, number, kind), 0) + batch.count
        return counts

    def _stored_headers(self) -> Iterator[tuple[str, int, SealHeader]]:
        for info in self._objects.list("segments/"):
            ref = parse_segment_name(info.name)
            if ref is None:
                continue
            for raw in SEGMENT.decode(info.name, self._objects.get(info.name)):
                yield ref.stream, ref.partition, SealHeader.decode(raw["header"])


def open_local(
    directory: Path, settings: Settings, *, disk: Disk | None = None, sinks: Sequence[WindowSink] = ()
) -> LocalTrail:
    """The trail as its settings say; what shapes bytes counts only where the ledger begins with it."""
    return LocalTrail(
        directory,
        log_name=settings.log_name,
        window_seconds=settings.window_seconds,
        partitions=settings.partitions,
        vault_dir=settings.vault_dir,
        disk=disk,
        sinks=sinks,
    )
