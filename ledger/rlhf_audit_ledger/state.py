"""State of one partition: a pure function of its source messages so far (``docs/format.md`` section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_audit_ledger.chain import first_link
from rlhf_audit_ledger.close import NO_COUNTS, Counts, TickState
from rlhf_audit_ledger.entries import partition_genesis_entry
from rlhf_audit_ledger.genesis import FORMAT, SchemaEntry
from rlhf_audit_ledger.lanes import LaneTable
from rlhf_audit_ledger.merkle import CompactRange, leaf_hash
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_schemas.errors import CouldNotCheckError

MAX_ROW_BYTES = 40 * 1024  # of lane rows in one record; keeps a sealed record within 64 KiB of its source value
ALL_ROWS_EVERY = 64  # windows; a restart reads at most that many segments back for its lane table


class UnknownFormatError(CouldNotCheckError):
    """The partition goes on in a format that this version does not know: a newer one has to do it."""


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """The window being filled. ``tree`` is over its own entries; ``messages`` counts those since it opened."""

    opened_us: int
    tree: CompactRange = field(default_factory=lambda: CompactRange(0, ()))
    messages: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class SealState:
    """Everything the seal step carries from one message to the next.

    ``window_id`` is the id of the open window, or of the next one. ``pending_rows`` are encoded lane rows of closed
    windows that wait to be spread over records.
    """

    source_id: bytes
    next_offset: int
    last_value: bytes | None
    m: int
    link: bytes
    tree: CompactRange
    window_id: int = 0
    first_index: int = 1
    first_offset: int = 0
    counts: Counts = NO_COUNTS
    window: OpenWindow | None = None
    previous_close: int | None = None
    ticks: TickState = field(default_factory=TickState)
    lanes: LaneTable = field(default_factory=LaneTable)
    added_schemas: tuple[SchemaEntry, ...] = ()
    pending_schemas: tuple[SchemaEntry, ...] = ()
    pending_rows: tuple[tuple[int, bytes], ...] = ()
    format: int = FORMAT


def genesis_entry(settings: PartitionSettings) -> bytes:
    """Leaf 0 of the partition log."""
    return partition_genesis_entry(
        settings.ledger_id, settings.stream.stream, settings.partition, settings.genesis_digest
    )


def first_state(settings: PartitionSettings, source_id: bytes, first_offset: int = 0) -> SealState:
    """State before any message: the log holds leaf 0 alone."""
    return SealState(
        source_id=source_id,
        next_offset=first_offset,
        last_value=None,
        m=0,
        link=first_link(settings.ledger_id, settings.stream.stream, settings.partition),
        tree=CompactRange(0, ()).extend([leaf_hash(genesis_entry(settings))]),
        first_offset=first_offset,
    )


def require_known_format(settings: PartitionSettings, state: SealState) -> None:
    """Raises UnknownFormatError if what comes next is written in another format than this version's."""
    if state.format != FORMAT:
        raise UnknownFormatError(
            f"{settings.name}: from window {state.window_id} on in format {state.format}, this version knows {FORMAT}"
        )


def schemas_in_force(settings: PartitionSettings, state: SealState) -> frozenset[tuple[int, int]]:
    """Pairs of kind and schema that a batch may carry in the open window."""
    if not state.added_schemas:
        return settings.schemas
    return settings.schemas | {(added.kind, added.schema) for added in state.added_schemas}
