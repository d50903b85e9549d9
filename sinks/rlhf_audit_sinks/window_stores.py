"""Where a sink's windows go, each with its own position: the evidence in objects, or ClickHouse.

A sink that starts, or takes over a partition from another one, asks the store
where it is; what a consumer group remembers is a hint at most. ``place`` says
it, ``store`` adds one window, and a window that is there already is compared
and passed over. Of two sinks that hold one partition for a moment neither can
do harm: objects are put if absent and the checkpoint is swapped, blocks have
tokens.

ClickHouse first catches up from the objects, by the code that restores it, and
then follows the topic from the published state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.merkle import leaf_hash
from rlhf_audit_ledger.objects import log_prefix
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState
from rlhf_audit_ledger.tiles import TILE_HEIGHT, TILE_WIDTH, Edge, TileRef
from rlhf_audit_schemas.errors import TransportError
from rlhf_audit_sinks.evidence import EvidenceSink, delete_partials
from rlhf_audit_sinks.sealed_windows import ForkError, Window
from rlhf_audit_sinks.stored_windows import StoredWindows
from rlhf_audit_stores.objects import ObjectStore, SwapLostError
from rlhf_audit_stores.stored_state import Segments, stored_state

if TYPE_CHECKING:
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink


class PositionMovedError(TransportError):
    """Somebody else stored windows of this partition meanwhile: ask the store where it is and go on from there."""


class PlacingStoppedError(TransportError):
    """The partition was taken away while its position was looked up."""


class WindowStore(Protocol):
    """One kind of store. Used by one thread. Raises errors with ``retriable``, or OSError, if it does not answer."""

    @property
    def name(self) -> str:
        """``objects`` or ``clickhouse``, for metrics, groups and alarms."""

    def place(self, settings: PartitionSettings, keep_on: Callable[[], bool]) -> SealState | None:
        """State at the window border from which on the sealed log is to be read; None: from its first record.

        MUST read the store, not its memory. ``keep_on`` is called now and then while that takes long; False ends it.
        """

    def store(self, window: Window) -> bool:
        """Store the window durably; False if it was there. Raises ForkError if another one stands in its place.

        Raises PositionMovedError if the store is not where ``place`` or the last call left it.
        """

    def stored_record(self, settings: PartitionSettings, header: SealHeader) -> SealedRecord | None:
        """The stored record of this source offset without its value; None if the store never had one."""

    def close(self) -> None:
        """Give connections back."""


class StoredRecords:
    """Records of one partition by source offset, from its segments; the newest segment read is kept."""

    def __init__(self, objects: ObjectStore, settings: PartitionSettings) -> None:
        self._objects, self._settings = objects, settings
        self._segments = Segments(objects, settings.stream.stream, settings.partition)
        self._state: SealState | None = None
        self._window = -1
        self._records: list[tuple[SealHeader, SealedRecord]] = []

    def find(self, header: SealHeader) -> SealedRecord | None:
        """The record of this source offset without its value; None if the segments have none."""
        if not self._holds(header):
            state = self._state_after(header)
            if state is None or not self._seek(header, state):
                return None
        wanted = (header.source_id, header.offset)
        return next((record for head, record in self._records if (head.source_id, head.offset) == wanted), None)

    def _state_after(self, header: SealHeader) -> SealState | None:
        """A state of the store that is behind this record; read anew if the one remembered is not."""
        state = self._state
        if state is None or (header.source_id, header.offset >= state.next_offset) != (state.source_id, False):
            found = stored_state(self._settings, self._objects)
            self._state = None if found is None else found.state
        return self._state

    def _seek(self, header: SealHeader, state: SealState) -> bool:
        low, high = 0, state.window_id
        while high - low > 1:
            middle = (low + high) // 2
            self._read(middle)
            if self._begins_after(header, state):
                high = middle
            else:
                low = middle
        if high > low:
            self._read(low)
        return high > low

    def _holds(self, header: SealHeader) -> bool:
        if not self._records:
            return False
        first, last = self._records[0][0], self._records[-1][0]
        is_one_source = first.source_id == last.source_id == header.source_id
        return is_one_source and first.offset <= header.offset <= last.offset

    def _begins_after(self, header: SealHeader, state: SealState) -> bool:
        first = self._records[0][0]
        if first.source_id == header.source_id:
            return first.offset > header.offset
        return header.source_id != state.source_id  # an older source lies before

    def _read(self, window: int) -> None:
        if window != self._window:
            records = self._segments.read(window)
            self._records = [(SealHeader.decode(record.header), record) for record in records]
            self._window = window


class _Lookup:
    """``StoredRecords`` of every partition that was asked for."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._found: dict[str, StoredRecords] = {}

    def stored_record(self, settings: PartitionSettings, header: SealHeader) -> SealedRecord | None:
        """As ``WindowStore.stored_record``."""
        if settings.name not in self._found:
            self._found[settings.name] = StoredRecords(self._objects, settings)
        return self._found[settings.name].find(header)


class ObjectsWindows(_Lookup):
    """Evidence in object storage, written by ``EvidenceSink``."""

    name = "objects"

    def __init__(self, objects: ObjectStore, vault: ObjectStore, vault_key: bytes) -> None:
        super().__init__(objects)
        self._vault, self._vault_key = vault, vault_key
        self._sinks: dict[str, EvidenceSink] = {}
        self._tried: dict[str, int] = {}  # size of the window that somebody else stored before us

    def place(self, settings: PartitionSettings, keep_on: Callable[[], bool]) -> SealState | None:
        found = stored_state(settings, self._objects)
        self._sinks[settings.name] = EvidenceSink(
            settings,
            objects=self._objects,
            vault=self._vault,
            vault_key=self._vault_key,
            edge=Edge.empty() if found is None else found.edge,
            version=None if found is None else found.version,
        )
        if found is not None:
            self._sweep(settings, {found.close.first_index, self._tried.pop(settings.name, 0)}, found.close.size)
        return None if found is None else found.state

    def _sweep(self, settings: PartitionSettings, earlier: set[int], size: int) -> None:
        """Delete what a sink left that died, or came second, before it could: partial tiles whose full one is there."""
        full = []
        for before in earlier:
            for level in range(size.bit_length() // TILE_HEIGHT):
                index = (before >> TILE_HEIGHT * level) // TILE_WIDTH
                if index < (size >> TILE_HEIGHT * level) // TILE_WIDTH:
                    full += [TileRef(level, index, TILE_WIDTH).path]
                    full += [TileRef(None, index, TILE_WIDTH).path] if level == 0 else []
        delete_partials(self._objects, log_prefix(settings.stream.stream, settings.partition), full)

    def store(self, window: Window) -> bool:
        try:
            self._sinks[window.settings.name].store(window.sealed)
        except SwapLostError as error:
            self._tried[window.settings.name] = window.close.size
            raise PositionMovedError(f"{window.settings.name} window {window.close.window}: {error}") from error
        return True

    def close(self) -> None:
        self._sinks.clear()


class ClickHouseWindows(_Lookup):
    """Rows in ClickHouse. A connection that failed is made anew by the next call."""

    name = "clickhouse"

    def __init__(
        self,
        connect: Callable[[], ClickHouseSink],
        *,
        objects: ObjectStore,
        vault: ObjectStore,
        vault_key: bytes,
        disconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect, self._disconnect = connect, disconnect
        super().__init__(objects)
        self._vault, self._vault_key = vault, vault_key
        self._sink: ClickHouseSink | None = None

    def place(self, settings: PartitionSettings, keep_on: Callable[[], bool]) -> SealState | None:
        stream, partition = settings.stream.stream, settings.partition
        evidence = StoredWindows(self._objects, self._vault, self._vault_key, stream, partition)
        with self._answering() as sink:
            sink.look_again(stream, partition)
            while True:
                found = stored_state(settings, self._objects)
                if found is None or sink.stored_up_to(stream, partition) >= found.state.window_id:
                    return None if found is None else found.state
                for window in evidence.read_from(sink.stored_up_to(stream, partition)):
                    sink.store(window)
                    if not keep_on():
                        raise PlacingStoppedError(f"{settings.name}: taken away while catching up from the objects")

    def store(self, window: Window) -> bool:
        close, record = window.close, window.sealed[-1].record
        with self._answering() as sink:
            if close.window < sink.stored_up_to(close.stream, close.partition):
                ours = leaf_hash(record.close or b"")
                stored = sink.close_hashes(close.stream, close.partition, close.window)
                if stored == {ours}:
                    return False
                raise ForkError(
                    partition=f"{window.settings.name} window {close.window}",
                    offset=close.first_offset,
                    expected=min(stored - {ours}, default=None),
                    found=ours,
                )
            sink.store(window.sealed)
        return True

    def close(self) -> None:
        if self._sink is not None:
            self._sink = None
            self._disconnect()

    @contextmanager
    def _answering(self) -> Iterator[ClickHouseSink]:
        """The sink; errors of the client become ours, and the next call connects anew."""
        from clickhouse_connect.driver.exceptions import ClickHouseError as ClientError

        try:
            if self._sink is None:
                self._sink = self._connect()
            yield self._sink
        except (ClientError, TransportError, OSError) as error:
            self.close()
            if isinstance(error, ClientError):  # the server's message may quote a value: its kind is enough
                raise TransportError(f"ClickHouse did not answer: {type(error).__name__}") from None
            raise
