"""A plain reader of one partition: no group, no commit, every offset accounted for.

Faust swallows null values and never shows what is not there; this reader does
neither. A null value comes as a message whose ``value`` is None; offsets that
hold nothing (transaction markers, compaction) show as a jump in the offsets.

It waits within a bound and says why it gave up. It decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.kafka.errors import BrokerError, ErrorWatch, broker_error, is_refusal
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import group_name

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

SILENCE_S = 30.0  # longer than any measured pause after a broker's death (27 s)
_ASK_S = 5.0
_BATCH = 512
_POLL_S = 0.2
_US_PER_MS = 1000


class OffsetsGoneError(CouldNotCheckError):
    """The partition no longer holds these offsets: deleted by retention, or it is another topic of the same name."""


class PartitionTail:
    """Reader of one partition. Not for two threads at once."""

    def __init__(self, settings: KafkaSettings, topic: str, partition: int, *, silence_s: float = SILENCE_S) -> None:
        """``silence_s`` is how long the brokers may say nothing before it is an error."""
        from confluent_kafka import Consumer

        self.topic, self.partition = topic, partition
        self._silence_s = silence_s
        self._is_reading = False
        self._watch = ErrorWatch()
        config = settings.consumer_config(group_name(settings.topic_prefix, "tail"))
        self._consumer = Consumer({**config, "enable.partition.eof": True, "error_cb": self._watch})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._consumer.close()

    @property
    def where(self) -> str:
        """Topic and partition, for messages."""
        return f"{self.topic}[{self.partition}]"

    def watermarks(self) -> tuple[int, int]:
        """Offset of the oldest message kept, and the offset that the next one will get.

        Raises BrokerError if the leader does not answer in time, RefusedByBrokerError if it does not let us read.
        """
        from confluent_kafka import KafkaException, TopicPartition

        deadline = time.monotonic() + self._silence_s
        while True:
            left = max(deadline - time.monotonic(), 0.1)
            try:
                asked = TopicPartition(self.topic, self.partition)
                found = self._consumer.get_watermark_offsets(asked, timeout=min(left, _ASK_S))
            except KafkaException as error:
                if not self._is_reading:
                    self._consumer.poll(0)  # a wrong password is told to whoever polls, and to nobody else
                self._give_up_on(error.args[0], is_late=time.monotonic() >= deadline, cause=error)
                time.sleep(_POLL_S)
                continue
            return found

    def read(self, first: int, end: int) -> Iterator[SourceMessage]:
        """Messages of the offsets [first, end) in order; all of them must have been written already.

        Times are CreateTime in whole milliseconds, times 1000. Raises OffsetsGoneError if ``first`` is not kept any
        more, and the errors of ``watermarks``.
        """
        from confluent_kafka import KafkaError as Codes
        from confluent_kafka import KafkaException, TopicPartition

        if first >= end:
            return
        at, heard = first, time.monotonic()
        try:
            self._is_reading = True
            self._consumer.assign([TopicPartition(self.topic, self.partition, first)])
            while at < end:
                answers = self._consumer.consume(num_messages=min(_BATCH, end - at), timeout=_POLL_S)
                is_late = time.monotonic() - heard > self._silence_s
                if not answers and (is_late or self._watch.refusal is not None):
                    raise self._watch.explain(f"{self.where}: read at {at}", f"silent for {self._silence_s:.0f} s")
                for answer in answers:
                    error = answer.error()
                    if error is None:
                        offset = answer.offset()
                        if offset is None or offset < at:
                            raise BrokerError(f"{self.where}: expected offset {at} or later, found {offset}")
                        at, heard = offset + 1, time.monotonic()
                        if offset >= end:
                            return
                        yield SourceMessage(offset, answer.timestamp()[1] * _US_PER_MS, answer.value())
                        heard = time.monotonic()  # the caller's own time is no silence of the brokers
                    elif error.code() == Codes._PARTITION_EOF:
                        at = max(at, answer.offset() or 0)  # nothing readable stands before this offset
                        if at < end and is_late:
                            raise BrokerError(f"{self.where}: expected offsets up to {end}, ends at {at}")
                    elif error.code() in (Codes._AUTO_OFFSET_RESET, Codes.OFFSET_OUT_OF_RANGE):
                        raise OffsetsGoneError(f"{self.where}: offset {at} is not there any more: {error.str()}")
                    else:
                        self._give_up_on(error, is_late=is_late, cause=None)
        except KafkaException as error:
            raise broker_error(f"{self.where}: read at {at}", error.args[0]) from error
        finally:
            self._consumer.unassign()
            self._is_reading = False

    def _give_up_on(self, error: KafkaError, *, is_late: bool, cause: BaseException | None) -> None:
        """Raise unless trying again may help and there is time left."""
        from confluent_kafka import KafkaError as Codes

        if self._watch.refusal is not None:
            raise self._watch.explain(self.where, "refused") from cause
        if error.code() in (Codes._UNKNOWN_PARTITION, Codes._UNKNOWN_TOPIC, Codes.UNKNOWN_TOPIC_OR_PART):
            error, is_late = self._why_unknown(error), True
        if is_late or is_refusal(error):
            raise broker_error(self.where, error) from cause

    def _why_unknown(self, error: KafkaError) -> KafkaError:
        """A topic that we may not see looks like one that is not there; its metadata tell the two apart."""
        from confluent_kafka import KafkaException

        try:
            found = self._consumer.list_topics(self.topic, timeout=_ASK_S).topics.get(self.topic)
        except KafkaException:
            return error
        return error if found is None or found.error is None else found.error
