"""Errors of Kafka's clients as errors of ours: can trying again help, or must a person change something?

A wrong password is told to ``error_cb`` alone, and what the caller then sees is
a time-out (measured); so each client gets an ``ErrorWatch`` and asks it before
it reports a time-out. A producer's fatal error is raised by ``poll`` and
``flush``, and in other callbacks as SystemError (measured).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, TransportError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError


class BrokerError(TransportError):
    """The brokers did not answer, or answered that they cannot now; trying again may help."""


class RefusedByBrokerError(ConfigError):
    """The brokers know who asks and refuse, or do not believe it: a password, a right or a setting has to change."""


def broker_error(where: str, error: KafkaError) -> AuditTrailError:
    """Our error for one of librdkafka; ``where`` says what was tried, and with which topic."""
    reason = _refusal(error)
    if reason is not None:
        return RefusedByBrokerError(f"{where}: {reason}: {error.str()}")
    return BrokerError(f"{where}: {error.str()}")


def is_refusal(error: KafkaError) -> bool:
    """Whether trying again as the same user with the same settings can never help."""
    return _refusal(error) is not None


class ErrorWatch:
    """``error_cb`` of a client: remembers the newest refusal and the newest other error, for whoever has to explain."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refusal: KafkaError | None = None
        self._newest: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        with self._lock:
            self._newest = error
            if _refusal(error) is not None:
                self._refusal = error

    @property
    def refusal(self) -> KafkaError | None:
        """The newest error that trying again cannot help; None once the client was ``forgiven``."""
        return self._refusal

    def forgive(self) -> None:
        """The client got an answer: what it was refused before is no explanation any more."""
        with self._lock:
            self._refusal = self._newest = None

    def explain(self, where: str, otherwise: str) -> AuditTrailError:
        """The error to raise when nothing came back in time."""
        with self._lock:
            error = self._refusal or self._newest
        return BrokerError(f"{where}: {otherwise}") if error is None else broker_error(f"{where}: {otherwise}", error)


def _refusal(error: KafkaError) -> str | None:
    from confluent_kafka import KafkaError as Codes

    return {
        Codes._AUTHENTICATION: "wrong user or password, or the brokers want another way to log in",
        Codes.SASL_AUTHENTICATION_FAILED: "wrong user or password",
        Codes.TOPIC_AUTHORIZATION_FAILED: "this user has no right to do that with this topic",
        Codes.GROUP_AUTHORIZATION_FAILED: "this user has no right to use this consumer group",
        Codes.CLUSTER_AUTHORIZATION_FAILED: "this user has no right to do that on this cluster",
        Codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "this user has no right to use this transactional id",
        Codes._SSL: "TLS failed: check the CA file and the certificates",
    }.get(error.code())
