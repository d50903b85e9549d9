"""What a failed delivery means, and what a person can do about it.

Codes are those of librdkafka (negative ones) and of the Kafka protocol, as
numbers: they are fixed, and ``KafkaError.name()`` raised SystemError after a
fatal error. Only our own words reach a person, never those of a broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Reason = Literal["password", "rights", "no_topic", "too_large", "unreachable", "tls", "timeout", "stalled", "other"]


@dataclass(frozen=True, slots=True)
class Blame:
    """``reason`` is the label of ``ship_errors_total``. ``is_collateral``: it failed because another one did."""

    reason: Reason
    text: str
    is_collateral: bool = False

    @property
    def is_too_large(self) -> bool:
        """Whether less of it would have been taken."""
        return self.reason == "too_large"


_PASSWORD = Blame(
    "password",
    "wrong user or password: check kafka_username and the file of kafka_password_file; training goes on, "
    "its events wait in the spool",
)
_RIGHTS = Blame(
    "rights",
    "this user may not write there: a producer needs WRITE and DESCRIBE (`rlhf-audit topics apply` gives them); "
    "training goes on, its events wait in the spool",
)
_NO_TOPIC = Blame(
    "no_topic",
    "the topic or the partition is not there, or this user may not see it: run `rlhf-audit topics check`, and look at "
    "topic_prefix",
)
_TOO_LARGE = Blame("too_large", "larger than the brokers take: `rlhf-audit topics check` says what the topic allows")
_UNREACHABLE = Blame("unreachable", "no broker answers: check `brokers` and the network; events wait in the spool")
_TLS = Blame("tls", "TLS failed: check kafka_ca_file, the certificates and kafka_security_protocol")
_TIMEOUT = Blame("timeout", "the brokers did not acknowledge in time, or lack in-sync replicas; sent again")
_STALLED = Blame(
    "stalled",
    "no acknowledgement for two minutes (too few in-sync replicas, or a broker that hangs): beginning anew with "
    "another client",
)
_OTHER = Blame("other", "the brokers refused a delivery; sent again")
_COLLATERAL = Blame("other", "another delivery failed", is_collateral=True)

_BY_CODE: Final = MappingProxyType(
    {
        -169: _PASSWORD,  # _AUTHENTICATION
        58: _PASSWORD,  # SASL_AUTHENTICATION_FAILED
        33: _PASSWORD,  # UNSUPPORTED_SASL_MECHANISM
        29: _RIGHTS,  # TOPIC_AUTHORIZATION_FAILED
        31: _RIGHTS,  # CLUSTER_AUTHORIZATION_FAILED: what an idempotent producer without any right is told
        53: _RIGHTS,  # TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        3: _NO_TOPIC,  # UNKNOWN_TOPIC_OR_PART
        -188: _NO_TOPIC,  # _UNKNOWN_TOPIC
        -190: _NO_TOPIC,  # _UNKNOWN_PARTITION
        10: _TOO_LARGE,  # MSG_SIZE_TOO_LARGE
        18: _TOO_LARGE,  # RECORD_LIST_TOO_LARGE
        -195: _UNREACHABLE,  # _TRANSPORT
        -187: _UNREACHABLE,  # _ALL_BROKERS_DOWN
        -193: _UNREACHABLE,  # _RESOLVE
        -181: _TLS,  # _SSL
        -192: _TIMEOUT,  # _MSG_TIMED_OUT
        -185: _TIMEOUT,  # _TIMED_OUT
        -166: _TIMEOUT,  # _TIMED_OUT_QUEUE
        7: _TIMEOUT,  # REQUEST_TIMED_OUT
        19: _TIMEOUT,  # NOT_ENOUGH_REPLICAS
        20: _TIMEOUT,  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
        -150: _COLLATERAL,  # _FATAL: the first error of the client came before
        -148: _COLLATERAL,  # _GAPLESS_GUARANTEE: a record in front of it failed
        -152: _COLLATERAL,  # _PURGE_QUEUE
        -151: _COLLATERAL,  # _PURGE_INFLIGHT
    }
)


def blame_of(code: int) -> Blame:
    """What a librdkafka code means."""
    return _BY_CODE.get(code, _OTHER)


def stalled() -> Blame:
    """Nothing was acknowledged for very long."""
    return _STALLED
