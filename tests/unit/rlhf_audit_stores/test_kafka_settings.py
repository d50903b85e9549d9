"""Client settings: the promises cannot be set away, secrets stand in files, everything else is passed through."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.settings import KafkaSettings, SecretFile
from rlhf_audit_stores.kafka.topics import group_name, sealed_topic, source_topic
from rlhf_audit_trail.settings import load_settings


def make_provider() -> str:
    return "a token provider"


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="ascii")
    path.chmod(mode)
    return path


def test_names_are_those_of_the_format() -> None:
    assert source_topic("p.", "gradients") == "p.audit.gradients"
    assert sealed_topic("", "gradients") == "audit.sealed.gradients"
    assert group_name("p.", "seal") == "p.audit.seal"


def test_a_producer_is_idempotent_and_waits_for_all_and_a_consumer_never_commits_by_itself() -> None:
    settings = KafkaSettings("a:1, b:2", librdkafka_extra={"linger.ms": 50, "socket.timeout.ms": 9000})
    producer, consumer = settings.producer_config(), settings.consumer_config("g")
    assert (producer["enable.idempotence"], producer["acks"], producer["bootstrap.servers"]) == (True, "all", "a:1,b:2")
    assert (producer["linger.ms"], producer["socket.timeout.ms"]) == (50, 9000)
    assert (consumer["enable.auto.commit"], consumer["auto.offset.reset"], consumer["group.id"]) == (
        False,
        "error",
        "g",
    )


def test_no_client_waits_long_for_a_silent_broker_or_for_news_of_a_new_leader() -> None:
    """With the clients' own defaults a broker that was cut off paused one partition for the whole cut."""
    settings = KafkaSettings("a:1")
    for config in (settings.admin_config(), settings.producer_config(), settings.consumer_config("g")):
        assert config["topic.metadata.refresh.interval.ms"] <= 2_000
        assert config["socket.timeout.ms"] <= 6_000
    assert settings.aiokafka()["metadata_max_age_ms"] <= 2_000
    assert settings.aiokafka()["request_timeout_ms"] <= 6_000


@pytest.mark.parametrize("name", ["acks", "enable.idempotence", "enable.auto.commit", "group.id", "bootstrap.servers"])
def test_a_setting_on_which_the_promises_rest_cannot_be_passed(name: str) -> None:
    with pytest.raises(ConfigError, match="losing nothing rests on it"):
        KafkaSettings("a:1", librdkafka_extra={name: "1"})


def test_secrets_are_read_from_files_that_nobody_else_may_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a secret does not stand in a setting"):
        KafkaSettings("a:1", librdkafka_extra={"sasl.oauthbearer.client.secret": "hidden"})
    secret = private(tmp_path / "secret", "hidden\n")
    settings = KafkaSettings(
        "a:1",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        username="u",
        password_file=secret,
        librdkafka_extra={"ssl.key.password": SecretFile(secret)},
    )
    config = settings.librdkafka("admin")
    assert (config["sasl.password"], config["ssl.key.password"]) == ("hidden", "hidden")
    assert "hidden" not in repr(settings)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        settings.librdkafka("admin")


@pytest.mark.parametrize(
    "wrong",
    [
        {"brokers": ""},
        {"security_protocol": "SASL_SSL"},
        {"sasl_mechanism": "PLAIN"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
        {"username": "u"},
        {"key_file": Path("k")},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        KafkaSettings(**{"brokers": "a:1", **wrong})  # type: ignore[arg-type]  # that is what is tried


def test_the_file_passes_any_setting_through_and_names_files_beside_the_trail(tmp_path: Path) -> None:
    private(tmp_path / "secret", "hidden")
    (tmp_path / "config.toml").write_text(
        'brokers = "a:1"\ntopic_prefix = "p."\nkafka_ca_file = "ca.pem"\n'
        "[kafka.librdkafka]\n"
        'sasl.oauthbearer.method = "oidc"\n"sasl.oauthbearer.client.secret" = { file = "secret" }\n'
        "[kafka.aiokafka]\nmetadata_max_age_ms = 1000\n"
        f'sasl_oauth_token_provider = "{__name__}:make_provider"\n',
        encoding="utf-8",
    )
    kafka = load_settings(tmp_path, environ={}).need_kafka()
    config = kafka.librdkafka("producer")
    assert (config["sasl.oauthbearer.method"], config["sasl.oauthbearer.client.secret"]) == ("oidc", "hidden")
    assert config["ssl.ca.location"] == str(tmp_path / "ca.pem")
    assert kafka.aiokafka()["metadata_max_age_ms"] == 1000
    assert kafka.topic_prefix == "p."


def test_without_brokers_it_says_where_to_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass --brokers"):
        load_settings(tmp_path, environ={}).need_kafka()


@pytest.mark.parametrize("text", ["[kafka.java]\na = 1\n", "[kafka.librdkafka]\na = [1]\n", "kafka = 1\n"])
def test_a_table_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_settings(tmp_path, environ={})
