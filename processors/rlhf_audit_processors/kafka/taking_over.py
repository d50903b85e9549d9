"""State of a partition for its new owner: objects, then the sealed topic, then a look at the source.

The rules are those of ``recovery``; this gives them Kafka's logs and keeps one
record in memory at a time, however much the objects lag behind.

Two rules are of Kafka alone. A source that lost messages before they were
sealed goes on behind them (a hole) only if the sealed topic shows where the
ledger stood; with both logs emptied nobody could tell what is missing. And
nothing begins in the middle of a source: without objects and sealed records the
source must begin at 0.
"""

from __future__ import annotations

from rlhf_audit_ledger.seal import Sealer
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_processors.kafka.sealed_topic import SealedTopic, SourceTopic, Tail
from rlhf_audit_processors.recovery import check_source, read_back
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_stores.stored_state import RefusedToGoOnError, stored_state


def take_over(sealer: Sealer, objects: ObjectStore, sealed: Tail, source: Tail, source_id: bytes) -> SealState:
    """State after the last sealed record. Raises RefusedToGoOnError if what is stored does not fit together."""
    stored = stored_state(sealer.settings, objects)
    start = first_state(sealer.settings, source_id) if stored is None else stored.state
    state = start
    records = SealedTopic(sealed, start)
    for after, _ in read_back(sealer, records, start):
        state = after
    log = SourceTopic(source, source_id)
    check_source(sealer, log, state)
    if log.first_offset > state.next_offset and not records.holds_start:
        raise RefusedToGoOnError(
            f"{source.where}: begins at {log.first_offset}, sealed up to {state.next_offset}, and {sealed.where} does "
            "not hold the last sealed record: messages were deleted before they were sealed, or records after"
        )
    return state
