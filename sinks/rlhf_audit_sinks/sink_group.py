"""The consumer group of sinks of one kind.

Cooperative-sticky: a sink that joins or dies moves the partitions that have to
move, and leaves the others, with their half-read windows, where they are. The
classic protocol, so that brokers before 4.0 serve it, too. With an instance
name membership is static: who is started again within the session time-out
takes up its own partitions and moves nobody's; the price is that partitions of
one that was stopped for good wait that long.
"""

from __future__ import annotations

from rlhf_audit_stores.kafka.settings import KafkaSettings

SESSION_TIMEOUT_S = 10.0
_MAX_POLL_INTERVAL_S = 300.0  # longer than any one call to a store may take


def group_config(kafka: KafkaSettings, group: str, instance: str | None, session_s: float) -> dict[str, object]:
    """Configuration of a sink's consumer; what the settings pass through wins where nothing rests on it."""
    member = {} if instance is None else {"group.instance.id": f"{group}.{instance}"}
    return {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(session_s * 1000),
        "heartbeat.interval.ms": int(session_s * 200),
        "max.poll.interval.ms": int(_MAX_POLL_INTERVAL_S * 1000),
        "topic.metadata.refresh.interval.ms": 10_000,  # a topic that is made later is found within this
        "queued.min.messages": 256,
        **kafka.consumer_config(group),
        **member,
    }
