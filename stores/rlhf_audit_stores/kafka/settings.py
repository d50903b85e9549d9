"""How to reach the brokers: one frozen value from which every client's configuration is made.

Timeouts are those of the measured network cut (``docs/design/0004-kafka.md``):
a silent peer sends no reset, and with the defaults production paused for
minutes. Any setting of librdkafka or aiokafka may be passed through (mTLS,
OAuth, compression), except those on which "nothing lost, nothing twice" rests.

No secret stands in a setting: it is the path of a file that its owner alone may
read, read when a client is made. No client is made here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.keys import read_private_text

ClientRole = Literal["producer", "consumer", "admin"]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Value = str | int | float | bool

SECURITY_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", "OAUTHBEARER", "GSSAPI")

# A silent broker must cost seconds, not librdkafka's minute. Socket above request: the request's own error comes first.
REQUEST_TIMEOUT_MS: Final = 5_000
# A client that hears of new leaders only by an error waits for the silent one's time-out first; an admin client that
# waits for a dead controller hears of no error at all. The default is five minutes.
METADATA_AGE_MS: Final = 2_000
_SAFE: Final[Mapping[str, Value]] = MappingProxyType(
    {
        "socket.timeout.ms": 6_000,
        "socket.connection.setup.timeout.ms": 3_000,
        "socket.keepalive.enable": True,
        "topic.metadata.refresh.interval.ms": METADATA_AGE_MS,
        "reconnect.backoff.max.ms": 1_000,  # the default of 10 s would outlast a broker's restart
    }
)
# Several messages in one batch must stay below a source topic's limit (983,052): the default of 1,000,000 does not.
MAX_BATCH_BYTES: Final = 768 * 1024
# Room for a whole sealed record and what Kafka puts around it; the topic's own limit is the one that binds.
MAX_REQUEST_BYTES: Final = 8 << 20

# What the promises rest on. The alternative spellings are librdkafka's own.
_FIXED: Final = frozenset(
    {
        "acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "max.in.flight",
        "max.in.flight.requests.per.connection", "retries", "message.send.max.retries", "enable.auto.commit",
        "auto.commit.enable", "enable.auto.offset.store", "auto.offset.reset", "isolation.level", "group.id",
        "bootstrap.servers", "metadata.broker.list", "security.protocol", "transactional.id", "partitioner",
        "bootstrap_servers", "security_protocol", "enable_idempotence", "transactional_id", "group_id",
        "enable_auto_commit", "auto_offset_reset", "isolation_level",
    }
)  # fmt: skip
_SECRET: Final = ("password", "secret", ".pem", "_pem", "token", "jaas")


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A passed-through value that stands in a file of its own (``{ file = "..." }`` in config.toml)."""

    path: Path


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the brokers are and who we are to them. Raises ConfigError if the parts do not fit together."""

    brokers: str
    topic_prefix: str = ""
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    librdkafka_extra: Mapping[str, Value | SecretFile] = field(default_factory=dict, repr=False)
    aiokafka_extra: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not all(self.broker_list):
            raise ConfigError(f"brokers: expected host:port,host:port, found {self.brokers!r}")
        if self.security_protocol not in SECURITY_PROTOCOLS:
            raise ConfigError(f"kafka_security_protocol: expected one of {', '.join(SECURITY_PROTOCOLS)}")
        uses_sasl = self.security_protocol.startswith("SASL")
        if uses_sasl != (self.sasl_mechanism is not None):
            need = "needs" if uses_sasl else "does not use"
            raise ConfigError(f"kafka_security_protocol {self.security_protocol} {need} kafka_sasl_mechanism")
        if self.sasl_mechanism is not None and self.sasl_mechanism not in SASL_MECHANISMS:
            raise ConfigError(f"kafka_sasl_mechanism: expected one of {', '.join(SASL_MECHANISMS)}")
        if (self.username is None) != (self.password_file is None):
            raise ConfigError("kafka_username and kafka_password_file are only of use together")
        if self.username is None and (self.sasl_mechanism or "").startswith(("SCRAM", "PLAIN")):
            raise ConfigError(
                f"kafka_sasl_mechanism {self.sasl_mechanism} needs kafka_username and kafka_password_file"
            )
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigError("kafka_certificate_file and kafka_key_file are only of use together")
        for table, extra in (("librdkafka", self.librdkafka_extra), ("aiokafka", self.aiokafka_extra)):
            for name, value in extra.items():
                _check_passed(f"[kafka.{table}] {name}", name, value)

    @property
    def broker_list(self) -> tuple[str, ...]:
        """``host:port`` of each broker to ask first."""
        return tuple(part.strip() for part in self.brokers.split(","))

    def librdkafka(self, role: ClientRole) -> dict[str, Any]:
        """Configuration of a confluent_kafka client, without what only one role knows (group, callbacks)."""
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.broker_list),
            "client.id": f"rlhf-audit-{role}",
            "security.protocol": self.security_protocol,
            "allow.auto.create.topics": False,
            **_SAFE,
        }
        if role != "consumer":
            del config["allow.auto.create.topics"]  # a consumer's setting; others get a warning for it
        config |= _present(
            {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.username,
                "sasl.password": self._password(),
                "ssl.ca.location": self.ca_file,
                "ssl.certificate.location": self.certificate_file,
                "ssl.key.location": self.key_file,
            }
        )
        return config | {name: _revealed(value) for name, value in self.librdkafka_extra.items()}

    def admin_config(self) -> dict[str, Any]:
        """An AdminClient."""
        return self.librdkafka("admin")

    def producer_config(self) -> dict[str, Any]:
        """An idempotent producer in order, acknowledged by all in-sync replicas."""
        return {
            "request.timeout.ms": REQUEST_TIMEOUT_MS,
            "message.timeout.ms": 60_000,
            "linger.ms": 5,
            "compression.type": "none",  # others must be able to read it without a codec
            "batch.size": MAX_BATCH_BYTES,
            "message.max.bytes": MAX_REQUEST_BYTES,
            **self.librdkafka("producer"),
            "enable.idempotence": True,
            "acks": "all",
        }

    def consumer_config(self, group: str) -> dict[str, Any]:
        """A consumer that commits only when told to and never chooses by itself where to begin.

        ``read_uncommitted``: what stands in the partition is what is sealed, whether or not somebody wrote it in a
        transaction; all readers must see the same.
        """
        return {
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 32_768,  # of memory for one partition; the default is 64 MiB
            "fetch.message.max.bytes": 1 << 20,
            **self.librdkafka("consumer"),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_uncommitted",
        }

    def aiokafka(self) -> dict[str, Any]:
        """Arguments of an aiokafka client. ``sasl_oauth_token_provider`` is passed as ``"module:factory"``."""
        config: dict[str, Any] = {
            "bootstrap_servers": list(self.broker_list),
            "security_protocol": self.security_protocol,
            "request_timeout_ms": REQUEST_TIMEOUT_MS + 1_000,
            "metadata_max_age_ms": METADATA_AGE_MS,
            "connections_max_idle_ms": 540_000,
            "retry_backoff_ms": 100,
        }
        config |= _present(
            {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self._password(),
                "ssl_context": self.ssl_context(),
            }
        )
        return config | {name: _loaded(name, value) for name, value in self.aiokafka_extra.items()}

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS for clients of Python; None where the protocol has none."""
        if not self.security_protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca_file, self.certificate_file, self.key_file) if path)
            raise ConfigError(f"TLS: cannot read {files}: {error.strerror or type(error).__name__}") from error
        return context

    def _password(self) -> str | None:
        return None if self.password_file is None else read_private_text(self.password_file)


def read_pass_through(where: str, table: object) -> dict[str, Value | SecretFile]:
    """The values of one table of config.toml, whose nested tables are dotted names or ``{ file = "..." }``.

    Raises ConfigError for anything else; ``where`` names the place.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table of settings")
    found: dict[str, Value | SecretFile] = {}
    for name, value in cast(Mapping[str, object], table).items():
        if isinstance(value, Mapping) and value.keys() == {"file"} and isinstance(value["file"], str):
            found[name] = SecretFile(Path(value["file"]))
        elif isinstance(value, Mapping):  # sasl.oauthbearer.method = "oidc" is, in TOML, a table in a table
            inner = read_pass_through(f"{where} {name}", value)
            found |= {f"{name}.{rest}": given for rest, given in inner.items()}
        elif isinstance(value, str | int | float):
            found[name] = value
        else:
            raise ConfigError(f"{where} {name}: expected a text, a number, true or false, or {{ file = ... }}")
    return found


def _check_passed(where: str, name: str, value: object) -> None:
    if name in _FIXED:
        raise ConfigError(f"{where}: this setting is ours, since losing nothing rests on it: leave it out")
    is_path = isinstance(value, str) and name.endswith((".location", "_location", ".url", ".class"))
    if isinstance(value, str) and any(word in name for word in _SECRET) and not is_path and not _names_a_factory(name):
        raise ConfigError(f'{where}: a secret does not stand in a setting: write {{ file = "PATH" }}')


def _names_a_factory(name: str) -> bool:
    return name.endswith(("token_provider", "token.endpoint.url"))


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None
    }


def _revealed(value: object) -> object:
    return read_private_text(value.path) if isinstance(value, SecretFile) else value


def _loaded(name: str, value: object) -> object:
    """The object that ``module:factory`` makes, for the settings of aiokafka that are objects."""
    if not (_names_a_factory(name) and isinstance(value, str)):
        return _revealed(value)
    module, _, attribute = value.partition(":")
    try:
        factory = cast(Callable[[], object], getattr(import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"[kafka.aiokafka] {name}: no {value!r}: expected module:factory") from error
    return factory()
