"""Feeding files to the ingest in tests, and reading back what it recorded."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.ingest import Recording, ingest_file
from rlhf_audit_producers.ingest_report import IngestReport
from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.layout import sniff
from rlhf_audit_producers.mapping import Mapping, by_names
from rlhf_audit_producers.mapping_text import expanded, from_flags
from rlhf_audit_producers.memory_recorder import MemoryRecorder
from rlhf_audit_producers.recorder import Recorder
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER

NOW_US = 1_760_000_000_000_000


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    return random.Random(seed).randbytes  # noqa: S311 - salts of tests have to repeat


@dataclass
class Clock:
    """A clock that moves on by a fixed step at every reading."""

    step_us: int = 0
    now_us: int = NOW_US
    read: int = field(default=0)

    def __call__(self) -> int:
        self.now_us += self.step_us
        self.read += 1
        return self.now_us


def recording(*, batch_events: int = 64, seed: int = 1, clock: Clock | None = None) -> Recording:
    """A process that records."""
    return Recording(SeedSigner(bytes([seed]) * 32), batch_events, "test 1", clock or Clock(), seeded_bytes(seed))


def feed(
    path: Path,
    recorder: Recorder | None = None,
    *,
    maps: list[str] | None = None,
    process: Recording | None = None,
    stop: Callable[[], bool] = lambda: False,
    **flags: Any,
) -> tuple[IngestReport, MemoryRecorder]:
    """Ingest a file as the command does; without ``maps`` and other flags by its column names."""
    into = MemoryRecorder() if recorder is None else recorder
    with InputFile(path) as source:
        source.hash()
        sniffed = sniff(source)
        mapping: Mapping = expanded(from_flags(maps=maps or [], **flags), sniffed.columns)
        if not mapping.columns:
            mapping = by_names(mapping, sniffed)
        report = ingest_file(source, sniffed, mapping, into, process or recording(), stop=stop)
    return report, into  # type: ignore[return-value]  # callers with a recorder of their own ignore it


def events_of(recorder: MemoryRecorder, kind: str, producer: str | None = None) -> list[dict[str, Any]]:
    """Decoded events of one kind, log by log in the order in which they were appended."""
    found = []
    for body in recorder.batches(producer):
        known = KINDS_BY_NUMBER[body.kind]
        if known.name == kind:
            found += [known.codec.decode(event) for event in body.events]
    return found


def annotations_of(path: Path, **options: Any) -> list[dict[str, Any]]:
    """Annotations that a file becomes, in the order of its lines."""
    _, recorder = feed(path, **options)
    return sorted(events_of(recorder, "annotation"), key=lambda event: event["input_line"])


def faults_of(path: Path, **options: Any) -> list[tuple[int, str]]:
    """(line, reason) of the faults that a file becomes."""
    _, recorder = feed(path, **options)
    return [(event["input_line"], event["reason"]) for event in events_of(recorder, "fault")]
