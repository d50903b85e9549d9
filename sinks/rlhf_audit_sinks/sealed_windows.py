"""Sealed records in, checked windows out: what a sink does with a sealed log before it stores anything.

A sink holds no signing key and believes nothing (``docs/format.md`` sections 4
and 5). From the state at a window border on, each record is folded:

1. The value hashes to the header's digest, and a batch is the one that the header describes.
2. Event digests are made anew from the value; link, lane rows and close record are those that the rules give.
3. A close's checkpoint is signed by the log key, over the size and root that the records lead to.

A record whose source offset was taken before is a duplicate if it is the same,
byte for byte (a sealer that was thought dead sends such), and a fork if it is
not. One that is older than what is remembered here is handed back: whoever has
the store compares it with ``check_stored``.

What it does not check: batch signatures, whether a quarantined message was
really bad, and ticks between two closes. ``verify`` does.

No I/O and no clock here: bytes in, windows out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from rlhf_audit_ledger.batch import BatchBody, open_envelope, value_digest
from rlhf_audit_ledger.checkpoint import Checkpoint, open_checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.entries import event_entries, offset_salt, quarantine_digest
from rlhf_audit_ledger.fold import FoldError, fold
from rlhf_audit_ledger.header import BatchFacts, SealHeader
from rlhf_audit_ledger.note import UnknownKeyError
from rlhf_audit_ledger.reading import facts_of
from rlhf_audit_ledger.seal import NOTHING, Sealed
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_schemas.errors import CouldNotCheckError, FormatError, TamperError

REMEMBERED_RECORDS = 8192  # two windows at the cap: a duplicate reaches back to what a sealer had under way, no further
_HAVE_EVENTS = ("accepted", "gap_filled")

Place = tuple[bytes, int]  # source_id and offset: what one sealed record is about


class ForkError(TamperError):
    """Two different records for one place of a sealed log."""

    def __init__(self, *, partition: str, offset: int, expected: bytes | None, found: bytes) -> None:
        known = "unknown" if expected is None else expected.hex()
        super().__init__(f"{partition} source offset {offset}: fork: expected record {known}, found {found.hex()}")
        self.partition, self.offset, self.expected, self.found = partition, offset, expected, found


class SealedGapError(CouldNotCheckError):
    """Records between the last one and this one are missing in what was read."""

    def __init__(self, *, partition: str, expected: int, found: int) -> None:
        super().__init__(f"{partition}: expected the sealed record of source offset {expected}, found {found}")
        self.partition, self.expected, self.found = partition, expected, found


@dataclass(frozen=True, slots=True)
class Window:
    """A checked window: everything sealed in it, in order; the last record closes it."""

    settings: PartitionSettings
    sealed: Sequence[Sealed]
    close: Close
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a record: sealed, with the window it closes if any; a duplicate; or older than is remembered."""

    outcome: Literal["sealed", "duplicate", "older"]
    record: SealedRecord
    header: SealHeader
    window: Window | None = None


class WindowAssembler:
    """Takes the records of one partition in order, from a window border on. Memory: one window, and digests."""

    def __init__(self, settings: PartitionSettings, quarantine_key: bytes, state: SealState | None) -> None:
        """``state`` is right after a close; None if the first record ever comes next."""
        if state is not None and state.window is not None:
            raise ValueError(f"{settings.name}: not at a window border")
        self.settings = settings
        self._quarantine_key = quarantine_key
        self._state = state
        self._open: list[Sealed] = []
        self._recent: dict[Place, bytes] = {}

    @property
    def state(self) -> SealState | None:
        """State after the last record taken."""
        return self._state

    @property
    def open_records(self) -> int:
        """Records that wait for their close."""
        return len(self._open)

    def take(self, data: bytes) -> Taken:
        """Take the next record, without a wire header.

        Raises ForkError, SealedGapError, FoldError and the other TamperErrors of a wrong checkpoint, FormatError on
        bytes that do not decode. After an error nothing has changed.
        """
        record = SealedRecord.decode(data)
        header = SealHeader.decode(record.header)
        state = first_state(self.settings, header.source_id) if self._state is None else self._state
        digest = hashlib.sha256(data).digest()
        if self._is_duplicate(header, digest):
            return Taken("duplicate", record, header)
        if header.source_id == state.source_id and header.offset != state.next_offset:
            if header.offset > state.next_offset:
                raise SealedGapError(partition=self.settings.name, expected=state.next_offset, found=header.offset)
            if header.offset < 0 or self._remembers_from(header):
                raise ForkError(partition=self.settings.name, offset=header.offset, expected=None, found=digest)
            return Taken("older", record, header)
        window = self._fold(state, record, header)
        self._remember((header.source_id, header.offset), digest)
        return Taken("sealed", record, header, window)

    def _is_duplicate(self, header: SealHeader, digest: bytes) -> bool:
        known = self._recent.get((header.source_id, header.offset))
        if known is not None and known != digest:
            raise ForkError(partition=self.settings.name, offset=header.offset, expected=known, found=digest)
        return known is not None

    def _remembers_from(self, header: SealHeader) -> bool:
        """Whether every record from this offset on is remembered, so that one that is not never was there."""
        oldest = next(iter(self._recent), None)
        return oldest is not None and oldest[0] == header.source_id and oldest[1] <= header.offset

    def _remember(self, place: Place, digest: bytes) -> None:
        self._recent[place] = digest
        if len(self._recent) > REMEMBERED_RECORDS:
            for old in list(islice(self._recent, len(self._recent) - REMEMBERED_RECORDS)):
                del self._recent[old]

    def _fold(self, state: SealState, record: SealedRecord, header: SealHeader) -> Window | None:
        settings = self.settings
        salt = offset_salt(self._quarantine_key, state.source_id, header.offset)
        events = check_value(settings, record, header, salt)
        entries: list[bytes] = []
        if header.batch is not None and header.outcome in _HAVE_EVENTS:
            entries = event_entries(settings.stream.stream, header.batch.kind, header.batch.schema, events)
        move, result = fold(settings, state, record, lambda count: entries)
        sealed = Sealed(record, move.header, move.event_entries, result.leaves, result.close, salt)
        window = None
        if result.close is not None and record.checkpoint is not None:
            where = f"{settings.name} window {result.close.window}"
            try:
                signed = open_checkpoint(record.checkpoint, settings.log_key, settings.origin).checkpoint
            except UnknownKeyError as error:
                raise FoldError(f"{where}: the checkpoint is not signed by the key of the genesis") from error
            if signed != Checkpoint(settings.origin, result.state.tree.size, result.state.tree.root()):
                raise FoldError(f"{where}: the checkpoint is not over what the records lead to")
            window = Window(settings, [*self._open, sealed], result.close, record.checkpoint)
            self._open = []
        else:
            self._open.append(sealed)
        self._state = result.state
        return window


def check_value(settings: PartitionSettings, record: SealedRecord, header: SealHeader, salt: bytes) -> Sequence[bytes]:
    """Events in the record's value. Raises FoldError unless the value is the one that its header describes."""
    where = f"{settings.name} source offset {header.offset}"
    if (record.value is None) != (header.outcome == "hole"):
        raise FoldError(f"{where}: outcome {header.outcome} and value do not fit")
    if record.value is None:
        expected = NOTHING
    elif header.outcome == "quarantined":
        expected = quarantine_digest(salt, record.value)
    else:
        expected = value_digest(record.value)
    if header.value_digest != expected:
        raise FoldError(f"{where}: the value is not the one that was sealed")
    if header.batch is None or record.value is None:
        return ()
    return _events_of(where, settings, record.value, header.batch)


def _events_of(where: str, settings: PartitionSettings, value: bytes, facts: BatchFacts) -> Sequence[bytes]:
    try:
        encoded, signature = open_envelope(value)
        body = BatchBody.decode(encoded)
    except FormatError as error:
        raise FoldError(f"{where}: sealed as a batch, and is none") from error
    found = facts_of(body, encoded, "unsigned" if signature is None else facts.signature)
    if signature is not None and facts.signature == "unsigned":
        raise FoldError(f"{where}: a signed batch, sealed as unsigned")
    is_ours = (body.ledger_id, body.stream, body.partition) == (
        settings.ledger_id,
        settings.stream.stream,
        settings.partition,
    )
    if found != facts or not is_ours:
        raise FoldError(f"{where}: the batch is not the one that the header describes")
    return body.events


def check_stored(settings: PartitionSettings, quarantine_key: bytes, taken: Taken, stored: SealedRecord | None) -> None:
    """For a record that is older than is remembered: raises ForkError unless it is the stored one.

    ``stored`` is what the segment keeps of this place, None if there is nothing: then no record ever was there.
    """
    found = hashlib.sha256(taken.record.encode()).digest()
    if stored is None or stored.without_value() != taken.record.without_value():
        raise ForkError(partition=settings.name, offset=taken.header.offset, expected=None, found=found)
    salt = offset_salt(quarantine_key, taken.header.source_id, taken.header.offset)
    check_value(settings, taken.record, taken.header, salt)
