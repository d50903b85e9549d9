"""What ``ingest`` records into: the trail of this directory, or a spool whose records the brokers get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_trail.settings import Settings

if TYPE_CHECKING:
    from rlhf_audit_producers.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Place:
    """``checkpoint`` reads the published global checkpoint; ``key`` is the line that verifies it."""

    recorder: Recorder
    checkpoint: Callable[[], bytes]
    key: str


@contextmanager
def open_recorder(directory: Path, settings: Settings, *, say: Callable[[str], None]) -> Iterator[Place]:
    """The recorder that the settings ask for: brokers named or not."""
    with (
        _shipped(directory, settings, say) if settings.kafka is not None else _local(directory, settings, say) as place
    ):
        yield place


@contextmanager
def _local(directory: Path, settings: Settings, say: Callable[[str], None]) -> Iterator[Place]:
    from rlhf_audit_trail.borrowing import borrowed
    from rlhf_audit_trail.local import open_local
    from rlhf_audit_trail.query_copy_feed import query_copy_sinks

    with (
        query_copy_sinks(directory, settings, say=say) as sinks,
        borrowed(directory),
        open_local(directory, settings, sinks=sinks) as trail,
    ):
        yield Place(trail, lambda: trail.checkpoint, trail.ledger.public_key_lines()[0])


@contextmanager
def _shipped(directory: Path, settings: Settings, say: Callable[[str], None]) -> Iterator[Place]:
    from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
    from rlhf_audit_stores.disk import RealDisk
    from rlhf_audit_trail.ledger_facts import known_facts
    from rlhf_audit_trail.places import need_ledger, open_objects
    from rlhf_audit_trail.runtime_start import ensure_runtime
    from rlhf_audit_trail.spool_recorder import SpoolRecorder

    facts, objects = known_facts(directory), open_objects(directory, settings)
    with SpoolRecorder(
        directory,
        facts,
        objects,
        RealDisk(),
        ensure_shipper=lambda: ensure_runtime(directory, brokers=settings.brokers),
        say=say,
    ) as recorder:
        yield Place(
            recorder,
            lambda: objects.get_versioned(GLOBAL_CHECKPOINT)[0],
            need_ledger(directory, objects).public_key_lines()[0],
        )
