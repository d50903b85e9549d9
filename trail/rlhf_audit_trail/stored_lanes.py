"""What of some producers is stored: read from the segments of an object store, each window once.

For whoever recorded something and was not the one who sealed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.objects import SEGMENT, segment_name
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_stores.objects import ObjectStore

_DELIVERED = ("accepted", "gap_filled")
Place = tuple[str, int]


class StoredLanes:
    """One producer's lanes as far as windows are stored; ``look`` takes in what was stored since."""

    def __init__(self, objects: ObjectStore, partitions: Mapping[str, int], producer: str) -> None:
        self._objects, self.producer = objects, producer
        self._next_window: dict[Place, int] = {
            (stream, number): 0 for stream, count in partitions.items() for number in range(count)
        }
        self._lanes: dict[Place, LaneView] = {}
        self.counts: Counter[tuple[str, int, str]] = Counter()
        """(stream, partition, kind) -> events, over all epochs."""

    @property
    def lanes(self) -> list[LaneView]:
        """Newest lane in each partition."""
        return [self._lanes[place] for place in sorted(self._lanes)]

    def skip_stored(self) -> None:
        """Pass over every window that is stored now: a producer that is new stands in none of them."""
        for place in self._next_window:
            self._next_window[place] = self._first_missing(place)

    def look(self) -> None:
        """Take in the windows that were stored since the last look."""
        for place in self._next_window:
            while self._objects.exists(segment_name(*place, self._next_window[place])):
                self._take(place, segment_name(*place, self._next_window[place]))
                self._next_window[place] += 1

    def _take(self, place: Place, name: str) -> None:
        for raw in SEGMENT.decode(name, self._objects.get(name)):
            header = SealHeader.decode(raw["header"])
            batch = header.batch
            if batch is None or batch.producer != self.producer or header.outcome not in _DELIVERED:
                continue
            kind = KINDS_BY_NUMBER.get(batch.kind)
            self.counts[(*place, str(batch.kind) if kind is None else kind.name)] += batch.count
            before = self._lanes.get(place)
            end = batch.first_seq + batch.count
            if before is None or before.epoch < batch.epoch:
                self._lanes[place] = LaneView(*place, batch.epoch, end, batch.final)
            elif before.epoch == batch.epoch:
                ended = before.ended or batch.final
                self._lanes[place] = LaneView(*place, batch.epoch, max(end, before.next_seq), ended)

    def _first_missing(self, place: Place) -> int:
        """Windows are stored in order and never deleted, so the first missing one is found by doubling and halving."""
        low, high = 0, 1
        while self._objects.exists(segment_name(*place, high - 1)):
            low, high = high, 2 * high
        while low < high - 1:
            middle = (low + high) // 2
            if self._objects.exists(segment_name(*place, middle - 1)):
                low = middle
            else:
                high = middle
        return low
