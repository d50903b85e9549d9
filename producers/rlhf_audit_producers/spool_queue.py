"""The bounded queue between the thread that trains and the one that writes.

Putting in never waits. When it is full, what is worth least goes first:
gradients before annotations before lifecycle. What goes leaves its count
behind, in its place in the order, so that the writer can use up the numbers
and declare them: a loss is itself an event.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rlhf_audit_schemas.kinds import Kind

CLASSES = {"gradients": 0, "annotations": 1, "lifecycle": 2}  # ascending worth
Place = tuple[str, int]  # stream, partition


@dataclass(slots=True, eq=False)
class Submission:
    """Events of one call. ``encode`` makes their bytes, on the writer's thread, in the order of ``annotators``.

    ``claim`` names, on the same thread, what several ranks may hand in and one of them records.
    """

    kind: Kind
    count: int
    encode: Callable[[], list[bytes]]
    annotators: Sequence[str | None] | None = None
    bytes_held: int = 0
    claim: Callable[[], bytes] | None = None


@dataclass(slots=True, eq=False)
class Lost:
    """Numbers to use up for events that were dropped here."""

    reason: str
    counts: Counter[Place] = field(default_factory=Counter)


def events_of(item: Submission | Lost) -> int:
    """Events that an item stands for."""
    return item.count if isinstance(item, Submission) else item.counts.total()


class SpoolQueue:
    """Submissions in order. Any thread may put, one takes."""

    def __init__(self, *, max_events: int, max_bytes: int, places: Callable[[Submission], Counter[Place]]) -> None:
        self._max_events, self._max_bytes, self._places = max_events, max_bytes, places
        self._items: deque[Submission | Lost] = deque()
        self._events: Counter[int] = Counter()  # by class
        self._bytes: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.dropped = 0
        self.reason = "queue_full"  # the writer sets another while it cannot write

    def put(self, item: Submission) -> bool:
        """Returns False if it was dropped; others may have been dropped for it."""
        own = CLASSES[item.kind.stream]
        with self.lock:
            is_kept = self._fits(item) or self._evict_below(own, item)
            if is_kept:
                self._items.append(item)
                self._events[own] += item.count
                self._bytes[own] += item.bytes_held
            else:
                self._lose(item)
            if 2 * self._events.total() > self._max_events or 2 * self._bytes.total() > self._max_bytes:
                self.wake.set()
        return is_kept

    def take(self, streams: frozenset[str] | None = None) -> list[Submission | Lost]:
        """Everything, or only what is of these streams; the order stays."""
        with self.lock:
            if streams is None:
                taken = list(self._items)
                self._items.clear()
                self._events.clear()
                self._bytes.clear()
                return taken
            taken, kept = [], deque[Submission | Lost]()
            for item in self._items:
                mine, rest = _split(item, streams)
                if mine is not None:
                    taken.append(mine)
                    self._forget(mine)
                if rest is not None:
                    kept.append(rest)
            self._items = kept
            return taken

    def events_left(self) -> int:
        """Events that wait, and those whose numbers still have to be used up."""
        with self.lock:
            return sum(events_of(item) for item in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def _fits(self, item: Submission) -> bool:
        return (
            self._events.total() + item.count <= self._max_events
            and self._bytes.total() + item.bytes_held <= self._max_bytes
        )

    def _evict_below(self, own: int, item: Submission) -> bool:
        """Drop the lowest classes, all of a class at once: one pass per class, not one per call."""
        for worth in range(own):
            if not self._events[worth]:
                continue
            kept = deque[Submission | Lost]()
            for each in self._items:
                if isinstance(each, Submission) and CLASSES[each.kind.stream] == worth:
                    self._forget(each)
                    self._mark(kept, each)
                else:
                    kept.append(each)
            self._items = kept
            if self._fits(item):
                return True
        return False

    def _forget(self, item: Submission | Lost) -> None:
        if isinstance(item, Submission):
            worth = CLASSES[item.kind.stream]
            self._events[worth] -= item.count
            self._bytes[worth] -= item.bytes_held

    def _lose(self, item: Submission) -> None:
        self._mark(self._items, item)

    def _mark(self, items: deque[Submission | Lost], item: Submission) -> None:
        """A mark at the end; one behind another becomes one, so that marks never fill memory."""
        self.dropped += item.count
        last = items[-1] if items else None
        if not isinstance(last, Lost) or last.reason != self.reason:
            last = Lost(self.reason)
            items.append(last)
        last.counts.update(self._places(item))


Item = Submission | Lost


def _split(item: Item, streams: frozenset[str]) -> tuple[Item | None, Item | None]:
    """What of an item is of these streams, and what is not."""
    if isinstance(item, Submission):
        return (item, None) if item.kind.stream in streams else (None, item)
    mine = Counter({place: count for place, count in item.counts.items() if place[0] in streams})
    rest = item.counts - mine
    return Lost(item.reason, mine) if mine else None, Lost(item.reason, rest) if rest else None
