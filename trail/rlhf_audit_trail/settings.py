"""Settings: one frozen value, validated once at the edge, that remembers where each part came from.

Order, first found wins::

    flag  >  environment RLHF_AUDIT_<KEY>  >  <trail's directory>/config.toml  >  default

Operations only. What shapes the bytes of a ledger (``log_name``,
``window_seconds``) is copied into its genesis when the ledger begins; from then
on the genesis rules and the setting is read no more.

No module-level settings object, and no secret ever stands here: keys are files.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, cast

from rlhf_audit_schemas.errors import ConfigError

if TYPE_CHECKING:
    import argparse

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

_LOG_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*(/[a-z0-9.-]+)*")  # a URL without scheme

ProgressMode = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the commands may be told from outside."""

    log_name: str
    window_seconds: int
    batch_events: int
    vault_dir: Path
    progress: ProgressMode
    clickhouse: ProgressMode
    query_port: int
    origins: Mapping[str, str]
    """Key -> where its value came from, in words a person can act on."""


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


def _whole_number(low: int, high: int) -> Callable[[object], int]:
    def parse(raw: object) -> int:
        value = int(raw) if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}", raw) else raw
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def _log_name(raw: object) -> str:
    if not isinstance(raw, str) or len(raw) > 200 or not _LOG_NAME.fullmatch(raw):
        raise ValueError("expected a name like example.com/audit: a-z, 0-9, dot, dash and slash")
    return raw


def _switch(raw: object) -> str:
    if raw not in ("auto", "on", "off"):
        raise ValueError("expected auto, on or off")
    return str(raw)


def _path(raw: object) -> str:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("expected the path of a folder")
    return raw


KEYS: Final[Mapping[str, SettingKey]] = MappingProxyType(
    {
        key.name: key
        for key in (
            SettingKey("log_name", "rlhf-audit.local", _log_name, "name of the log, a URL without scheme"),
            SettingKey("window_seconds", 10, _whole_number(1, MAX_WINDOW_SECONDS), "length of a window"),
            SettingKey("batch_events", 1024, _whole_number(1, MAX_BATCH_EVENTS), "events in one batch at most"),
            SettingKey("vault_dir", "vault", _path, "folder of the encrypted payloads, relative to the trail"),
            SettingKey("progress", "auto", _switch, "progress bar on stderr: auto, on or off"),
            SettingKey("clickhouse", "auto", _switch, "feed ClickHouse meanwhile: auto (if installed), on or off"),
            SettingKey(
                "query_port", 0, _whole_number(0, 65535), "loopback port of ClickHouse HTTP; 0 takes a free one"
            ),
        )
    }
)


def load_settings(
    directory: Path, *, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read flags, environment and the trail's file once, and validate everything.

    A flag of None counts as not given. Raises ConfigError if a key is unknown
    or a value invalid, whichever source it stands in, even one that is overridden.
    """
    sources: list[tuple[Callable[[SettingKey], str], Mapping[str, object]]] = [
        (lambda key: f"flag {key.flag}", {k: v for k, v in (flags or {}).items() if v is not None}),
        (lambda key: f"environment {key.variable}", _from_environment(os.environ if environ is None else environ)),
        (lambda key: f"file {directory / CONFIG_FILE}", _from_file(directory / CONFIG_FILE)),
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
        batch_events=int(values["batch_events"]),
        vault_dir=directory / str(values["vault_dir"]),
        progress=cast(ProgressMode, values["progress"]),
        clickhouse=cast(ProgressMode, values["clickhouse"]),
        query_port=int(values["query_port"]),
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
            help=f"{key.help} (default {key.default}; environment {key.variable})",
        )


def settings_of(args: argparse.Namespace, directory: Path) -> Settings:
    """The settings of one command call, its flags included."""
    given = vars(args)
    return load_settings(directory, flags={name: given.get(f"setting_{name}") for name in KEYS})


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
        if name not in KEYS:
            raise ConfigError(f"{path}: unknown key {name!r}{_nearest(name, KEYS)}")
    return found


def _nearest(name: str, known: Mapping[str, object] | set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."
