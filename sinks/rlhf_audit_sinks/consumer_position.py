"""Where a group's consumer stands in a partition, and how it is moved. Each call waits within a bound."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

from rlhf_audit_stores.kafka.errors import BrokerError

_ASK_S = 5.0
_SEEK_TRIES, _SEEK_PAUSE_S = 100, 0.05  # a partition that was just assigned takes a moment before it can be moved

Key = tuple[str, int]  # topic and partition


def first_offset(consumer: Consumer, key: Key) -> int:
    """Offset of the oldest message kept. Raises BrokerError if the brokers do not answer."""
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(*key), timeout=_ASK_S)[0])
    except (KafkaException, TypeError) as error:
        raise BrokerError(f"{key[0]}[{key[1]}]: no answer to where it begins") from error


def committed_offset(consumer: Consumer, key: Key) -> int:
    """What the group committed, negative if that is nothing or nobody answers: only a guess."""
    try:
        return int(consumer.committed([TopicPartition(*key)], timeout=_ASK_S)[0].offset)
    except KafkaException:
        return -1


def seek(consumer: Consumer, key: Key, offset: int) -> None:
    """Go to an offset. Raises BrokerError if the partition cannot be moved."""
    for _ in range(_SEEK_TRIES):
        try:
            consumer.seek(TopicPartition(*key, offset))
            return
        except KafkaException as error:
            last = error
            time.sleep(_SEEK_PAUSE_S)
    raise BrokerError(f"{key[0]}[{key[1]}]: cannot go to offset {offset}: {last.args[0].str()}")
