"""Which partition an event of a spool belongs to (``docs/format.md`` section 1).

By its annotator, or by the producer where nobody is named, or by something that
is no name: such an event cannot be encoded, but its loss has a place. Remembers
what it computed: a keyed hash for each event would be most of what recording costs.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_producers.spool_queue import Place, Submission

_MAX_KNOWN_ROUTES = 100_000  # annotators are few; whoever has more pays for them again


class Router:
    """Partitions by annotator, or by producer where nobody is named."""

    def __init__(self, facts: LedgerFacts, base_producer: str) -> None:
        self._facts, self._producer = facts, base_producer
        self._known: dict[tuple[str | None, str], int] = {}

    @property
    def producer(self) -> str:
        """Who records."""
        return self._producer

    @producer.setter
    def producer(self, name: str) -> None:
        self._producer = name
        self._known.clear()

    def partition(self, stream: str, identity: object) -> int:
        """Partition of one annotator, or of the producer. Takes anything: losses are routed too."""
        key = (identity if isinstance(identity, str) else None, stream)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > _MAX_KNOWN_ROUTES:
                self._known.clear()
            found = self._known[key] = self._computed(*key)
        return found

    def _computed(self, identity: str | None, stream: str) -> int:
        partitions = self._facts.partitions[stream]
        if identity is not None:
            with suppress(UnicodeEncodeError):  # half a surrogate pair
                return partition_of(self._facts.routing_key, identity, partitions)
        return partition_of(self._facts.routing_key, self.producer, partitions)

    def partitions(self, item: Submission) -> list[int] | int:
        """Partition of each event, or the one of all of them."""
        stream = item.kind.stream
        if item.annotators is None:
            return self.partition(stream, None)
        return [self.partition(stream, annotator) for annotator in item.annotators]

    def places(self, item: Submission) -> Counter[Place]:
        """How many events of a submission belong where."""
        partitions = self.partitions(item)
        if isinstance(partitions, int):
            return Counter({(item.kind.stream, partitions): item.count})
        return Counter((item.kind.stream, partition) for partition in partitions)
