"""Where in a sealed topic a partition has to be read from, given the state of a store.

Source offsets rise along a sealed topic but for stale duplicates, so a search
by halves finds a record that is not behind the store, or a duplicate of one.
Reading begins ``LOOK_BACK`` records before that place, so that it never begins
inside a run of duplicates that ends the topic: there no later record would show
that some were passed over. Reading on meets every record that the store lacks,
or a gap first, and then the caller reads from the topic's beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import SealState
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.kafka.wire import strip_header

LOOK_BACK = 128  # a sealer has at most 64 records under way in a partition: a longer run of duplicates is no zombie's


class Tail(Protocol):
    """What ``PartitionTail`` offers."""

    def watermarks(self) -> tuple[int, int]:
        """First offset kept, and the next one."""

    def read(self, first: int, end: int) -> Iterator[SourceMessage]:
        """Messages of [first, end)."""


def locate(
    tail: Tail,
    state: SealState,
    *,
    guess: int,
    keep_on: Callable[[], bool] = lambda: True,
    look_back: int = LOOK_BACK,
) -> int:
    """A topic offset from which on no record after ``state`` is missed; rather too early than too late.

    ``guess`` is the committed offset, negative if there is none; ``keep_on`` is called at every step and ends the
    search by returning False.
    """
    first, high = tail.watermarks()
    low = first
    for at in (guess, guess - 1):
        found = _source_offset(tail, at, state) if low <= at < high else None
        if found is not None and found <= state.next_offset:
            if found == state.next_offset or at == high - 1:
                return max(first, at - look_back)  # behind the last close that was stored, and often nothing came since
            low = at
            break
    while high - low > 1 and keep_on():
        middle = (low + high) // 2
        found = _source_offset(tail, middle, state)
        if found is not None and found <= state.next_offset:
            low = middle
        else:
            high = middle
    return max(first, low - look_back)


def _source_offset(tail: Tail, offset: int, state: SealState) -> int | None:
    """Source offset of the record at a topic offset, -1 if it is of an earlier source; None if it is not readable."""
    for message in tail.read(offset, offset + 1):
        try:
            header = SealHeader.decode(SealedRecord.decode(strip_header(message.value or b"")).header)
        except FormatError:
            return None
        return header.offset if header.source_id == state.source_id else -1
    return None
