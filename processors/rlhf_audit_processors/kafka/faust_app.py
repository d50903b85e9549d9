"""Faust, held at arm's length: one app with one agent, and the clients that it makes for us.

What of Faust loses events is left alone (``docs/design/0004-kafka.md``):

* values are raw bytes, so that no decoder drops a message;
* the agent takes ``noack().events()``, nothing else, with the crashing supervisor;
* no tables, no exactly-once mode, no transactions, nothing declared, nothing waited for at a rebalance;
* the compiled stream iterator must be there: the one in Python acknowledges messages of an old generation.

Both clients are made here, so that any setting of aiokafka can be passed
through and a silent broker costs seconds (Faust's own limit is 1200).
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.settings import MAX_REQUEST_BYTES, KafkaSettings
from rlhf_audit_stores.kafka.topics import group_name

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in the libraries' own modules
    import aiokafka
    import faust
    from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from faust import streams
    from faust.tables.manager import TableManager
    from faust.transport.drivers import aiokafka as driver
    from mode.utils import logging as mode_logging

ROLE = "seal"
_FETCH_BYTES = 4 << 20  # of one partition in one answer
_FETCH_WAIT_MS = 100  # the first fetch behind a seek waits for the answer to the one before it
_BUFFERED_EVENTS = 64  # messages, each up to a megabyte


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the group and the brokers may be silent, in seconds. Defaults: a killed worker is missed for 6 s."""

    session_s: float = 6.0
    heartbeat_s: float = 1.2
    request_s: float = 6.0  # a group's silent coordinator is left after this; below the session, joining could not wait
    rebalance_s: float = 10.0
    produce_s: float = 6.0
    commit_every_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < 2 * self.heartbeat_s <= self.session_s <= self.request_s:
            raise ConfigError("sealer: expected 2 x heartbeat <= session <= request time")


def need_compiled_streams() -> None:
    """Raises ConfigError where Faust's compiled stream iterator is missing."""
    if getattr(streams, "_CStreamIterator", None) is None:
        raise ConfigError(
            "Faust's compiled part is missing (no wheel for this Python, or NO_CYTHON is set): its Python twin "
            "acknowledges messages that were never sealed; install the wheel of faust-streaming"
        )


def _keep_payloads_out_of_logs() -> None:
    """Below INFO, and at INFO with its DEVLOG, Faust writes whole messages, values included."""
    mode_logging.DEVLOG = False
    for name in ("faust", "mode", "aiokafka", "asyncio", __name__):
        library = logging.getLogger(name)
        library.setLevel(max(logging.INFO, library.getEffectiveLevel()))


def make_app(kafka: KafkaSettings, *, instance: str | None, patience: Patience, data_dir: str) -> faust.App:
    """A Faust app that owns nothing yet. ``instance`` names the worker for good (static membership)."""
    need_compiled_streams()
    _keep_payloads_out_of_logs()
    return _App(
        group_name(kafka.topic_prefix, ROLE),
        sealer_kafka=kafka,
        sealer_patience=patience,
        broker=";".join(f"kafka://{broker}" for broker in kafka.broker_list),
        datadir=data_dir,
        version=1,  # another one would be another group
        agent_supervisor="mode.supervisors.CrashingSupervisor",
        processing_guarantee="at_least_once",
        key_serializer="raw",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        stream_buffer_maxsize=_BUFFERED_EVENTS,
        table_standby_replicas=0,
        TableManager=_NoTables,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_FETCH_BYTES,
        consumer_group_instance_id=instance,
        broker_session_timeout=patience.session_s,
        broker_heartbeat_interval=patience.heartbeat_s,
        broker_request_timeout=patience.request_s,
        broker_rebalance_timeout=patience.rebalance_s,
        broker_commit_interval=patience.commit_every_s,
        broker_commit_livelock_soft_timeout=3600.0,
        stream_processing_timeout=3600.0,
        producer_request_timeout=patience.produce_s,
        web_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )


class _Thread(driver.AIOKafkaConsumerThread):
    """The consumer as Faust wants it, with our way to the brokers."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        app = cast(_App, self.app)
        kafka, patience = app.sealer_kafka, app.sealer_patience
        self._assignor = RoundRobinPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            **{
                "fetch_max_wait_ms": _FETCH_WAIT_MS,
                **_fitting(aiokafka.AIOKafkaConsumer, kafka.aiokafka()),
                "client_id": app.sealer_client_id,
                "group_id": app.conf.id,
                "group_instance_id": app.conf.consumer_group_instance_id,
                "partition_assignment_strategy": [self._assignor],
                "enable_auto_commit": False,
                "auto_offset_reset": "earliest",
                "isolation_level": "read_uncommitted",
                "max_partition_fetch_bytes": _FETCH_BYTES,
                "request_timeout_ms": int(patience.request_s * 1000),
                "session_timeout_ms": int(patience.session_s * 1000),
                "heartbeat_interval_ms": int(patience.heartbeat_s * 1000),
                "rebalance_timeout_ms": int(patience.rebalance_s * 1000),
                "max_poll_interval_ms": 300_000,
            }
        )


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Producer(driver.Producer):
    """Idempotent, acknowledged by all in-sync replicas, in order."""

    def _settings_extra(self) -> Mapping[str, Any]:
        app = cast(_App, self.app)
        return {
            **_fitting(aiokafka.AIOKafkaProducer, app.sealer_kafka.aiokafka()),
            "client_id": app.sealer_client_id,
            "acks": "all",
            "enable_idempotence": True,
            "request_timeout_ms": int(app.sealer_patience.produce_s * 1000),
            "linger_ms": 2,
            "max_batch_size": 1 << 20,
            "max_request_size": MAX_REQUEST_BYTES,
        }


class _Transport(driver.Transport):
    Consumer = _Consumer
    Producer = _Producer


class _NoTables(TableManager):
    """Faust's own waits a second at each start, so that tables may be added: there are none."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class _App(faust.App):
    """A Faust app whose clients reach the brokers as all of ours do."""

    def __init__(self, name: str, *, sealer_kafka: KafkaSettings, sealer_patience: Patience, **options: Any) -> None:
        self.sealer_kafka, self.sealer_patience = sealer_kafka, sealer_patience
        self.sealer_client_id = f"rlhf-audit-{ROLE}"
        super().__init__(name, **options)

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return _Transport(self.conf.broker_producer, self)


def _fitting(client: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that this client has: one table in config.toml serves consumer and producer."""
    known = inspect.signature(client).parameters
    return {name: value for name, value in settings.items() if name in known}
