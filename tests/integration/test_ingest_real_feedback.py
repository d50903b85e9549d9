"""The real files of the shared data, ingested: every row once, counts per rater and scores as in the file.

Runs against every recorder of the ``recorder`` fixture: the one in memory, and a trail on disk.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from feeding import events_of, feed, recording
from rlhf_audit_producers.ingest import has_ended
from rlhf_audit_producers.memory_recorder import MemoryRecorder
from rlhf_audit_producers.recorder import Epoch, LaneView
from rlhf_audit_trail.local import LocalTrail

SHARED = Path(os.environ.get("RLHF_AUDIT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
EVENTS = SHARED / "derived" / "sxs_mqm_zhen_events.shared.jsonl.gz"
SPANS = SHARED / "sxs_mqm_zhen" / "sxs_mqm_generalMT2023_zhen.shared.tsv.gz"
QA_PAIRS = SHARED / "derived" / "pairs_qa_feedback.shared.jsonl.gz"
PANDA_PAIRS = SHARED / "derived" / "pairs_pandalm.shared.jsonl.gz"
PANDA = SHARED / "pandalm" / "pandalm_testset_v1.shared.jsonl.gz"
QA = SHARED / "qa_feedback" / "qa_feedback_dev.shared.jsonl.gz"

pytestmark = pytest.mark.skipif(not EVENTS.exists(), reason=f"SKIPPED ALOUD: no real feedback in {SHARED}")

RATERS = {
    "rater6": 5557, "rater8": 2589, "rater1": 2429, "rater2": 2201,
    "rater3": 1867, "rater5": 1538, "rater4": 1238, "rater7": 1147,
}  # fmt: skip
PENALTIES = [
    "severity=HOTW-test:null",
    "category=Source issue*:null,Non-translation*:25",
    "severity=Minor&category=Fluency/Punctuation:0.1",
    "severity=Major:5,Minor:1,No-error:0",
]


def penalty(category: str, severity: str) -> float | None:
    """The usual penalty, as the data's own documentation words it."""
    if severity == "HOTW-test" or category.startswith("Source issue"):
        return None
    if category.startswith("Non-translation"):
        return 25.0
    if (category, severity) == ("Fluency/Punctuation", "Minor"):
        return 0.1
    return {"Major": 5.0, "Minor": 1.0, "No-error": 0.0}[severity]


class TrailRecorder(MemoryRecorder):
    """A trail on disk; what is appended to it is kept here too, to be looked at."""

    trail: LocalTrail

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        super().append(stream, partition, values)
        self.trail.append(stream, partition, values)

    def work(self) -> None:
        super().work()
        self.trail.work()

    def drain(self) -> None:
        super().drain()
        self.trail.drain()

    def take_epoch(self, producer: str) -> Epoch:
        super().take_epoch(producer)
        return self.trail.take_epoch(producer)

    def last_epoch(self, producer: str) -> int | None:
        return self.trail.last_epoch(producer)

    def lanes_of(self, producer: str) -> Sequence[LaneView]:
        return self.trail.lanes_of(producer)


@pytest.fixture(params=["memory", "trail"])
def recorder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryRecorder]:
    if request.param == "memory":
        yield MemoryRecorder()
        return
    with LocalTrail(tmp_path / "trail") as trail:
        found = TrailRecorder(trail.ledger_id, trail.routing_key, trail.partitions)
        found.trail = trail
        yield found
        for producer in found.epochs:
            assert trail.delivered(producer) == found.delivered(producer)
            assert has_ended(trail.lanes_of(producer))


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def sealed(recorder: MemoryRecorder) -> list[dict[str, Any]]:
    return sorted(events_of(recorder, "annotation"), key=lambda event: event["input_line"])


def digest(text: str | bool) -> bytes:
    """Of the text; some answers of the real data are a bare true, which counts as the text of its JSON."""
    text = text if isinstance(text, str) else json.dumps(text)
    return hashlib.sha256(text.encode()).digest()


def test_all_judgements_of_the_time_ordered_set(recorder: MemoryRecorder) -> None:
    maps = [
        "annotator=rater,judged_at=ts_ms,item=doc+doc_seg_id+system,group=lang,axis.category=category",
        "label=severity,prompt=source,response=target",
        "labeler==human",
    ]
    report, _ = feed(EVENTS, recorder, maps=maps, scores=PENALTIES, process=recording(batch_events=1024))
    rows, found = rows_of(EVENTS), sealed(recorder)
    assert (report.rows, report.faults, report.warnings, report.annotators) == (18566, 0, {}, 8)
    assert Counter(event["annotator"] for event in found) == RATERS
    assert [event["input_line"] for event in found] == list(range(1, 18567))
    for event, row in zip(found, rows, strict=True):
        assert event["annotator"] == row["rater"]
        assert event["judged_at_us"] == row["ts_ms"] * 1000
        assert event["score"] == penalty(row["category"], row["severity"])
        assert (event["label"], event["axis_labels"]) == (row["severity"], [row["category"]])
        assert event["item"] == f"{row['doc']}|{row['doc_seg_id']}|{row['system']}"
        assert event["prompt_sha256"] == digest(row["source"])
        assert event["response_sha256"] == digest(row["target"])
        assert event["response_text"] is None


def test_the_raw_spans_give_the_same_judgements(recorder: MemoryRecorder) -> None:
    maps = [
        "annotator=rater,judged_at=metadata.timestamp,item=doc+docSegId+system,label=severity,axis.category=category",
        "prompt=source,response=target",
    ]
    report, _ = feed(SPANS, recorder, maps=maps, scores=PENALTIES, process=recording(batch_events=1024))
    assert (report.rows, report.faults, report.warnings) == (18566, 0, {})
    found = sealed(recorder)
    assert Counter(event["annotator"] for event in found) == RATERS
    with gzip.open(SPANS, "rt", encoding="utf-8", newline="\n") as file:
        names = next(file).rstrip("\n").split("\t")[:10]
        rows = [dict(zip(names, line.rstrip("\n").split("\t"), strict=True)) for line in file]
    assert [event["prompt_sha256"] for event in found] == [digest(row["source"]) for row in rows]
    assert [event["judged_at_us"] for event in found] == [
        json.loads(row["metadata"])["timestamp"] * 1000 for row in rows
    ]
    assert [event["score"] for event in found] == [penalty(row["category"], row["severity"]) for row in rows]


@pytest.mark.parametrize(("path", "count", "raters"), [(QA_PAIRS, 1950, None), (PANDA_PAIRS, 1971, 3)])
def test_preference_pairs_are_known_by_their_column_names(
    recorder: MemoryRecorder, path: Path, count: int, raters: int | None
) -> None:
    report, _ = feed(path, recorder)
    found = sealed(recorder)
    assert (report.rows, len(found), report.faults, report.annotators) == (count, count, 0, raters)
    for event, row in zip(found, rows_of(path), strict=True):
        assert (event["annotation_id"], event["annotator"]) == (row["id"], row.get("annotator"))
        assert event["prompt_sha256"] == digest(row["prompt"])
        assert (event["chosen_sha256"], event["rejected_sha256"]) == (digest(row["chosen"]), digest(row["rejected"]))


def test_judgements_of_three_annotators_in_columns_become_axes(recorder: MemoryRecorder) -> None:
    maps = ["item=idx,group=cmp_key,prompt=instruction,axis.a1=annotator1,axis.a2=annotator2,axis.a3=annotator3"]
    report, _ = feed(PANDA, recorder, maps=maps)
    assert (report.rows, report.faults) == (751, 0)
    rows = rows_of(PANDA)
    expected = [[float(row[f"annotator{n}"]) for n in (1, 2, 3)] for row in rows]
    assert [event["axis_values"] for event in sealed(recorder)] == expected


def test_preferences_in_a_list_are_reached_by_number(recorder: MemoryRecorder) -> None:
    report, _ = feed(QA, recorder, maps=["prompt=question,axis.1v2=preference.0,axis.3v4=preference.5"])
    assert (report.rows, report.faults) == (374, 0)
    expected = [[float(row["preference"][0]), float(row["preference"][5])] for row in rows_of(QA)]
    assert [event["axis_values"] for event in sealed(recorder)] == expected


Mangle = Callable[[bytes], bytes]
MANGLES: dict[str, Mangle] = {
    "windows line ends": lambda raw: raw.replace(b"\n", b"\r\n"),
    "byte-order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "no last line end": lambda raw: raw.rstrip(b"\n"),
    "blank lines": lambda raw: raw.replace(b"\n", b"\n\n"),
}


@pytest.mark.parametrize("name", MANGLES)
def test_the_same_rows_in_other_clothes_are_the_same_events(
    recorder: MemoryRecorder, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(MANGLES[name](gzip.decompress(PANDA_PAIRS.read_bytes())))
    report, _ = feed(path, recorder)
    assert (report.rows, report.faults) == (1971, 0)
    keep = ("annotation_id", "annotator", "prompt_sha256", "chosen_sha256", "rejected_sha256")
    plain = MemoryRecorder()
    feed(PANDA_PAIRS, plain)
    assert [[event[key] for key in keep] for event in sealed(recorder)] == [
        [event[key] for key in keep] for event in sealed(plain)
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_same_rows_as_a_quoted_table_are_the_same_events(
    recorder: MemoryRecorder, tmp_path: Path, delimiter: str
) -> None:
    rows = rows_of(PANDA_PAIRS)
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    report, _ = feed(path, recorder)
    assert (report.rows, report.faults) == (1971, 0)
    assert [event["prompt_sha256"] for event in sealed(recorder)] == [digest(row["prompt"]) for row in rows]


def test_a_cut_gzip_gives_its_rows_and_one_fault(recorder: MemoryRecorder, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(EVENTS.read_bytes()[:-100_000])
    report, _ = feed(path, recorder, maps=["annotator=rater,judged_at=ts_ms,label=category"])
    kept = report.events["annotation"]
    assert 15_000 < kept < 18_566
    assert [fault.line for fault in report.first_faults] == [kept + 1]
    assert [event["annotator"] for event in sealed(recorder)] == [row["rater"] for row in rows_of(EVENTS)[:kept]]
