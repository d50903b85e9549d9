"""Ingest where the ledger is sealed elsewhere: through a spool, each row once, wherever an ingest is cut short.

Whoever ships, seals and stores is played by the one-process runtime on a thread of its own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from feeding import feed, recording
from query_copies import annotation, batch
from rlhf_audit_producers import spool_log
from rlhf_audit_producers.ingest_report import IngestReport
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.ledger_facts import known_facts, ledger_facts
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.runtime import Runtime
from rlhf_audit_trail.settings import load_settings
from rlhf_audit_trail.spool_recorder import SpoolRecorder
from spooling import sealed_events
from verifying import findings_of

ROWS = 400


class Elsewhere:
    """Takes, seals and stores what lies in the spools of a trail while it is switched on."""

    def __init__(self, trail: Path) -> None:
        self._trail = trail
        self.is_on = True
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Elsewhere:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with LocalTrail(self._trail) as trail:
            runtime = Runtime(trail)
            while not self._is_over.wait(0.01):
                if self.is_on:
                    runtime.turn()
                    runtime.drain()
            runtime.turn()
            runtime.drain()


class DyingRecorder(SpoolRecorder):
    """Dies after so many appends."""

    appends_left = 1 << 30

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        super().append(stream, partition, values)
        self.appends_left -= 1
        if self.appends_left == 0:
            self.work()
            raise KeyboardInterrupt


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    directory = tmp_path / "trail"
    ledger_facts(directory, load_settings(directory, environ={}))
    return directory


@pytest.fixture
def elsewhere(trail: Path) -> Iterator[Elsewhere]:
    with Elsewhere(trail) as one:
        yield one


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    lines = [f"item{n},rater{n % 7},{n % 5}" for n in range(ROWS)]
    lines[17] = "broken"
    path.write_text("item,annotator,score\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def recorder_of(trail: Path, said: list[str] | None = None, *, patience_s: float = 30.0) -> DyingRecorder:
    return DyingRecorder(
        trail,
        known_facts(trail),
        FolderStore(trail / "objects"),
        RealDisk(),
        ensure_shipper=lambda: None,
        say=(said if said is not None else []).append,
        patience_s=patience_s,
    )


def ingest(recorder: SpoolRecorder, file: Path) -> IngestReport:
    return feed(file, recorder, process=recording(batch_events=16))[0]


def items(trail: Path) -> Counter[str]:
    return Counter(event["item"] for event in sealed_events(trail, "annotation"))


def test_a_file_is_sealed_elsewhere_and_stored_when_ingest_returns(
    trail: Path, elsewhere: Elsewhere, file: Path
) -> None:
    with recorder_of(trail) as recorder:
        report = ingest(recorder, file)
    assert (report.outcome, report.faults) == ("ingested", 1)
    assert items(trail) == Counter(f"item{n}" for n in range(ROWS) if n != 17)
    with recorder_of(trail) as recorder:
        assert ingest(recorder, file).outcome == "already ingested"
    assert len(sealed_events(trail, "fault")) == 1


@pytest.mark.parametrize("appends", [1, 2, 5, 9, 20])
def test_an_ingest_that_was_cut_short_goes_on_and_doubles_nothing(
    trail: Path, elsewhere: Elsewhere, file: Path, appends: int
) -> None:
    with recorder_of(trail) as recorder:
        recorder.appends_left = appends
        with pytest.raises(KeyboardInterrupt):
            ingest(recorder, file)
    with recorder_of(trail) as recorder:
        report = ingest(recorder, file)
    assert report.continues_epoch == 0
    assert items(trail) == Counter(f"item{n}" for n in range(ROWS) if n != 17)
    assert len(sealed_events(trail, "fault")) == 1
    assert findings_of(trail) == []


def test_it_says_that_nothing_is_stored_and_leaves_the_rest_to_the_pipeline(
    trail: Path, elsewhere: Elsewhere, file: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    nothing_stored = FolderStore(tmp_path / "no-objects")
    with SpoolRecorder(
        trail,
        known_facts(trail),
        nothing_stored,
        RealDisk(),
        ensure_shipper=lambda: None,
        say=said.append,
        patience_s=0.2,
    ) as recorder:
        report = ingest(recorder, file)
        assert any("not all of it stored yet" in line for line in said)
        with pytest.raises(CouldNotCheckError, match="an earlier ingest"):
            recorder.lanes_of(report.producer)
    assert items(trail) == Counter(f"item{n}" for n in range(ROWS) if n != 17)


def test_two_ingests_of_one_file_never_write_one_lane(trail: Path, file: Path) -> None:
    with recorder_of(trail) as one, recorder_of(trail) as other:
        one.take_epoch("ingest/0011")
        with pytest.raises(ConfigError, match="another process"):
            other.take_epoch("ingest/0011")


def test_a_full_spool_makes_ingest_wait_not_fail(
    trail: Path, elsewhere: Elsewhere, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_log, "SEGMENT_BYTES", 4_000)  # the newest segment is never deleted under its writer
    monkeypatch.setattr(spool_log, "RESERVE_BYTES", 500)
    elsewhere.is_on = False
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        elsewhere.is_on = True

    recorder = SpoolRecorder(
        trail,
        known_facts(trail),
        FolderStore(trail / "objects"),
        RealDisk(),
        ensure_shipper=lambda: None,
        say=say,
        quota_bytes=12_000,
    )
    with recorder:
        assert ingest(recorder, file).outcome == "ingested"
    assert said[0].startswith("waiting for the shipper")
    assert items(trail) == Counter(f"item{n}" for n in range(ROWS) if n != 17)


def test_what_no_broker_took_is_told_until_it_was_sent_again_and_nothing_is_counted_meanwhile(
    trail: Path, elsewhere: Elsewhere, file: Path
) -> None:
    refused = trail / "spool" / "refused" / f"{'00' * 16}-3"
    with recorder_of(trail) as recorder:
        recorder.appends_left = 5
        with pytest.raises(KeyboardInterrupt):
            ingest(recorder, file)
    (name,) = (trail / "spool" / "producers").glob("*/name")
    producer = name.read_text(encoding="utf-8").strip()
    with LocalTrail(trail.parent / "other") as other:
        refused.parent.mkdir()
        refused.write_bytes(batch(other, [annotation(1)], producer=producer))
    with recorder_of(trail) as recorder:
        with pytest.raises(CouldNotCheckError, match="spool resend"):
            ingest(recorder, file)
        with pytest.raises(CouldNotCheckError, match=r"max\.message\.bytes"):
            recorder.delivered(producer)
    refused.unlink()
    with recorder_of(trail) as recorder:
        assert ingest(recorder, file).outcome == "ingested"
    assert items(trail) == Counter(f"item{n}" for n in range(ROWS) if n != 17)


def test_an_ingest_whose_own_batch_is_refused_does_not_say_that_it_is_done(
    trail: Path, elsewhere: Elsewhere, file: Path
) -> None:
    class Refusing(DyingRecorder):
        def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
            super().append(stream, partition, values)
            if stream == "annotations":
                kept = trail / "spool" / "refused" / f"{'00' * 16}-{partition}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(values[0])

    recorder = Refusing(
        trail,
        known_facts(trail),
        FolderStore(trail / "objects"),
        RealDisk(),
        ensure_shipper=lambda: None,
        say=lambda text: None,
    )
    with recorder, pytest.raises(CouldNotCheckError, match="larger than the brokers take"):
        ingest(recorder, file)
