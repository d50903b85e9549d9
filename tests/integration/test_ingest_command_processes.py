"""A large file is read in a process of its own: the same events, the same report, and a death there is no loss."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crash.ingesting import write_rows
from feeding import events_of, recording
from rlhf_audit_producers.ingest import ingest_file
from rlhf_audit_producers.ingest_report import IngestReport
from rlhf_audit_producers.input_file import InputChangedError, InputFile
from rlhf_audit_producers.layout import sniff
from rlhf_audit_producers.mapping import Mapping, by_names
from rlhf_audit_producers.memory_recorder import MemoryRecorder
from rlhf_audit_producers.preparing import PreparingError

ROWS = 20_000


def run(file: Path, into: MemoryRecorder, *, apart: bool) -> IngestReport:
    with InputFile(file) as source:
        source.hash()
        sniffed = sniff(source)
        mapping = by_names(Mapping(), sniffed)
        return ingest_file(source, sniffed, mapping, into, recording(), reads_in_a_process=apart)


def seen(recorder: MemoryRecorder, kind: str) -> Counter[tuple[Any, ...]]:
    return Counter(
        (event["input_line"], event.get("annotator"), event.get("reason")) for event in events_of(recorder, kind)
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS, bad_every=500)


def test_both_ways_of_reading_seal_the_same_rows(file: Path) -> None:
    here, apart = MemoryRecorder(), MemoryRecorder()
    first, second = run(file, here, apart=False), run(file, apart, apart=True)
    assert (first.rows, first.faults, first.events) == (second.rows, second.faults, second.events)
    assert first.owner == second.owner
    for kind in ("annotation", "fault"):
        assert seen(here, kind) == seen(apart, kind)


def test_when_the_reading_process_dies_the_same_ingest_goes_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, children = MemoryRecorder(), []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen(*arguments, **options))
        return children[-1]

    work = recorder.work

    def work_and_kill() -> None:
        work()
        if len(children) == 1 and children[0].poll() is None:
            os.kill(children[0].pid, signal.SIGKILL)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(recorder, "work", work_and_kill)
    with pytest.raises(PreparingError, match="goes on where it was"):
        run(file, recorder, apart=True)
    report = run(file, recorder, apart=True)
    assert report.continues_epoch == 0
    lines = [line for line, *_ in seen(recorder, "annotation").elements()]
    assert len(lines) == len(set(lines)) == ROWS - report.faults


def test_a_file_that_changes_meanwhile_is_noticed_there_too(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    recorder = MemoryRecorder()
    work = recorder.work

    def work_and_change() -> None:
        work()
        os.utime(file, ns=(1, 1))

    recorder.work = work_and_change  # type: ignore[method-assign]  # a world in which somebody writes to the file
    with pytest.raises(InputChangedError, match="changed while it was read"):
        run(file, recorder, apart=True)
    assert events_of(recorder, "producer_end")[-1]["reason"] == "failed"
