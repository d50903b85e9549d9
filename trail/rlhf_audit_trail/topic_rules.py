"""What a topic of a ledger has to be, and what about one is dangerous: rules alone, no broker.

* A record is never compacted away or deleted before it is sealed and stored.
* Acknowledged means on two disks where there are three brokers.
* A message's time is its producer's (format section 2), so no clock is refused.
* A source message plus what sealing adds fits the sealed topic, and that fits a
  broker left at 1 MB messages. A source topic keeps messages uncompressed: its
  limit then binds what is sealed, not what a few bytes unfold to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["source", "sealed"]

MAX_SEALED_BYTES: Final = 1_048_588  # Kafka's own default for a batch: 1 MiB and its frame
SEALING_ROOM_BYTES: Final = 64 * 1024  # what a sealed record adds at most (format section 4)
MAX_SOURCE_BYTES: Final = MAX_SEALED_BYTES - SEALING_ROOM_BYTES
DEFAULT_RETENTION_HOURS: Final = 7 * 24
MIN_RETENTION_HOURS: Final = 24  # a weekday's outage of a store must not eat what it has not got
_MS_PER_HOUR = 3_600_000
_FOREVER = str((1 << 63) - 1)
_UNCOMPRESSED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "source": ("uncompressed",),
    "sealed": ("producer", "uncompressed"),
}


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the brokers have it: number of copies of each partition, and its configuration."""

    name: str
    kind: Kind
    copies: tuple[int, ...]
    config: Mapping[str, str]


def default_copies(brokers: int) -> int:
    """Replication factor where nobody names one."""
    return min(brokers, 3)


def wanted_config(kind: Kind, copies: int, retention_hours: int) -> dict[str, str]:
    """Configuration of a topic with ``copies`` replicas."""
    return {
        "cleanup.policy": "delete",
        "min.insync.replicas": str(max(1, min(2, copies - 1))),
        "retention.ms": str(retention_hours * _MS_PER_HOUR),
        "retention.bytes": "-1",
        "max.message.bytes": str(MAX_SOURCE_BYTES if kind == "source" else MAX_SEALED_BYTES),
        "unclean.leader.election.enable": "false",
        "message.timestamp.type": "CreateTime",
        "message.timestamp.before.max.ms": _FOREVER,
        "message.timestamp.after.max.ms": _FOREVER,
        "compression.type": _UNCOMPRESSED[kind][0],
    }


def dangers(topic: TopicState, *, partitions: int, brokers: int) -> list[str]:
    """What is wrong with a topic, each in words a person can act on; nothing if it is as it should be."""
    config = topic.config
    fewest = min(topic.copies, default=0)
    found = []
    if len(topic.copies) != partitions:
        found.append(
            f"{len(topic.copies)} partitions, the genesis names {partitions}: it cannot be this ledger's topic"
        )
    if config.get("cleanup.policy") != "delete":
        found.append(f"cleanup.policy={config.get('cleanup.policy')}: compaction removes records; set delete")
    if fewest < 2 <= brokers:
        found.append(f"replication factor {fewest} on {brokers} brokers: one lost disk loses acknowledged records")
    found += _acknowledgement(fewest, _number(config, "min.insync.replicas"))
    if config.get("unclean.leader.election.enable") != "false":
        found.append("unclean.leader.election.enable=true: a replica that lags may become leader and lose records")
    found += _deletion(config)
    if config.get("message.timestamp.type") != "CreateTime":
        found.append(f"message.timestamp.type={config.get('message.timestamp.type')}: set CreateTime")
    for name in ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms"):
        if _number(config, name) < int(_FOREVER):
            found.append(f"{name}={config.get(name)}: a producer whose clock is wrong could never deliver; remove it")
    found += _sizes(topic)
    return found


def _acknowledgement(fewest: int, in_sync: int) -> list[str]:
    if fewest == 2:
        return ["replication factor 2: either one disk acknowledges or one broker stops everything; take 3"]
    if fewest >= 3 and in_sync < 2:
        return [f"min.insync.replicas={in_sync} with replication factor {fewest}: one disk alone acknowledges; set 2"]
    if fewest >= 3 and in_sync >= fewest:
        return [f"min.insync.replicas={in_sync} with replication factor {fewest}: one broker down stops everything"]
    if fewest == 1 and in_sync > 1:
        return [f"min.insync.replicas={in_sync} with one replica: nothing can ever be written"]
    return []


def _deletion(config: Mapping[str, str]) -> list[str]:
    found = []
    retention_ms = _number(config, "retention.ms")
    if 0 <= retention_ms < MIN_RETENTION_HOURS * _MS_PER_HOUR:
        found.append(f"retention.ms={retention_ms}: records may go before they are stored; at least a day")
    if _number(config, "retention.bytes") != -1:
        found.append(f"retention.bytes={config.get('retention.bytes')}: a busy hour deletes what is not stored; set -1")
    return found


def _sizes(topic: TopicState) -> list[str]:
    found = []
    size, most = _number(topic.config, "max.message.bytes"), MAX_SOURCE_BYTES
    if topic.kind == "source" and size > most:
        found.append(f"max.message.bytes={size}: a message above {most} may not fit the sealed topic")
    if topic.kind == "source" and size < most:
        found.append(f"max.message.bytes={size}: batches of up to {most} bytes must fit")
    if topic.kind == "sealed" and size < MAX_SEALED_BYTES:
        found.append(f"max.message.bytes={size}: sealed records of up to {MAX_SEALED_BYTES} bytes must fit")
    allowed = _UNCOMPRESSED[topic.kind]
    if topic.config.get("compression.type") not in allowed:
        why = "what unfolds from it may not fit the sealed topic" if topic.kind == "source" else "no need"
        found.append(f"compression.type={topic.config.get('compression.type')}: {why}; set {allowed[0]}")
    return found


def _number(config: Mapping[str, str], name: str) -> int:
    try:
        return int(config[name])
    except (KeyError, ValueError):
        return -1
