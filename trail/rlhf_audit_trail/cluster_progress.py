"""How far a trail on Kafka has come: what is shipped and not sealed, sealed and not stored.

Read from topics and objects, never from committed offsets: those are hints.
Names of partitions come out; nothing is decided and nothing changed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import sealed_topic, source_topic
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_trail.trail_state import Place, stored_windows

_PIECE = 64  # records read at a time from the end; duplicates of a worker that was replaced are at most as many
_SILENT = ("control", "ignored")  # such a message opens no window


@dataclass(frozen=True, slots=True)
class Sealed:
    """End of a sealed partition: source offset that follows, last window closed, whether another one is open."""

    next_offset: int
    last_window: int | None
    is_open: bool


def unsealed(kafka: KafkaSettings, places: Iterable[Place]) -> list[Place]:
    """Partitions whose source holds something that is not sealed yet."""
    return [place for place in places if sealed_up_to(kafka, place).next_offset < source_end(kafka, place)]


def unstored(kafka: KafkaSettings, places: Iterable[Place], objects: ObjectStore) -> list[Place]:
    """Partitions with a window that is open, or closed and not among the objects yet."""
    found = []
    for place in places:
        sealed = sealed_up_to(kafka, place)
        windows = stored_windows(objects, place)
        if sealed.is_open or (sealed.last_window is not None and sealed.last_window >= windows):
            found.append(place)
    return found


def source_end(kafka: KafkaSettings, place: Place) -> int:
    """Offset that the next message of the source will get."""
    with PartitionTail(kafka, source_topic(kafka.topic_prefix, place[0]), place[1]) as tail:
        return tail.watermarks()[1]


def sealed_up_to(kafka: KafkaSettings, place: Place) -> Sealed:
    """What the end of a sealed topic says; it is read backwards until the last close."""
    with PartitionTail(kafka, sealed_topic(kafka.topic_prefix, place[0]), place[1]) as tail:
        first, end = tail.watermarks()
        next_offset, is_open = 0, False
        while end > first:
            begin = max(first, end - _PIECE)
            for message in reversed(list(tail.read(begin, end))):
                if message.value is None:
                    continue
                record = SealedRecord.decode(strip_header(message.value))
                header = SealHeader.decode(record.header)
                next_offset = max(next_offset, header.offset + 1, header.end_offset or 0)
                if record.close is not None:
                    return Sealed(next_offset, Close.decode(record.close).window, is_open)
                is_open = is_open or header.outcome not in _SILENT
            end = begin
        return Sealed(next_offset, None, is_open)
