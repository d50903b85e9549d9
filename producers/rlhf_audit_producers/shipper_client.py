"""The one client of a node: librdkafka, set so that no partition ever gets a record before an earlier one.

``enable.idempotence`` with ``enable.gapless.guarantee``: a record that fails
stops the client instead of letting those behind it pass. That guarantee does
not hold for records that time out, so none does: patience is the shipper's,
which replaces a client that gets nothing acknowledged (``shipper_queue.STALL_S``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from rlhf_audit_producers.shipper_queue import MAX_BYTES_UNDERWAY, Client
from rlhf_audit_producers.shipper_trouble import Blame, blame_of
from rlhf_audit_schemas.errors import ConfigError

if TYPE_CHECKING:
    from rlhf_audit_stores.kafka.settings import KafkaSettings

logger = logging.getLogger(__name__)

_ERRORS_ONLY = 3
_MAX_KBYTES_QUEUED = 2 * MAX_BYTES_UNDERWAY >> 10


def client_config(settings: KafkaSettings) -> dict[str, Any]:
    """Configuration of the producer; what nothing lost and nothing out of order rests on cannot be overridden."""
    return {
        **settings.producer_config(),
        "client.id": "rlhf-audit-ship",
        "queue.buffering.max.kbytes": _MAX_KBYTES_QUEUED,
        "enable.idempotence": True,
        "acks": "all",
        "max.in.flight.requests.per.connection": 5,
        "enable.gapless.guarantee": True,
        "message.timeout.ms": 0,
    }


def client_maker(settings: KafkaSettings, on_trouble: Callable[[Blame, str], None]) -> Callable[[], Client]:
    """Makes clients; what one is told apart from deliveries (a wrong password, no broker) goes to ``on_trouble``."""

    def on_error(error: Any) -> None:
        blame = blame_of(error.code())
        if not blame.is_collateral:
            on_trouble(blame, "")

    def make() -> Client:
        from confluent_kafka import KafkaException, Producer

        try:
            return cast(
                Client, Producer({**client_config(settings), "error_cb": on_error, "logger": _librdkafka_log()})
            )
        except KafkaException as error:
            raise ConfigError(f"[kafka.librdkafka]: {error.args[0].str()}") from None

    return make


def _librdkafka_log() -> logging.Logger:
    """A line for every attempt to connect helps whoever looks for one; others are told once, in our words."""
    log = logging.getLogger(f"{__name__}.librdkafka")
    log.setLevel(logging.DEBUG if logger.isEnabledFor(logging.DEBUG) else logging.CRITICAL + 1)
    return log
