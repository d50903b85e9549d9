"""What a sealer of a trail is made of, and the parent of several of them.

A sealer needs the genesis (from the objects), three keys and the brokers. One
process uses one core; ``supervise`` runs several, each with a name of its own
in the consumer group, and starts again what ends: a crash is a normal way to
end for a worker, its state is in the ledger.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_ledger.seal import Sealer
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.registry import SchemaIds
from rlhf_audit_stores.kafka.topics import read_topic_facts, sealed_topic, source_topic
from rlhf_audit_stores.keys import load_sealing_keys
from rlhf_audit_trail.places import need_ledger, open_objects

if TYPE_CHECKING:
    from rlhf_audit_processors.kafka.worker import SealPlan
    from rlhf_audit_trail.settings import Settings

logger = logging.getLogger(__name__)

SCHEMA_IDS = "schema_ids.json"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
_STEADY_S = 60.0  # a worker that lived so long starts with a short pause again
_STOP_S = 20.0
_POLL_S = 0.1


def seal_plan(
    directory: Path,
    settings: Settings,
    *,
    instance: str | None,
    streams: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> SealPlan:
    """The plan for the partitions of ``streams`` (all by default).

    Raises ConfigError if keys, topics or partitions are not those of the ledger, CouldNotCheckError without a ledger.
    """
    from rlhf_audit_processors.kafka.global_head import StoredHead
    from rlhf_audit_processors.kafka.worker import SealPlan

    kafka = settings.need_kafka()
    objects = open_objects(directory, settings)
    ledger = need_ledger(directory, objects)
    keys = load_sealing_keys(directory / "keys")
    if keys.log.public_key != ledger.genesis.log_key:
        raise ConfigError(f"{directory / 'keys' / 'log.key'} is not the key that this ledger's genesis names")
    counts = ledger.genesis.partition_counts
    for stream in streams:
        if stream not in counts:
            raise ConfigError(f"--stream {stream}: this ledger has {', '.join(counts)}")
    chosen = {stream: count for stream, count in counts.items() if not streams or stream in streams}
    facts = read_topic_facts(
        kafka, [name(kafka.topic_prefix, stream) for stream in chosen for name in (source_topic, sealed_topic)]
    )
    for stream, count in chosen.items():
        for name in (source_topic, sealed_topic):
            topic = name(kafka.topic_prefix, stream)
            if topic not in facts:
                raise ConfigError(f"topic {topic} does not exist: run `rlhf-audit topics apply`")
            if facts[topic].partitions != count:
                raise ConfigError(f"topic {topic}: {facts[topic].partitions} partitions, the genesis names {count}")
    ids = SchemaIds(directory / "spool" / SCHEMA_IDS, settings.schema_registry_url or None)
    registry = settings.open_registry()
    if registry is not None:
        with registry:
            ids.ask(registry)
    return SealPlan(
        kafka=kafka,
        sealers={
            (stream, number): Sealer(
                partition_settings(ledger.genesis_bytes, stream, number), keys.quarantine_key, keys.log
            )
            for stream, count in chosen.items()
            for number in range(count)
        },
        ticker=keys.ticker,
        topics={stream: facts[source_topic(kafka.topic_prefix, stream)] for stream in chosen},
        objects=objects,
        heads=StoredHead(objects, ledger.genesis.log_key, ledger.global_origin),
        header=ids.header,
        data_dir=directory / "spool" / "sealer",
        instance=instance,
        should_stop=should_stop,
    )


@dataclass(slots=True)
class _Child:
    argv: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    start_at: float = 0.0


def supervise(commands: Sequence[Sequence[str]], *, monotonic: Callable[[], float] = time.monotonic) -> int:
    """Keep a process running for each command until SIGTERM or SIGINT. Returns 0, or 2 if one has a wrong setting."""
    children = [_Child(argv) for argv in commands]
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    status = 0
    while not told and status == 0:
        for child in children:
            status = _tend(child, monotonic()) or status
        time.sleep(_POLL_S)
    _stop([child.process for child in children if child.process is not None])
    return status


def _tend(child: _Child, now: float) -> int:
    if child.process is None:
        if now >= child.start_at:
            child.process = subprocess.Popen(child.argv, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
            child.started = now
        return 0
    status = child.process.poll()
    if status is None:
        return 0
    child.process = None
    if status == 2:
        return status  # a setting is wrong: starting again does not help, and it said which
    if now - child.started > _STEADY_S:
        child.pause_s = FIRST_PAUSE_S
    child.start_at = now + child.pause_s
    logger.warning("a worker ended with %d: started again in %.1f s", status, child.pause_s)
    child.pause_s = min(2 * child.pause_s, LONGEST_PAUSE_S)
    return 0


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def child_command(words: Sequence[str]) -> list[str]:
    """``rlhf-audit`` with these words, as a process of its own."""
    return [sys.executable, "-m", "rlhf_audit_trail", *words]


def parent_is_gone(parent: int | None = None) -> Callable[[], bool]:
    """Whether the process that started this one has ended; one that names itself is missed even if it ended before."""
    parent = os.getppid() if parent is None else parent
    return lambda: os.getppid() != parent


def told_to_stop(*, is_tied: bool) -> Callable[[], bool]:
    """Whether SIGTERM or SIGINT came, or, if ``is_tied``, the process that started this one has ended."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    is_alone = parent_is_gone() if is_tied else lambda: False
    return lambda: bool(told) or is_alone()
