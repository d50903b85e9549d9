"""Settings: where a value comes from, and what is said when one is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_ledger import genesis
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.settings import SecretFile
from rlhf_audit_trail import setting_values
from rlhf_audit_trail.settings import KEYS, load_settings


def write_config(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_any_source_every_value_is_the_default(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={})
    assert (settings.log_name, settings.window_seconds, settings.batch_events) == ("rlhf-audit.local", 10, 1024)
    assert (settings.vault_dir, settings.progress) == (tmp_path / "vault", "auto")
    assert set(settings.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("sources", "value", "origin"),
    [
        ({"flag", "environment", "file"}, 3, "flag --batch-events"),
        ({"environment", "file"}, 2, "environment RLHF_AUDIT_BATCH_EVENTS"),
        ({"file"}, 1, "file"),
        (set(), 1024, "default"),
    ],
)
def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, sources: set[str], value: int, origin: str
) -> None:
    if "file" in sources:
        write_config(tmp_path, "batch_events = 1\n")
    settings = load_settings(
        tmp_path,
        environ={"RLHF_AUDIT_BATCH_EVENTS": "2"} if "environment" in sources else {},
        flags={"batch_events": "3" if "flag" in sources else None},
    )
    assert settings.batch_events == value
    assert settings.origins["batch_events"].startswith(origin)


def test_an_unknown_key_in_the_file_names_file_key_and_nearest_known_key(tmp_path: Path) -> None:
    path = write_config(tmp_path, "window_second = 5\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, environ={})
    assert str(caught.value) == f"{path}: unknown key 'window_second', did you mean 'window_seconds'?"


def test_an_unknown_variable_names_itself_and_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RLHF_AUDIT_LOGNAME, did you mean 'RLHF_AUDIT_LOG_NAME'\?"):
        load_settings(tmp_path, environ={"RLHF_AUDIT_LOGNAME": "x"})


def test_a_variable_in_small_letters_is_not_taken_for_a_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown variable RLHF_AUDIT_log_name"):
        load_settings(tmp_path, environ={"RLHF_AUDIT_log_name": "x"})


def test_variables_that_are_no_settings_and_those_of_others_are_left_alone(tmp_path: Path) -> None:
    environ = {"RLHF_AUDIT_DEBUG": "1", "RLHF_AUDIT_SHARED_DATA": "x", "RLHF_OTHER": "y", "PATH": "/bin"}
    assert set(load_settings(tmp_path, environ=environ).origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("log_name", ""),
        ("log_name", "https://example.com/x"),
        ("log_name", "Example.com"),
        ("log_name", "a b"),
        ("log_name", "a/../b c"),
        ("log_name", "x" * 201),
        ("log_name", 7),
        ("window_seconds", 0),
        ("window_seconds", 86_401),
        ("window_seconds", "ten"),
        ("window_seconds", 1.5),
        ("window_seconds", True),
        ("batch_events", 4097),
        ("batch_events", "-1"),
        ("batch_events", "\u0661"),
        ("vault_dir", ""),
        ("vault_dir", "a\0b"),
        ("progress", "maybe"),
    ],
)
def test_an_invalid_value_is_refused_with_its_place(tmp_path: Path, name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"flag {KEYS[name].flag}: {name}: expected "):
        load_settings(tmp_path, environ={}, flags={name: bad})


def test_an_invalid_value_is_refused_even_where_another_source_overrides_it(tmp_path: Path) -> None:
    write_config(tmp_path, 'progress = "loud"\n')
    with pytest.raises(ConfigError, match=r"config\.toml: progress"):
        load_settings(tmp_path, environ={}, flags={"progress": "off"})


@pytest.mark.parametrize("broken", [b"batch_events = \n", b"\xff\xfe", b"[a\n"])
def test_a_broken_file_is_a_usage_error_that_names_it(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(broken)
    with pytest.raises(ConfigError, match=r"config\.toml: not "):
        load_settings(tmp_path, environ={})


def test_a_long_wrong_value_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path, environ={}, flags={"progress": "x" * 10_000})
    assert len(str(caught.value)) < 300


def test_an_absolute_vault_may_lie_outside_the_trail(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    settings = load_settings(tmp_path / "trail", environ={}, flags={"vault_dir": str(outside)})
    assert settings.vault_dir == outside


def test_settings_cannot_be_changed_after_they_were_checked(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.batch_events = 1  # type: ignore[misc]  # the assignment is what must fail


@given(
    name=st.sampled_from(sorted(KEYS)), raw=st.one_of(st.text(), st.integers(), st.none(), st.floats(), st.booleans())
)
def test_any_value_is_accepted_or_refused_with_our_own_error(name: str, raw: object) -> None:
    try:
        settings = load_settings(Path("nowhere-at-all"), environ={}, flags={name: raw})
    except ConfigError:
        return
    assert settings.origins[name] == ("default" if raw is None else f"flag {KEYS[name].flag}")


def test_a_registry_s_password_stands_in_a_file_and_in_no_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="schema_registry_url: expected"):
        load_settings(tmp_path, environ={"RLHF_AUDIT_SCHEMA_REGISTRY_URL": "http://me:mine@host/api"})
    write_config(
        tmp_path,
        'schema_registry_url = "http://host:8081"\n[kafka.schema_registry]\nbasic.auth.user.info = { file = "who" }\n',
    )
    settings = load_settings(tmp_path, environ={})
    assert settings.schema_registry_url == "http://host:8081"
    assert dict(settings.schema_registry) == {"basic.auth.user.info": SecretFile(tmp_path / "who")}
    (tmp_path / "who").touch(0o600)
    (tmp_path / "who").write_text("me:mine\n", encoding="utf-8")
    registry = settings.open_registry()
    assert registry is not None
    registry.close()
    assert load_settings(tmp_path / "elsewhere", environ={}).open_registry() is None


def test_partitions_are_counts_of_known_streams(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, environ={"RLHF_AUDIT_PARTITIONS": "annotations=8, gradients=2"})
    assert dict(settings.partitions) == {"annotations": 8, "gradients": 2}


@pytest.mark.parametrize("text", ["8", "annotations=0", "annotations=1025", "annotation=2", "gradients=1,gradients=2"])
def test_other_partitions_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="stream=count"):
        load_settings(tmp_path, environ={"RLHF_AUDIT_PARTITIONS": text})


def test_streams_and_the_most_partitions_are_those_of_the_format() -> None:
    assert tuple(genesis.DEFAULT_PARTITIONS) == setting_values.STREAMS
    assert genesis.MAX_PARTITIONS == setting_values.MAX_PARTITIONS
