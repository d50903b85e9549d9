"""Where a restarted worker goes on: the ledger is the state (``docs/format.md`` section 4).

1. State at the published checkpoint, from the objects (``rlhf_audit_stores.stored_state``).
2. The sealed log goes on from there: each record is sealed again and must come out byte for byte.
3. The source log is the same one, is not shorter, and its last sealed message is the same. Or it ended with a switch
   to another one (``is_switched``): then nothing more comes from it.

Anything else (another source log, a restored backup, a fork) is refused with
an explanation: never restarted at 0, never signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rlhf_audit_ledger.batch import value_digest
from rlhf_audit_ledger.checkpoint import Checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.entries import offset_salt, quarantine_digest
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.reading import SwitchReading, read_control
from rlhf_audit_ledger.seal import NOTHING, Sealed, Sealer, seal, seal_hole
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_ledger.tiles import Edge
from rlhf_audit_stores.objects import ObjectStore, Version
from rlhf_audit_stores.stored_state import RefusedToGoOnError, stored_state


class SealedReader(Protocol):
    """Sealed records as they were written."""

    @property
    def first_m(self) -> int:
        """m of the oldest record kept."""

    @property
    def next_m(self) -> int:
        """m that the next record will get."""

    def read_from(self, m: int) -> Iterator[tuple[int, bytes]]:
        """Records from m on."""


class Source(Protocol):
    """Source log as far as recovery needs it."""

    @property
    def source_id(self) -> bytes:
        """16 bytes."""

    @property
    def next_offset(self) -> int:
        """Offset that the next message will get."""

    @property
    def first_offset(self) -> int:
        """Offset of the oldest message kept."""

    def read_from(self, offset: int) -> Iterator[SourceMessage]:
        """Messages from ``offset`` on."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """``published`` and ``edge`` are those of the object store, ``state`` is after the sealed log's last record and
    ``unstored`` what was sealed in between. ``is_log_short``: the sealed log lacks records the objects have.
    ``is_switched``: the partition goes on in another source log than this one."""

    published: Checkpoint | None
    version: Version | None
    close: Close | None
    edge: Edge
    state: SealState
    unstored: list[Sealed]
    is_log_short: bool
    is_switched: bool = False


def recover(sealer: Sealer, objects: ObjectStore, sealed: SealedReader, source: Source) -> Recovered:
    """State of a partition from what is stored. Raises RefusedToGoOnError if it does not fit together."""
    stored = stored_state(sealer.settings, objects)
    start = first_state(sealer.settings, source.source_id) if stored is None else stored.state
    state, unstored = start, []
    for after, again in read_back(sealer, sealed, start):
        state = after
        unstored.append(again)
    before = unstored[-1].header.source_id if unstored else None if stored is None else stored.last_source_id
    is_switched = source.source_id != state.source_id and (source.source_id == before or _was_left(sealer, source))
    if not is_switched:
        check_source(sealer, source, state)
    is_log_short = sealed.next_m <= start.m and start.m > 0
    if stored is None:
        return Recovered(None, None, None, Edge.empty(), state, unstored, is_log_short, is_switched)
    published, version, close, edge = stored.published, stored.version, stored.close, stored.edge
    return Recovered(published, version, close, edge, state, unstored, is_log_short, is_switched)


def _was_left(sealer: Sealer, source: Source) -> bool:
    """Whether the source log ends with a switch to another one, which others have sealed since."""
    last = source.next_offset - 1
    for message in source.read_from(last) if last >= source.first_offset else ():
        if message.value is None:
            return False
        return isinstance(read_control(sealer.settings, source.source_id, message.value), SwitchReading)
    return False


def read_back(sealer: Sealer, sealed: SealedReader, start: SealState) -> Iterator[tuple[SealState, Sealed]]:
    """Seal the tail of the sealed log again, record by record; it must come out byte for byte."""
    if sealed.next_m <= start.m + 1:
        return
    name = sealer.settings.name
    if sealed.first_m > start.m + 1:
        raise RefusedToGoOnError(
            f"{name}: the objects end at record {start.m}, the sealed log begins at {sealed.first_m}: "
            "the object store was restored from an older state, or records are lost"
        )
    state = start
    for m, data in sealed.read_from(start.m + 1):
        record = SealedRecord.decode(data)
        header = SealHeader.decode(record.header)
        if header.end_offset is not None:
            state, again = seal_hole(sealer, state, header.ts_us, header.end_offset)
        else:
            state, again = seal(sealer, state, SourceMessage(header.offset, header.ts_us, record.value))
        if again.record.encode() != data or state.m != m:
            raise RefusedToGoOnError(
                f"{name}: sealed record {m} is not what sealing its message gives: the sealed log was changed, or "
                "keys or objects belong to another ledger"
            )
        yield state, again


def check_source(sealer: Sealer, source: Source, state: SealState) -> None:
    """Whether the source log is the one that was sealed. Raises RefusedToGoOnError."""
    name = sealer.settings.name
    if source.source_id != state.source_id:
        raise RefusedToGoOnError(f"{name}: this is another source log than the one that was sealed")
    if source.next_offset < state.next_offset:
        raise RefusedToGoOnError(
            f"{name}: the source log ends at {source.next_offset}, sealed up to {state.next_offset}: it was restored "
            "from an older state"
        )
    last = state.next_offset - 1
    if state.last_value is None or state.last_value == NOTHING or last < source.first_offset:
        return
    for message in source.read_from(last):
        value = message.value or b""
        salt = offset_salt(sealer.quarantine_key, source.source_id, last)
        if state.last_value not in (value_digest(value), quarantine_digest(salt, value)):
            raise RefusedToGoOnError(f"{name}: source message {last} is not the one that was sealed")
        return
