"""One partition in the one-process runtime: source log, seal loop, evidence sink, in that order.

Nothing is decided here: this is the driver that reads, steps and writes, in
the order that makes an acknowledgement mean durable.

1. The source log is synced: order is decided once.
2. Messages are sealed into the sealed log.
3. At a close the sealed log is synced, then the window is stored.
4. Only what all stores hold may leave the two local logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.control import ControlType, SourceSwitch, signed_control
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.reading import control_role
from rlhf_audit_ledger.seal import Sealed, Sealer
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState
from rlhf_audit_processors.recovery import recover
from rlhf_audit_processors.seal_loop import SealLoop
from rlhf_audit_processors.window_clock import Instant, WindowAge, has_to_flush, next_tick
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_stores.sealedlog import SealedLog
from rlhf_audit_stores.sourcelog import Origin, SourceLog

MAX_WINDOW_BYTES = 64 * 1024 * 1024  # of source values held for one window; a flush tick closes it before memory grows


@dataclass(frozen=True, slots=True)
class SealedWindow:
    """A window whose evidence is durable: everything sealed in it, in order; the last record closes it."""

    settings: PartitionSettings
    sealed: Sequence[Sealed]
    close: Close
    checkpoint: bytes


class LocalPartition:
    """The only writer of its partition; the trail's lock guards that."""

    def __init__(
        self,
        sealer: Sealer,
        *,
        ticker: Signer,
        folder: Path,
        objects: ObjectStore,
        vault: ObjectStore,
        vault_key: bytes,
        disk: Disk,
        now: Instant,
    ) -> None:
        self.settings = sealer.settings
        self._ticker = ticker
        self._source = SourceLog.open(folder / "source", disk)
        self._sealed = SealedLog.open(folder / "sealed", disk)
        recovered = recover(sealer, objects, self._sealed, self._source)
        if recovered.is_log_short:
            self._sealed.restart_at(recovered.state.m + 1)
        self._loop = SealLoop(sealer, recovered.state, self._source, self._sealed)
        self._sink = EvidenceSink(
            self.settings,
            objects=objects,
            vault=vault,
            vault_key=vault_key,
            edge=recovered.edge,
            version=recovered.version,
        )
        self._close = recovered.close
        self._open: list[Sealed] = recovered.unstored
        self._open_bytes = sum(len(one.record.value or b"") for one in self._open)
        self._waiting_bytes = 0
        self._ends_with_tick = True  # what an earlier process left needs no new one
        self._age = WindowAge(self.settings.stream.window_us, recovered.state, now)

    @property
    def published(self) -> Close | None:
        """The close that the partition's stored checkpoint stands for, None before the first."""
        return self._close

    @property
    def state(self) -> SealState:
        """State after the last sealed message."""
        return self._loop.state

    def append(self, values: list[bytes], now_us: int, origins: Sequence[Origin] | None = None) -> int:
        """Append source values; durable and sealed after ``work``. Returns the bytes that wait for a close.

        Raises ConfigError if the partition goes on elsewhere.
        """
        if self.is_switched:
            raise ConfigError(f"{self.settings.name}: this partition goes on in Kafka; nothing can be added to it here")
        ts_us = now_us - now_us % 1000
        self._source.append_many(values, ts_us, origins)
        self._ends_with_tick = False
        self._waiting_bytes += sum(map(len, values))
        return self._waiting_bytes + self._open_bytes

    def tick(self, now_us: int, *, closes_now: bool, global_size: int, global_root: bytes) -> None:
        """Append a tick; everything appended before it must be sealed, or its counter would not be the next one.

        ``closes_now`` closes the open window whatever its time. Such a tick begins a segment of its own: the last
        source message is kept for a restart, and a tick holds no payload.
        """
        tick = next_tick(
            self.settings,
            self.state,
            now_us,
            source_id=self._source.source_id,
            flush=closes_now or has_to_flush(self.state.ticks, self.settings.stream.window_us, now_us),
            global_size=global_size,
            global_root=global_root,
        )
        if closes_now:
            self._source.roll()
        self.append([signed_control(ControlType.TICK, tick.encode(), self._ticker)], now_us)
        self._ends_with_tick = True

    def is_time_over(self, now: Instant) -> bool:
        """Whether the open window has been open for as long as windows are. Ask several times a second."""
        age_us = self._age.us(self.state, now)
        return self.state.window is not None and age_us >= self.settings.stream.window_us

    def switch_to(self, new_source_id: bytes, next_offset: int, now_us: int) -> None:
        """Append the last message of this source log; everything before it must be sealed, as for ``tick``.

        Raises ConfigError if the genesis leaves this to an operator.
        """
        role = control_role(self.settings, ControlType.SOURCE_SWITCH)
        if role != "ticker":
            raise ConfigError(f"{self.settings.name}: this ledger's source is switched by its {role}, not from here")
        switch = SourceSwitch(
            ledger_id=self.settings.ledger_id,
            source_id=self._source.source_id,
            stream=self.settings.stream.stream,
            partition=self.settings.partition,
            new_source_id=new_source_id,
            next_offset=next_offset,
        )
        self._source.roll()
        self.append([signed_control(ControlType.SOURCE_SWITCH, switch.encode(), self._ticker)], now_us)
        self._ends_with_tick = True  # it holds no payload either

    @property
    def is_switched(self) -> bool:
        """Whether the partition goes on in another source log."""
        return self._loop.is_switched

    @property
    def is_used(self) -> bool:
        """Whether it ever held a message."""
        return self._source.next_offset > 0 or self._close is not None

    @property
    def next_source_offset(self) -> int:
        """Offset that the next source value will get."""
        return self._source.next_offset

    @property
    def stored_source_offset(self) -> int:
        """Offset below which every source value is stored as evidence."""
        if self._close is None:
            return 0
        is_ours = self._close.source_id == self._source.source_id
        return self._close.next_offset if is_ours else self._source.next_offset  # behind a switch nothing comes

    def taken(self, log: bytes) -> int:
        """Offset of the first record of a spool that was not taken into this partition."""
        return self._source.taken(log)

    def forget(self, log: bytes) -> None:
        """A spool exists no more."""
        self._source.forget([log])

    def work(self) -> Iterator[SealedWindow]:
        """Make durable, seal and store what is there; yields each window as it is stored."""
        self._source.sync()
        self._waiting_bytes = 0
        yield from self._store_closed()
        for sealed in self._loop.run():
            self._open.append(sealed)
            self._open_bytes += len(sealed.record.value or b"")
            if sealed.close is not None:
                yield from self._store_closed()
        self._sealed.sync()

    def _store_closed(self) -> Iterator[SealedWindow]:
        """Store the windows that are closed; more than one waits only after a restart."""
        ends = [index for index, sealed in enumerate(self._open) if sealed.close is not None]
        if not ends:
            return
        self._sealed.sync()
        start = 0
        for end in ends:
            window = self._open[start : end + 1]
            stored = self._sink.store(window)
            start = end + 1
            self._close = stored.close
            yield SealedWindow(self.settings, window, stored.close, stored.checkpoint)
        del self._open[:start]
        self._open_bytes = sum(len(one.record.value or b"") for one in self._open)

    def drop_stored(self, *, is_drained: bool) -> None:
        """Delete what every store holds, up to the records that a restart needs: the last source message.

        Whole segments only; when drained, the last ones are cut off first, so that no payload stays behind.
        """
        if self._close is None:
            return
        if is_drained:
            self._sealed.roll()
        self._sealed.drop_before(self._close.m + 1)
        self._source.drop_before(self.stored_source_offset - 1)

    @property
    def needs_tick(self) -> bool:
        """Whether a window is open, or a payload is the last message of the source log."""
        return self.state.window is not None or not self._ends_with_tick

    def close(self) -> None:
        """Close the files."""
        self._source.close()
        self._sealed.close()
