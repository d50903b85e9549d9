"""Settings: one frozen value, validated once at the edge, that remembers where each part came from.

Order, first found wins::

    flag  >  environment RLHF_AUDIT_<KEY>  >  <trail's directory>/config.toml  >  default

Operations only. What shapes the bytes of a ledger (``log_name``,
``window_seconds``, ``partitions``) is copied into its genesis when the ledger begins; from then
on the genesis rules and the setting is read no more.

No module-level settings object, and no secret ever stands here: keys and
passwords are files. The file may have tables ``[kafka.librdkafka]``,
``[kafka.aiokafka]`` and ``[kafka.schema_registry]``, whose settings are passed
to those clients as they are.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, cast

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.settings import (
    SASL_MECHANISMS,
    SECURITY_PROTOCOLS,
    KafkaSettings,
    SecretFile,
    SecurityProtocol,
    Value,
    read_pass_through,
)
from rlhf_audit_trail import setting_values

if TYPE_CHECKING:
    import argparse

    from rlhf_audit_stores.kafka.registry import Registry

PREFIX: Final = "RLHF_AUDIT_"
CONFIG_FILE: Final = "config.toml"
DEFAULT_DIRECTORY: Final = Path("rlhf-audit")
MAX_BATCH_EVENTS: Final = 4096  # format section 2: a batch holds at most this many events
MAX_WINDOW_SECONDS: Final = 86_400  # a longer window would leave a day's events without a signature

# Read elsewhere, and no settings: the traceback switch, where the tests find real data, where `verify` remembers, which
# run a process is of.
_NOT_SETTINGS: Final = frozenset(
    {"RLHF_AUDIT_DEBUG", "RLHF_AUDIT_SHARED_DATA", "RLHF_AUDIT_STATE", "RLHF_AUDIT_RUN_ID"}
)

_KAFKA_TABLE: Final = "kafka"
_PASSED_TO: Final = ("librdkafka", "aiokafka", "schema_registry")

ProgressMode = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the commands may be told from outside."""

    log_name: str
    window_seconds: int
    partitions: Mapping[str, int]
    batch_events: int
    vault_dir: Path
    progress: ProgressMode
    clickhouse: ProgressMode
    query_port: int
    objects_url: str
    vault_url: str
    clickhouse_host: str
    clickhouse_port: int
    clickhouse_user: str
    clickhouse_password_file: str
    clickhouse_secure: str
    metrics_host: str
    metrics_port: int
    brokers: str
    topic_prefix: str
    kafka_security_protocol: str
    kafka_sasl_mechanism: str
    kafka_username: str
    kafka_password_file: str
    kafka_ca_file: str
    kafka_certificate_file: str
    kafka_key_file: str
    kafka: KafkaSettings | None
    """The keys before as one value; None without brokers."""
    schema_registry_url: str
    schema_registry: Mapping[str, Value | SecretFile]
    """What config.toml passes to the registry's client."""
    origins: Mapping[str, str]
    """Key -> where its value came from, in words a person can act on."""

    def need_kafka(self) -> KafkaSettings:
        """The brokers. Raises ConfigError, saying where to name them, if nobody did."""
        if self.kafka is None:
            raise ConfigError(
                f'no brokers named: pass --brokers host:port, set {PREFIX}BROKERS, or write brokers = "host:port" into '
                f"{CONFIG_FILE} (`rlhf-audit kafka up` starts some here)"
            )
        return self.kafka

    def open_registry(self) -> Registry | None:
        """A client of the schema registry, to be closed; None if there is none."""
        from rlhf_audit_stores.kafka.registry import Registry

        return Registry(self.schema_registry_url, self.schema_registry) if self.schema_registry_url else None


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One known key: its default, how a raw value becomes a valid one, and what it means."""

    name: str
    default: str | int
    parse: Callable[[object], str | int]
    help: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


KEYS: Final[Mapping[str, SettingKey]] = MappingProxyType(
    {
        key.name: key
        for key in (
            SettingKey(
                "log_name", "rlhf-audit.local", setting_values.log_name, "name of the log, a URL without scheme"
            ),
            SettingKey(
                "partitions",
                "",
                setting_values.partitions,
                "partitions of a new ledger's streams, such as annotations=8,gradients=8",
            ),
            SettingKey("window_seconds", 10, setting_values.whole_number(1, MAX_WINDOW_SECONDS), "length of a window"),
            SettingKey(
                "batch_events", 1024, setting_values.whole_number(1, MAX_BATCH_EVENTS), "events in one batch at most"
            ),
            SettingKey(
                "vault_dir",
                "vault",
                setting_values.folder_path,
                "folder of the encrypted payloads, relative to the trail",
            ),
            SettingKey("progress", "auto", setting_values.switch, "progress bar on stderr: auto, on or off"),
            SettingKey(
                "clickhouse", "auto", setting_values.switch, "feed ClickHouse meanwhile: auto (if installed), on or off"
            ),
            SettingKey(
                "query_port",
                0,
                setting_values.whole_number(0, 65535),
                "loopback port of ClickHouse HTTP; 0 takes a free one",
            ),
            SettingKey(
                "objects_url",
                "",
                setting_values.store_url,
                "where objects/ lies: s3://bucket/prefix; empty: the folder",
            ),
            SettingKey(
                "vault_url",
                "",
                setting_values.store_url,
                "where vault/ lies, a bucket of its own; empty: the folder",
            ),
            SettingKey(
                "clickhouse_host",
                "",
                setting_values.text,
                "ClickHouse server that a sink fills and sql asks; empty: the engine in here",
            ),
            SettingKey(
                "clickhouse_port", 0, setting_values.whole_number(0, 65535), "its HTTP port; 0: 8123, or 8443 with TLS"
            ),
            SettingKey("clickhouse_user", "default", setting_values.text, "who we are to the server"),
            SettingKey("clickhouse_password_file", "", setting_values.text, "file (0600) that holds the password"),
            SettingKey("clickhouse_secure", "off", setting_values.one_of("on", "off"), "TLS to the server: on or off"),
            SettingKey(
                "metrics_host",
                "127.0.0.1",
                setting_values.ip_address,
                "address for /metrics, /healthz, /readyz of a worker",
            ),
            SettingKey(
                "metrics_port", 0, setting_values.whole_number(0, 65535), "port of these pages; 0 takes a free one"
            ),
            SettingKey(
                "brokers", "", setting_values.text, "Kafka brokers to ask first, host:port,host:port; empty: no Kafka"
            ),
            SettingKey(
                "topic_prefix", "", setting_values.topic_prefix, "what the names of topics and groups begin with"
            ),
            SettingKey(
                "kafka_security_protocol",
                "PLAINTEXT",
                setting_values.one_of(*SECURITY_PROTOCOLS),
                "how the brokers are spoken to",
            ),
            SettingKey(
                "kafka_sasl_mechanism", "", setting_values.one_of("", *SASL_MECHANISMS), "how to log in to the brokers"
            ),
            SettingKey("kafka_username", "", setting_values.text, "who we are to the brokers"),
            SettingKey("kafka_password_file", "", setting_values.text, "file (0600) that holds the password"),
            SettingKey("kafka_ca_file", "", setting_values.text, "certificates (PEM) that vouch for the brokers"),
            SettingKey("kafka_certificate_file", "", setting_values.text, "our own certificate (PEM), for mutual TLS"),
            SettingKey("kafka_key_file", "", setting_values.text, "the key of our certificate (PEM, 0600)"),
            SettingKey(
                "schema_registry_url", "", setting_values.url, "Confluent-compatible Schema Registry; empty: none"
            ),
        )
    }
)

_STORE_KEYS: Final = (
    "objects_url", "vault_url", "clickhouse_host", "clickhouse_user", "clickhouse_password_file", "clickhouse_secure"
)  # fmt: skip
KAFKA_KEYS: Final = tuple(name for name in KEYS if name in ("brokers", "topic_prefix") or name.startswith("kafka_"))


def load_settings(
    directory: Path,
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    reads_file: bool = True,
) -> Settings:
    """Read flags, environment and the trail's file once, and validate everything.

    Without ``reads_file`` the trail's file is not believed, for whoever checks it. A flag of None counts as not
    given. Raises ConfigError if a key is unknown
    or a value invalid, whichever source it stands in, even one that is overridden.
    """
    written = _from_file(directory / CONFIG_FILE) if reads_file else {}
    passed = _passed_through(directory, written.pop(_KAFKA_TABLE, {}))
    sources: list[tuple[Callable[[SettingKey], str], Mapping[str, object]]] = [
        (lambda key: f"flag {key.flag}", {k: v for k, v in (flags or {}).items() if v is not None}),
        (lambda key: f"environment {key.variable}", _from_environment(os.environ if environ is None else environ)),
        (lambda key: f"file {directory / CONFIG_FILE}", written),
    ]
    values: dict[str, str | int] = {}
    origins: dict[str, str] = {}
    for origin, found in sources:
        for name, raw in found.items():
            if name not in KEYS:
                raise ConfigError(f"unknown setting {name!r}{_nearest(name, KEYS)}")
            try:
                value = KEYS[name].parse(raw)
            except ValueError as error:
                raise ConfigError(f"{origin(KEYS[name])}: {name}: {error}, found {_shown(raw)}") from error
            if name not in values:
                values[name], origins[name] = value, origin(KEYS[name])
    for key in KEYS.values():
        if key.name not in values:
            values[key.name], origins[key.name] = key.default, "default"
    return Settings(
        log_name=str(values["log_name"]),
        window_seconds=int(values["window_seconds"]),
        partitions=MappingProxyType(setting_values.counts(str(values["partitions"]))),
        batch_events=int(values["batch_events"]),
        vault_dir=directory / str(values["vault_dir"]),
        progress=cast(ProgressMode, values["progress"]),
        clickhouse=cast(ProgressMode, values["clickhouse"]),
        query_port=int(values["query_port"]),
        clickhouse_port=int(values["clickhouse_port"]),
        **{name: str(values[name]) for name in _STORE_KEYS},
        metrics_host=str(values["metrics_host"]),
        metrics_port=int(values["metrics_port"]),
        **{name: str(values[name]) for name in KAFKA_KEYS},
        kafka=_kafka_settings(directory, {name: str(values[name]) for name in KAFKA_KEYS}, passed),
        schema_registry_url=str(values["schema_registry_url"]),
        schema_registry=MappingProxyType(passed["schema_registry"]),
        origins=MappingProxyType({name: origins[name] for name in KEYS}),
    )


def add_setting_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Give a command a flag for each of these settings; values are validated with all the others, later."""
    for name in names:
        key = KEYS[name]
        parser.add_argument(
            key.flag,
            dest=f"setting_{name}",
            metavar="VALUE",
            help=f"{key.help} (default {'empty' if key.default == '' else key.default}; environment {key.variable})",
        )


def settings_of(args: argparse.Namespace, directory: Path, *, reads_file: bool = True) -> Settings:
    """The settings of one command call, its flags included."""
    given = vars(args)
    flags = {name: given.get(f"setting_{name}") for name in KEYS}
    return load_settings(directory, flags=flags, reads_file=reads_file)


def _kafka_settings(
    directory: Path, values: Mapping[str, str], passed: Mapping[str, Mapping[str, Value | SecretFile]]
) -> KafkaSettings | None:
    def path(name: str) -> Path | None:
        return directory / values[name] if values[name] else None

    if not values["brokers"]:
        return None
    return KafkaSettings(
        brokers=values["brokers"],
        topic_prefix=values["topic_prefix"],
        security_protocol=cast(SecurityProtocol, values["kafka_security_protocol"]),
        sasl_mechanism=values["kafka_sasl_mechanism"] or None,
        username=values["kafka_username"] or None,
        password_file=path("kafka_password_file"),
        ca_file=path("kafka_ca_file"),
        certificate_file=path("kafka_certificate_file"),
        key_file=path("kafka_key_file"),
        librdkafka_extra=passed["librdkafka"],
        aiokafka_extra=passed["aiokafka"],
    )


def _passed_through(directory: Path, table: object) -> dict[str, dict[str, Value | SecretFile]]:
    """The settings for each client; files are named relative to the trail, like all others."""
    where = f"{directory / CONFIG_FILE}: [{_KAFKA_TABLE}]"
    if not isinstance(table, dict) or not set(table) <= set(_PASSED_TO):
        raise ConfigError(f"{where}: expected the tables {', '.join(f'[{_KAFKA_TABLE}.{n}]' for n in _PASSED_TO)}")
    found: dict[str, dict[str, Value | SecretFile]] = {}
    for client in _PASSED_TO:
        given = read_pass_through(f"{directory / CONFIG_FILE}: [{_KAFKA_TABLE}.{client}]", table.get(client, {}))
        found[client] = {
            name: SecretFile(directory / value.path) if isinstance(value, SecretFile) else value
            for name, value in given.items()
        }
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for variable, raw in environ.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in KEYS or KEYS[name].variable != variable:
            known = {key.variable for key in KEYS.values()} | _NOT_SETTINGS
            raise ConfigError(f"environment: unknown variable {variable}{_nearest(variable, known)}")
        found[name] = raw
    return found


def _from_file(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for name in found:
        if name not in KEYS and name != _KAFKA_TABLE:
            raise ConfigError(f"{path}: unknown key {name!r}{_nearest(name, KEYS)}")
    return found


def _nearest(name: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."
