"""Sealed records and segment records: one source message as the ledger keeps it.

A segment record is a sealed record without the source value: public, and
enough with the log's entries to re-run chain, lanes and windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlhf_audit_schemas.codec import StrictCodec

SEALED_RECORD = StrictCodec("envelope/sealed_record.avsc")
SEGMENT_RECORD = StrictCodec("envelope/segment_record.avsc")


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """Header, link, entries that are not events, close and checkpoint if it closes a window, lane rows, value.

    ``lane_rows`` are (window, encoded LaneRow). ``value`` is None for a hole, and in a segment.
    """

    header: bytes
    link: bytes
    entries: tuple[bytes, ...]
    close: bytes | None
    checkpoint: bytes | None
    lane_rows: tuple[tuple[int, bytes], ...]
    value: bytes | None

    def encode(self) -> bytes:
        """Avro SealedRecord: a record of a sealed log."""
        return SEALED_RECORD.encode({**self._shared(), "value": self.value})

    def encode_for_segment(self) -> bytes:
        """Avro SegmentRecord: everything but the source value."""
        return SEGMENT_RECORD.encode(self._shared())

    @classmethod
    def decode(cls, data: bytes) -> SealedRecord:
        """Raises FormatError on anything ``encode`` would not make."""
        return _from_raw(SEALED_RECORD.decode(data))

    @classmethod
    def from_segment(cls, raw: Mapping[str, Any]) -> SealedRecord:
        """From a decoded SegmentRecord; ``value`` is None."""
        return _from_raw({**raw, "value": None})

    def without_value(self) -> SealedRecord:
        """What a segment keeps."""
        return replace(self, value=None)

    def _shared(self) -> dict[str, Any]:
        return {
            "header": self.header,
            "link": self.link,
            "entries": list(self.entries),
            "close": self.close,
            "checkpoint": self.checkpoint,
            "lane_rows": [{"window": window, "row": row} for window, row in self.lane_rows],
        }


def _from_raw(raw: Mapping[str, Any]) -> SealedRecord:
    rows = tuple((item["window"], item["row"]) for item in raw["lane_rows"])
    return SealedRecord(
        header=raw["header"],
        link=raw["link"],
        entries=tuple(raw["entries"]),
        close=raw["close"],
        checkpoint=raw["checkpoint"],
        lane_rows=rows,
        value=raw["value"],
    )
