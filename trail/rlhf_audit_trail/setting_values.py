"""What the raw text of a setting may be, and the value it becomes; each raises ValueError with what was expected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

STREAMS: Final = ("annotations", "gradients", "lifecycle", "released")
MAX_PARTITIONS: Final = 1024  # each is a log of its own with a key, a checkpoint and a sealer's state
_PARTITIONS_WANTED: Final = (
    f"expected stream=count,stream=count with streams {', '.join(STREAMS)} and counts from 1 to {MAX_PARTITIONS}"
)
_TOPIC_PREFIX = re.compile(r"[a-zA-Z0-9._-]*")  # what Kafka allows in a topic's name
_LOG_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*(/[a-z0-9.-]+)*")  # a URL without scheme


def whole_number(low: int, high: int) -> Callable[[object], int]:
    def parse(raw: object) -> int:
        value = int(raw) if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}", raw) else raw
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return parse


def log_name(raw: object) -> str:
    if not isinstance(raw, str) or len(raw) > 200 or not _LOG_NAME.fullmatch(raw):
        raise ValueError("expected a name like example.com/audit: a-z, 0-9, dot, dash and slash")
    return raw


def switch(raw: object) -> str:
    if raw not in ("auto", "on", "off"):
        raise ValueError("expected auto, on or off")
    return str(raw)


def folder_path(raw: object) -> str:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("expected the path of a folder")
    return raw


def text(raw: object) -> str:
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError("expected a text")
    return raw


def url(raw: object) -> str:
    if raw and not (isinstance(raw, str) and re.fullmatch(r"https?://[^\s@]+", raw)):
        raise ValueError("expected http://host:port/path without a password; [kafka.schema_registry] takes one")
    return str(raw or "")


def topic_prefix(raw: object) -> str:
    if not isinstance(raw, str) or len(raw) > 100 or not _TOPIC_PREFIX.fullmatch(raw):
        raise ValueError("expected letters, digits, dot, dash and underscore, at most 100")
    return raw


def partitions(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(_PARTITIONS_WANTED)
    counts(raw)
    return raw


def counts(text: str) -> dict[str, int]:
    """``stream=count,stream=count``. Raises ValueError for anything else."""
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        stream, _, number = part.strip().partition("=")
        is_count = re.fullmatch(r"[1-9][0-9]{0,3}", number) is not None and int(number) <= MAX_PARTITIONS
        if stream not in STREAMS or stream in found or not is_count:
            raise ValueError(_PARTITIONS_WANTED)
        found[stream] = int(number)
    return found


def store_url(raw: object) -> str:
    if raw != "" and not (isinstance(raw, str) and re.fullmatch(r"(s3|gs|az)://[^@?#\s]+", raw)):
        raise ValueError(
            "expected s3://bucket/prefix, gs:// or az://; what it takes to log in stands in the environment"
        )
    return str(raw)


def one_of(*words: str) -> Callable[[object], str]:
    def parse(raw: object) -> str:
        if raw not in words:
            raise ValueError(f"expected one of {', '.join(word or '(empty)' for word in words)}")
        return str(raw)

    return parse


def ip_address(raw: object) -> str:
    try:
        return str(ipaddress.IPv4Address(raw))
    except ValueError:
        raise ValueError("expected an IPv4 address, 127.0.0.1 for this machine alone, 0.0.0.0 for all") from None
