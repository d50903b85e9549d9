"""Going on behind a broken window, so that one fault does not hide those after it.

The close record in the log says everything about the state but the lane table,
of which it holds the digest. Rows that segments carry are laid over the last
table known until it has that digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from rlhf_audit_auditor.rebuild import CountedRange
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.lanes import LaneRow, LaneTable, table_digest
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import SealState
from rlhf_audit_schemas.errors import FormatError


class Resume:
    """Lane rows as far as they are known."""

    def __init__(self, lanes: LaneTable) -> None:
        self._rows = {row.producer: row for row in lanes.rows()}

    def at(self, close: Close, records: Sequence[SealedRecord]) -> SealState | None:
        """State behind ``close``, whose window's records are ``records`` as far as they decode; None if not yet."""
        for record in records:
            for _, encoded in record.lane_rows:
                with suppress(FormatError):
                    row = LaneRow.decode(encoded)
                    self._rows[row.producer] = row
        table = LaneTable(dict(self._rows))
        if len(table) != close.lanes or table_digest(table.rows()) != close.lanes_digest:
            return None
        return SealState(
            source_id=close.source_id,
            next_offset=close.next_offset,
            last_value=None,
            m=close.m,
            link=close.link,
            tree=CountedRange(close.size),
            window_id=close.window + 1,
            first_index=close.size,
            first_offset=close.next_offset,
            previous_close=close.end_index,
            ticks=close.ticks,
            lanes=table,
            added_schemas=close.added_schemas,
            format=close.format,
        )
