"""A local ledger goes on in Kafka: every partition's source log ends with a signed switch to its topic.

1. The topics are there, with the partitions of the genesis.
2. Everything local is sealed, stored and published.
3. Each used partition gets its switch, which closes a window: sealed, stored.
4. Their checkpoints are published.

A partition that never held a message needs no switch: it begins in Kafka.
Interrupted, it goes on where it stopped when it is called again. Nothing is
written to Kafka here; the sealer there takes its state from the objects.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_audit_schemas.errors import ConfigError, TamperError
from rlhf_audit_stores.kafka.topics import TopicFacts
from rlhf_audit_trail.local import LocalTrail

logger = logging.getLogger(__name__)

FIRST_OFFSET = 1  # record 0 of a source partition is the tick that `topics apply` writes: it is not of this ledger


class OtherTopicError(TamperError):
    """A partition went on in another topic than this one; nothing was done."""


@dataclass(frozen=True, slots=True)
class Switched:
    """Partitions by name: switched now, before, and those that begin in Kafka since they never held a message."""

    now: tuple[str, ...]
    before: tuple[str, ...]
    unused: tuple[str, ...]


def switch_to_kafka(trail: LocalTrail, topics: Mapping[str, TopicFacts]) -> Switched:
    """End the source logs of ``trail``, opened with ``is_leaving``; ``topics`` are the source topics by stream.

    Idempotent. Raises ConfigError if a topic is missing or has other partitions than the genesis, OtherTopicError if
    a partition went on elsewhere before.
    """
    _check_topics(trail, topics)
    used = {part.settings.name: part for part in trail.used_parts()}
    for name, part in used.items():
        target = topics[part.settings.stream.stream].source_id
        if part.is_switched and part.state.source_id != target:
            raise OtherTopicError(
                f"{name}: goes on in source log {part.state.source_id.hex()}, the topic "
                f"{topics[part.settings.stream.stream].topic} is {target.hex()}: it was deleted and made again, or is "
                "of another cluster"
            )
    before = [name for name, part in used.items() if part.is_switched]
    trail.drain()
    for name, part in used.items():
        if name not in before:
            stream = part.settings.stream.stream
            trail.switch_source(stream, part.settings.partition, topics[stream].source_id, FIRST_OFFSET)
            logger.info("%s goes on in %s", name, topics[stream].topic)
    trail.drain()
    every = [f"{stream}/{number}" for stream, count in trail.partitions.items() for number in range(count)]
    now = tuple(name for name in used if name not in before)
    return Switched(now, tuple(before), tuple(name for name in every if name not in used))


def _check_topics(trail: LocalTrail, topics: Mapping[str, TopicFacts]) -> None:
    for stream, count in trail.partitions.items():
        facts = topics.get(stream)
        if facts is None:
            raise ConfigError(f"{stream}: there is no topic for it: run `rlhf-audit topics apply` first")
        if facts.partitions != count:
            raise ConfigError(f"{facts.topic}: {facts.partitions} partitions, the genesis names {count}")
