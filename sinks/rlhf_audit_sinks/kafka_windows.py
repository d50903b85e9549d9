"""One sink process on sealed topics: reads, checks, stores, and only then commits.

Group. ``sink_group`` says which and why. Nothing rests on it: two sinks that
hold one partition for a moment store the same bytes under the same names.

Position. A partition begins unplaced and paused. The store says from which
source offset on it is to be read; ``locate`` finds a place in the topic that
is not behind it, with the committed offset as a first guess. What is read again
is compared and dropped. A partition whose brokers do not say where it is waits
alone, asked again with growing pauses, and holds up no other.

Store down. The window that could not be stored waits, everything is paused,
and the group is served meanwhile; tried again with growing pauses.

A record that contradicts what is stored, or a window that does, is written to
``alarms`` and ends the process (``TamperError``): nothing is overwritten.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from rlhf_audit_ledger.settings import PartitionSettings
from rlhf_audit_ledger.state import SealState
from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, FormatError, TamperError
from rlhf_audit_sinks.alarms import Alarm, write_alarm
from rlhf_audit_sinks.consumer_position import Key, committed_offset, first_offset, seek
from rlhf_audit_sinks.sealed_windows import SealedGapError, WindowAssembler, check_stored
from rlhf_audit_sinks.sink_group import SESSION_TIMEOUT_S, group_config
from rlhf_audit_sinks.topic_feed import FIRST_PAUSE_S, Feed, GrowingPause
from rlhf_audit_sinks.topic_position import locate
from rlhf_audit_sinks.window_stores import PlacingStoppedError, PositionMovedError, WindowStore
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.errors import BrokerError, ErrorWatch, broker_error, is_refusal
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import OffsetsGoneError, PartitionTail
from rlhf_audit_stores.kafka.topics import group_name, sealed_topic
from rlhf_audit_stores.kafka.wire import strip_header

logger = logging.getLogger(__name__)

_FETCH = 64  # messages taken at a time: at most as many wait here while the store is down
_POLL_S = 0.2
_PLACE_SILENCE_S = 5.0  # the others wait while one is asked for
_LONGEST_PAUSE_S = 5.0
_OTHERS_SHARE = 4  # of the time that asking in vain takes
_LEAVE_S = 15.0


class WindowFollower:
    """Follows the sealed topics of a ledger into one store. ``run`` ends when told to, or with an error."""

    def __init__(
        self,
        kafka: KafkaSettings,
        partitions: Iterable[PartitionSettings],
        store: WindowStore,
        *,
        quarantine_key: bytes,
        health: WorkerHealth,
        alarms: Path,
        instance: str | None = None,
        session_s: float = SESSION_TIMEOUT_S,
    ) -> None:
        self._kafka = kafka
        self._settings = {
            (sealed_topic(kafka.topic_prefix, each.stream.stream), each.partition): each for each in partitions
        }
        self._store = store
        self._quarantine_key = quarantine_key
        self._health = health
        self._alarms = alarms
        self._session_s = session_s
        self._group = group_name(kafka.topic_prefix, f"sink.{store.name}")
        self._feeds: dict[Key, Feed] = {}
        self._watch = ErrorWatch()
        self._config = {**group_config(kafka, self._group, instance, session_s), "error_cb": self._watch}
        self._pause = GrowingPause(_LONGEST_PAUSE_S)  # on while the store is down
        self._active_at = time.monotonic()
        self._placings = 0  # counts how often all positions were thrown away
        self._ask_again_at = 0.0  # not before this for a partition whose brokers did not answer

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Follow until told to stop. Raises TamperError after its alarm is durable, and what cannot be tried again."""
        self._consumer = Consumer(self._config)
        self._health.sink_paused.labels(self._store.name).set(0)
        self._active_at = time.monotonic()
        try:
            self._consumer.subscribe(
                sorted({topic for topic, _ in self._settings}),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while not should_stop():
                self._health.alive()
                self._turn()
        finally:
            self._leave_group()
            self._store.close()

    def _leave_group(self) -> None:
        """Within a bound: everything stored is committed or will be compared, and the session ends by itself."""
        leaving = threading.Thread(target=self._consumer.close, name="leave-group", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)
        if leaving.is_alive():
            logger.warning("the group was not left in order within %.0f s", _LEAVE_S)

    def _turn(self) -> None:
        """One step; a store or broker that does not answer is tried again later, anything else is raised."""
        if self._pause.is_on and (left_s := self._pause.until - time.monotonic()) > 0:
            self._serve(min(_POLL_S, left_s))
            return
        try:
            worked = self._place_one() or self._take_waiting()
        except (AuditTrailError, OSError) as error:
            if not (isinstance(error, OSError) or error.retriable):
                raise
            self._begin_pause(error)
            return
        if self._pause.is_on:
            self._go_on()
        if not worked:
            self._serve(_POLL_S)
        self._report()

    # The group.

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        fresh = [TopicPartition(each.topic, each.partition, OFFSET_BEGINNING) for each in partitions]
        consumer.incremental_assign(fresh)
        consumer.pause(fresh)  # until it is placed
        for each in fresh:
            key = (each.topic, each.partition)
            settings = self._settings.get(key)
            if settings is None:
                raise ConfigError(f"{key[0]}[{key[1]}]: the genesis names no such partition: check the topics")
            self._feeds[key] = Feed(settings)
        if fresh:
            logger.info("assigned: %s", ", ".join(f"{each.topic}[{each.partition}]" for each in fresh))

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Taken away, or lost while we were silent: what is half read is read by somebody else."""
        for each in partitions:
            feed = self._feeds.pop((each.topic, each.partition), None)
            if feed is not None:
                self._health.sink_lag_messages.labels(*self._labels(feed)).set(0)
        consumer.incremental_unassign(list(partitions))
        if partitions:
            logger.info("taken away: %s", ", ".join(f"{each.topic}[{each.partition}]" for each in partitions))

    def _serve(self, timeout_s: float) -> None:
        """Take messages, answer the group; what comes for a partition that is not ours any more is dropped."""
        try:
            messages = self._consumer.consume(num_messages=_FETCH, timeout=timeout_s)
        except KafkaException as error:
            raise broker_error(f"group {self._group}", error.args[0]) from error
        for message in messages:
            feed, problem = self._feeds.get(_key(message)), message.error()
            if problem is not None:
                self._heed(problem, feed)
            elif feed is not None and feed.assembler is not None:
                feed.backlog.append(message)
        if self._was_silent():
            self._place_all_again()
        self._active_at = time.monotonic()
        if self._watch.refusal is not None and not self._feeds:
            raise self._watch.explain(f"group {self._group}", "refused")

    def _was_silent(self) -> bool:
        """Whether we did nothing for so long that somebody else may hold our partitions without our knowing."""
        return time.monotonic() - self._active_at > self._session_s

    def _heed(self, error: KafkaError, feed: Feed | None) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE) and feed is not None:
            self._place_again(feed)
        elif error.fatal() or is_refusal(error):
            raise broker_error(f"group {self._group}", error)
        else:
            logger.warning("group %s: %s", self._group, error.str())

    # Positions.

    def _place_one(self) -> bool:
        """Place the next partition whose turn it is; returns whether there was one."""
        unplaced = [(key, feed) for key, feed in self._feeds.items() if feed.assembler is None]
        for key, feed in sorted(unplaced, key=lambda one: (one[1].pause.is_on, one[1].pause.until)):
            now = time.monotonic()
            if not feed.pause.is_on or (now >= feed.pause.until and now >= self._ask_again_at):
                self._place(key, feed)
                return not feed.pause.is_on
        return False

    def _wait_alone(self, key: Key, feed: Feed, error: BrokerError, took_s: float) -> None:
        """Place this one later; most of the time until then belongs to the others, however many wait like this."""
        if not feed.pause.is_on:
            logger.warning("%s[%d] waits for its brokers, the others go on: %s", *key, error)
        self._active_at = now = time.monotonic()  # brokers that do not answer are no silence of ours
        feed.pause.begin(now)
        self._ask_again_at = now + max(FIRST_PAUSE_S, _OTHERS_SHARE * took_s)

    def _place(self, key: Key, feed: Feed) -> None:
        """Ask the store where it is and go there, serving the group meanwhile."""
        placings, began = self._placings, time.monotonic()

        def keep_on() -> bool:
            self._health.alive()
            self._serve(0.0)
            return self._feeds.get(key) is feed and placings == self._placings

        self._consumer.pause([TopicPartition(*each) for each in self._feeds])  # or messages would pile up here
        try:
            state = self._store.place(feed.settings, keep_on)
            self._active_at = time.monotonic()  # a store that takes its time is no silence of ours
            offset = self._locate(key, state, feed, keep_on)
            self._active_at = time.monotonic()
            if keep_on():
                seek(self._consumer, key, offset)
                feed.assembler = WindowAssembler(feed.settings, self._quarantine_key, state)
                feed.waiting, feed.next_offset, feed.stored_offset = None, offset, offset
                feed.is_from_the_start = False
                feed.pause.end()
                window = 0 if state is None else state.window_id
                logger.info("%s[%d]: window %d from topic offset %d", *key, window, offset)
        except PlacingStoppedError as error:
            logger.info("%s", error)
        except OffsetsGoneError as error:  # retention was quicker than we
            self._wait_alone(key, feed, BrokerError(str(error)), time.monotonic() - began)
        except BrokerError as error:
            self._wait_alone(key, feed, error, time.monotonic() - began)
        except TamperError as error:
            raise self._alarmed(error, key, -1, None) from error
        finally:
            self._resume()

    def _locate(self, key: Key, state: SealState | None, feed: Feed, keep_on: Callable[[], bool]) -> int:
        if state is None or feed.is_from_the_start:
            return first_offset(self._consumer, key)
        with PartitionTail(self._kafka, *key, silence_s=_PLACE_SILENCE_S) as tail:
            return locate(tail, state, guess=committed_offset(self._consumer, key), keep_on=keep_on)

    def _place_again(self, feed: Feed) -> None:
        feed.assembler, feed.waiting = None, None
        feed.backlog.clear()

    def _place_all_again(self) -> None:
        logger.warning("silent for too long: asking the store again where it is")
        self._placings += 1
        for feed in self._feeds.values():
            self._place_again(feed)

    # Records and windows.

    def _take_waiting(self) -> bool:
        """Store what is closed, take what was read, in turn over the partitions; returns whether there was any."""
        worked = False
        for key, feed in list(self._feeds.items()):
            while feed.waiting is not None or feed.backlog:
                worked = True
                if self._was_silent():
                    self._place_all_again()
                    return True
                self._active_at = time.monotonic()  # at each record: a slow machine is not a stopped one
                if feed.waiting is None:
                    self._take(key, feed, feed.backlog[0])
                if feed.waiting is not None and not self._store_window(key, feed):
                    break
        return worked

    def _take(self, key: Key, feed: Feed, message: Message) -> None:
        value, offset = message.value(), message.offset()
        assembler = feed.assembler
        if assembler is None or offset is None:
            raise BrokerError(f"{key[0]}[{key[1]}]: a message without an offset")
        data = strip_header(value or b"")
        try:
            taken = assembler.take(data)
            if taken.outcome == "older":
                stored = self._store.stored_record(feed.settings, taken.header)
                check_stored(feed.settings, self._quarantine_key, taken, stored)
        except SealedGapError as error:
            self._go_back(feed, error)
            return
        except (TamperError, FormatError) as error:
            raise self._alarmed(error, key, offset, data) from error
        feed.backlog.popleft()  # only now: the store may have been asked, and not have answered
        feed.next_offset = offset + 1
        if taken.outcome == "sealed":
            feed.waiting = taken.window
        else:
            self._health.sink_duplicates.labels(self._store.name).inc()

    def _go_back(self, feed: Feed, error: SealedGapError) -> None:
        """A record is missing here: it may stand before where we began to read. The second time it is gone."""
        if feed.gap_at == error.expected:
            self._health.ready(False, "sealed records are missing in the topic")
            raise error
        logger.warning("%s: reading from the topic's beginning", error)
        feed.gap_at, feed.is_from_the_start = error.expected, True
        self._place_again(feed)

    def _store_window(self, key: Key, feed: Feed) -> bool:
        """Store the waiting window and commit. Returns False if the partition has to be placed again first."""
        window = feed.waiting
        if window is None or self._was_silent():
            self._place_all_again()
            return False
        try:
            is_new = self._store.store(window)
        except PositionMovedError as error:
            logger.warning("%s", error)
            self._place_again(feed)
            return False
        except TamperError as error:
            raise self._alarmed(error, key, feed.next_offset - 1, None) from error
        if is_new:
            self._health.sink_windows.labels(*self._labels(feed)).inc()
            self._health.sink_events.labels(*self._labels(feed)).inc(window.close.events)
        feed.waiting, feed.stored_offset = None, feed.next_offset
        self._consumer.commit(offsets=[TopicPartition(*key, feed.next_offset)], asynchronous=True)
        self._health.alive()
        if self._was_silent():
            self._place_all_again()
            return False
        self._active_at = time.monotonic()
        return True

    def _alarmed(self, error: AuditTrailError, key: Key, offset: int, data: bytes | None) -> TamperError:
        """Make the alarm durable, then give the error to raise."""
        found = error if isinstance(error, TamperError) else TamperError(f"{key[0]}[{key[1]}] offset {offset}: {error}")
        path = write_alarm(self._alarms, Alarm.of(found, self._store.name, *key, offset, data, time.time_ns() // 1000))
        self._health.forks.labels(f"sink.{self._store.name}").inc()
        self._health.ready(False, f"alarm {path.name}")
        logger.error("alarm written to %s: %s", path, found)
        return found

    # Pauses.

    def _begin_pause(self, error: Exception) -> None:
        """Store or brokers do not answer: nothing is read until they do, a little later each time."""
        if not self._pause.is_on:
            logger.warning("paused: %s", error)
        self._consumer.pause([TopicPartition(*key) for key in self._feeds])
        self._health.sink_paused.labels(self._store.name).set(0 if isinstance(error, BrokerError) else 1)
        self._health.ready(False, f"paused: {type(error).__name__}")
        self._pause.begin(time.monotonic())

    def _go_on(self) -> None:
        logger.info("goes on")
        self._pause.end()
        self._health.sink_paused.labels(self._store.name).set(0)
        self._resume()

    def _resume(self) -> None:
        if not self._pause.is_on:
            placed = [TopicPartition(*key) for key, feed in self._feeds.items() if feed.assembler is not None]
            self._consumer.resume(placed)

    def _report(self) -> None:
        alone = next((key for key, feed in self._feeds.items() if feed.pause.is_on), None)
        why = "no partition assigned" if alone is None else f"{alone[0]}[{alone[1]}]: its brokers do not answer"
        self._health.ready(bool(self._feeds) and alone is None and not self._pause.is_on, why)
        for key, feed in self._feeds.items():
            try:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(*key), cached=True)
            except KafkaException:
                continue
            self._health.sink_lag_messages.labels(*self._labels(feed)).set(max(0, high - feed.stored_offset))

    def _labels(self, feed: Feed) -> tuple[str, str, str]:
        return self._store.name, feed.settings.stream.stream, str(feed.settings.partition)


def _key(message: Message) -> Key:
    return message.topic() or "", message.partition() or 0
