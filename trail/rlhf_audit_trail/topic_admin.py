"""Topics as code: ``topics apply`` makes a ledger's topics what they have to be, ``topics check`` says what they are.

apply
  1. The topics of every stream, partitions from the genesis; another count is refused, never changed.
  2. Settings (``topic_rules``), and the rights of whoever is named (``topic_acls``).
  3. Record 0 of every source partition that is empty: a tick. A consumer group does not commit offset 0, and a
     partition that begins with a valid tick has been reached by its ticker.
  Repeating it changes nothing.
check
  Names every dangerous setting, a first record that is not ours, a topic that is not the one that was sealed.

Neither deletes anything, nor touches a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_audit_ledger.close import TickState
from rlhf_audit_ledger.control import ControlType, Tick, signed_control
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.lanes import LaneTable
from rlhf_audit_ledger.reading import TickReading, read_value
from rlhf_audit_ledger.settings import PartitionSettings, partition_settings
from rlhf_audit_schemas.errors import AuditTrailError, ConfigError
from rlhf_audit_stores.kafka.errors import BrokerError, ErrorWatch, broker_error
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import (
    TopicFacts,
    admin_client,
    failed_question,
    sealed_topic,
    source_topic,
    topic_facts,
)
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_stores.stored_state import stored_state
from rlhf_audit_trail.founding import Ledger
from rlhf_audit_trail.topic_acls import Right, apply_rights, excessive_rights
from rlhf_audit_trail.topic_rules import (
    DEFAULT_RETENTION_HOURS,
    Kind,
    TopicState,
    dangers,
    default_copies,
    wanted_config,
)

if TYPE_CHECKING:
    from confluent_kafka import Message
    from confluent_kafka.cimpl import KafkaError

_TIMEOUT_S = 30
_SEEN_TIMEOUT_S = 30.0
_POLL_S = 0.2
_KEPT = ("retention.ms",)  # of a topic that is there already: only changed when asked to


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; ``where`` is a topic or a partition of one."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What ``apply`` did, by topic name; ``begun`` are partitions that got their first record."""

    created: tuple[str, ...]
    changed: Mapping[str, Mapping[str, str]]
    begun: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """``problems`` none: all is well. ``notes`` are what a person should know all the same."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


class TopicAdmin:
    """The topics of one ledger on one cluster."""

    def __init__(self, kafka: KafkaSettings, ledger: Ledger) -> None:
        self._kafka, self._ledger = kafka, ledger
        self._client, self._watch = admin_client(kafka)

    @property
    def topics(self) -> dict[str, tuple[Kind, str]]:
        """Name -> what it is, and of which stream."""
        prefix = self._kafka.topic_prefix
        found: dict[str, tuple[Kind, str]] = {}
        for stream in self._ledger.genesis.partition_counts:
            found[source_topic(prefix, stream)] = ("source", stream)
            found[sealed_topic(prefix, stream)] = ("sealed", stream)
        return found

    def facts(self) -> dict[str, TopicFacts]:
        """Facts of those topics that are there."""
        return topic_facts(self._client, self._watch, self.topics)

    def source_facts(self) -> dict[str, TopicFacts]:
        """Facts of the source topics, by stream."""
        return {self.topics[name][1]: facts for name, facts in self.facts().items() if self.topics[name][0] == "source"}

    # ------------------------------------------------------------ apply

    def apply(
        self,
        *,
        first_ticks: Callable[[PartitionSettings, bytes], bytes],
        copies: int | None = None,
        retention_hours: int | None = None,
        rights: Sequence[Right] = (),
    ) -> Applied:
        """Make them so. ``first_ticks`` gives the message of a partition's first tick for its source_id.

        Raises ConfigError if a topic has other partitions than the genesis, before anything is changed, and the
        errors of ``broker_error``.
        """
        there = self.facts()
        for name, facts in there.items():
            wanted = self._partitions(name)
            if facts.partitions != wanted:
                raise ConfigError(
                    f"{name}: {facts.partitions} partitions, the genesis names {wanted}: take another topic_prefix; "
                    "the number of partitions of a ledger never changes"
                )
        brokers = self._brokers()
        if copies is not None and not 1 <= copies <= brokers:
            raise ConfigError(f"--replication {copies}: there are {brokers} brokers")
        created = tuple(name for name in self.topics if name not in there)
        with self._asking("create topics"):
            self._create(created, copies or default_copies(brokers), retention_hours or DEFAULT_RETENTION_HOURS)
        self._wait_for(created)
        changed = self._configure(there, retention_hours)
        with self._asking("set rights"):
            if rights:
                apply_rights(self._client, rights)
        begun = self._begin(first_ticks)
        return Applied(created, changed, begun)

    def _create(self, names: Sequence[str], copies: int, retention_hours: int) -> None:
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.cimpl import NewTopic

        if not names:
            return
        new = [
            NewTopic(
                name,
                num_partitions=self._partitions(name),
                replication_factor=copies,
                config=wanted_config(self.topics[name][0], copies, retention_hours),
            )
            for name in names
        ]
        for future in self._client.create_topics(new, request_timeout=_TIMEOUT_S).values():
            try:
                future.result(timeout=_TIMEOUT_S + 1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody applies beside us
                    raise

    def _wait_for(self, names: Sequence[str]) -> None:
        """New topics are known to every broker a moment later."""
        deadline = time.monotonic() + _SEEN_TIMEOUT_S
        while names:
            states = self._states(names)
            if all(name in states and len(states[name].copies) == self._partitions(name) for name in names):
                return
            if time.monotonic() > deadline:
                raise BrokerError(f"{', '.join(names)}: created, and not seen after {_SEEN_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)

    def _all_source_facts(self) -> dict[str, TopicFacts]:
        """``source_facts`` of every stream: a broker that does not know a new topic yet must not make one forgotten."""
        deadline = time.monotonic() + _SEEN_TIMEOUT_S
        while len(facts := self.source_facts()) < len(self._ledger.genesis.partition_counts):
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"source topics: {len(facts)} of {len(self._ledger.genesis.partition_counts)} are seen"
                )
            time.sleep(_POLL_S)
        return facts

    def _configure(self, there: Mapping[str, TopicFacts], retention_hours: int | None) -> dict[str, dict[str, str]]:
        """Change what differs in topics that were there before; returns it by topic."""
        from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

        changed: dict[str, dict[str, str]] = {}
        for name, state in self._states(there).items():
            wanted = wanted_config(state.kind, min(state.copies), retention_hours or DEFAULT_RETENTION_HOURS)
            kept = _KEPT if retention_hours is None else ()
            differs = {
                key: value for key, value in wanted.items() if key not in kept and state.config.get(key) != value
            }
            if differs:
                changed[name] = differs
        if changed:
            asked = [
                ConfigResource(
                    ResourceType.TOPIC,
                    name,
                    incremental_configs=[
                        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                        for key, value in differs.items()
                    ],
                )
                for name, differs in changed.items()
            ]
            with self._asking("change settings"):
                for future in self._client.incremental_alter_configs(asked, request_timeout=_TIMEOUT_S).values():
                    future.result(timeout=_TIMEOUT_S + 1)
        return changed

    def _begin(self, first_ticks: Callable[[PartitionSettings, bytes], bytes]) -> tuple[str, ...]:
        """Write the first record of every source partition that holds nothing and never did."""
        from confluent_kafka import Producer

        failed: list[KafkaError] = []

        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)

        empty: list[tuple[str, PartitionSettings, bytes]] = []
        facts = self._all_source_facts()
        for settings, topic, tail in self._tails(facts):
            if tail.watermarks()[1] == 0:
                empty.append((topic, settings, first_ticks(settings, facts[settings.stream.stream].source_id)))
        if not empty:
            return ()
        watch = ErrorWatch()
        # 3: errors alone; brokers that have just begun are still loading what an idempotent producer asks for
        producer = Producer({"log_level": 3, **self._kafka.producer_config(), "error_cb": watch})
        for topic, settings, value in empty:
            producer.produce(topic, value=value, partition=settings.partition, on_delivery=note)
        if producer.flush(_TIMEOUT_S) > 0:
            raise watch.explain("first records", f"not acknowledged in {_TIMEOUT_S} s")
        if failed:
            raise broker_error("first records", failed[0])
        return tuple(settings.name for _, settings, _ in empty)

    # ------------------------------------------------------------ check

    def check(self, objects: ObjectStore) -> Checked:
        """Look at everything; ``objects`` say which topic was sealed so far. Raises only if nobody answers."""
        brokers, facts = self._brokers(), self.facts()
        states = self._states(facts)
        problems: list[Problem] = []
        for name in self.topics:
            if name not in states:
                problems.append(Problem(name, "is not there: run `rlhf-audit topics apply`"))
                continue
            found = dangers(states[name], partitions=self._partitions(name), brokers=brokers)
            problems += [Problem(name, what) for what in found]
        notes = self._check_rights(states, problems)
        right = {s: f for s, f in self.source_facts().items() if f.partitions == self._partitions(f.topic)}
        for settings, topic, tail in self._tails(right):
            where, source_id = f"{topic}[{settings.partition}]", right[settings.stream.stream].source_id
            what = _first_record(tail, settings, source_id)
            problems += [Problem(where, what)] if what else []
            what = _sealed_from(objects, settings, source_id)
            problems += [Problem(where, what)] if what else []
        return Checked(tuple(problems), tuple(notes))

    def _check_rights(self, states: Mapping[str, TopicState], problems: list[Problem]) -> list[str]:
        from confluent_kafka import KafkaException

        try:
            excessive = excessive_rights(self._client, states)
        except KafkaException as error:
            return [f"rights were not looked at: {error.args[0].str()}"]
        if excessive is None:
            return ["these brokers check no rights: whoever reaches them may delete everything"]
        problems += [
            Problem(topic, f"{who}: nobody should; remove that rule")
            for topic, found in excessive.items()
            for who in found
        ]
        return []

    # ------------------------------------------------------------ looking

    def _partitions(self, name: str) -> int:
        return self._ledger.genesis.partition_counts[self.topics[name][1]]

    def _brokers(self) -> int:
        with self._asking("describe the cluster"):
            cluster = self._client.describe_cluster(request_timeout=_TIMEOUT_S).result(timeout=_TIMEOUT_S + 1)
        return len(cluster.nodes)

    def _states(self, names: Sequence[str] | Mapping[str, object]) -> dict[str, TopicState]:
        from confluent_kafka import KafkaError, KafkaException, TopicCollection
        from confluent_kafka.admin import ConfigResource, ResourceType

        wanted = list(names)
        if not wanted:
            return {}
        found: dict[str, TopicState] = {}
        with self._asking("describe topics"):
            described = self._client.describe_topics(TopicCollection(wanted), request_timeout=_TIMEOUT_S)
            asked = [ConfigResource(ResourceType.TOPIC, name) for name in wanted]
            configs = {
                resource.name: future
                for resource, future in self._client.describe_configs(asked, request_timeout=_TIMEOUT_S).items()
            }
            for name in wanted:
                try:
                    partitions = described[name].result(timeout=_TIMEOUT_S + 1).partitions
                    entries = configs[name].result(timeout=_TIMEOUT_S + 1)
                except KafkaException as error:
                    if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                        continue
                    raise
                copies = tuple(len(partition.replicas) for partition in partitions)
                config = {key: entry.value for key, entry in entries.items() if entry.value is not None}
                found[name] = TopicState(name, self.topics[name][0], copies, config)
        return found

    def _tails(self, facts: Mapping[str, TopicFacts]) -> Iterator[tuple[PartitionSettings, str, PartitionTail]]:
        """A reader of every partition of these source topics, one after another."""
        for stream, topic in facts.items():
            for number in range(topic.partitions):
                settings = partition_settings(self._ledger.genesis_bytes, stream, number)
                with PartitionTail(self._kafka, topic.topic, number, silence_s=_TIMEOUT_S) as tail:
                    yield settings, topic.topic, tail

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from confluent_kafka import KafkaException

        try:
            yield
        except (KafkaException, TimeoutError) as error:
            raise failed_question(self._client, self._watch, what, error) from error


def first_tick(
    settings: PartitionSettings, source_id: bytes, ticker: Signer, *, now_us: int, global_size: int, global_root: bytes
) -> bytes:
    """Source value of the first tick of a partition: counter 1, closes nothing."""
    tick = Tick(
        ledger_id=settings.ledger_id,
        source_id=source_id,
        stream=settings.stream.stream,
        partition=settings.partition,
        counter=1,
        number=now_us // settings.stream.window_us,
        ts_us=now_us,
        flush=False,
        global_size=global_size,
        global_root=global_root,
    )
    return signed_control(ControlType.TICK, tick.encode(), ticker)


def _first_record(tail: PartitionTail, settings: PartitionSettings, source_id: bytes) -> str | None:
    """What is wrong with record 0; nothing if it is a tick of this partition or was deleted since."""
    low, high = tail.watermarks()
    if high == 0:
        return "has no first record: run `rlhf-audit topics apply`"
    if low > 0:
        return None
    message = next(iter(tail.read(0, 1)), None)
    value = None if message is None or message.value is None else strip_header(message.value)
    reading = None if value is None else read_value(settings, frozenset(), LaneTable(), source_id, value)
    if isinstance(reading, TickReading) and reading.tick.counter == TickState().counter + 1:
        return None
    return "does not begin with this ledger's first tick: somebody wrote there before `rlhf-audit topics apply`"


def _sealed_from(objects: ObjectStore, settings: PartitionSettings, source_id: bytes) -> str | None:
    try:
        stored = stored_state(settings, objects)
    except AuditTrailError as error:
        return f"what was sealed could not be read: {error}"
    if stored is None or stored.state.source_id == source_id:
        return None
    return (
        f"is not what was sealed: the ledger goes on from source log {stored.state.source_id.hex()}, this topic is "
        f"{source_id.hex()}: deleted and made again, another cluster, or a local ledger without "
        "`rlhf-audit topics apply --continue`"
    )
