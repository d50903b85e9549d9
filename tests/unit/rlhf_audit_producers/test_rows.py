"""Rows become events or faults, every one of them exactly once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feeding import annotations_of, events_of, faults_of, feed
from rlhf_audit_producers.rows import WARNINGS
from rlhf_audit_schemas.errors import ConfigError


def jsonl(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_of_an_annotation_arrives(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {
            "i": 7, "who": "r1", "when": "2024-08-13T00:46:20Z", "doc": "d", "seg": 3, "g": "zh-en", "p": "Prämisse",
            "r": "answer", "c": "better", "x": "worse", "s": "4.5", "l": "good", "f": 2, "t": "fine",
        },
    )  # fmt: skip
    fields = "annotation_id=i,annotator=who,judged_at=when,item=doc+seg,group=g,prompt=p,response=r,chosen=c,rejected=x"
    maps = [fields, "score=s,label=l,axis.fluency=f,axis.tone=t", "labeler==human"]
    (found,) = annotations_of(path, maps=maps)
    assert len(found.pop("salt")) == 16
    texts = {"prompt": "Prämisse", "response": "answer", "chosen": "better", "rejected": "worse"}
    digest = {name: hashlib.sha256(text.encode()).digest() for name, text in texts.items()}
    assert found == {
        "ts_us": 1_760_000_000_000_000, "annotation_id": "7", "annotator": "r1", "labeler": "human",
        "judged_at_us": 1_723_509_980_000_000, "item": "d|3", "group": "zh-en", "run_id": None,
        "prompt_sha256": digest["prompt"], "prompt_text": None, "response_sha256": digest["response"],
        "response_text": None, "chosen_sha256": digest["chosen"], "chosen_text": None,
        "rejected_sha256": digest["rejected"], "rejected_text": None, "ranking_sha256": [], "ranking_texts": [],
        "score": 4.5, "label": "good", "axis_names": ["fluency", "tone"], "axis_values": [2.0, None],
        "axis_labels": [None, "fine"], "input_sha256": hashlib.sha256(path.read_bytes()).digest(), "input_line": 1,
    }  # fmt: skip


def test_texts_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"prompt": "p", "response": "r", "annotator": "a"})
    bare = annotations_of(path)[0]
    assert [bare[name] for name in bare if name.endswith("_text")] == [None] * 4
    kept = annotations_of(path, store_text=True)[0]
    assert (kept["prompt_text"], kept["response_text"], kept["chosen_text"]) == ("p", "r", None)


def test_joined_names_never_coincide_for_different_cells(tmp_path: Path) -> None:
    rows = [{"a": "x|y", "b": "z"}, {"a": "x", "b": "y|z"}, {"a": "x\\|y", "b": "z"}, {"a": "x", "b": None}]
    rows += [{"a": None, "b": "x"}, {"a": "x", "b": "y"}]
    path = jsonl(tmp_path, *rows)
    items = [event["item"] for event in annotations_of(path, maps=["item=a+b,label=a"])]
    assert len(set(items)) == len(items)
    assert items[-1] == "x|y"


def test_a_score_that_is_no_number_becomes_the_label_and_is_counted(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path, *({"s": value} for value in (1, "2", "good", "NULL", None, True, "1e3", "nan", "3,5")), {"t": 1}
    )
    report, recorder = feed(path, maps=["score=s,item=t"])
    found = sorted(events_of(recorder, "annotation"), key=lambda event: event["input_line"])
    assert [(event["score"], event["label"]) for event in found] == [
        (1.0, None), (2.0, None), (None, "good"), (1.0, None), (1000.0, None), (None, "3,5"), (None, None),
    ]  # fmt: skip
    assert report.warnings == {"score_as_label": 2}
    assert report.faults == 3  # rows whose mapped columns are all empty
    assert set(report.warnings) <= set(WARNINGS)


def test_a_mapped_label_stays_when_the_score_is_no_number(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"s": "good", "l": "fine"})
    assert annotations_of(path, maps=["score=s,label=l"])[0]["label"] == "fine"


def test_a_text_where_a_label_belongs_is_refused_and_not_shown(tmp_path: Path) -> None:
    long = "secret " * 200
    path = jsonl(tmp_path, {"s": long}, {"s": "short"})
    for maps in (["score=s"], ["label=s"], ["axis.x=s"]):
        ((line, reason),) = faults_of(path, maps=maps)
        assert line == 1
        assert "1400 characters" in reason
        assert "secret" not in reason


def test_the_first_rule_that_fits_gives_the_score(tmp_path: Path) -> None:
    rows = [
        ("Non-translation!", "Major", 25), ("Fluency/Punctuation", "Minor", 0.1), ("Fluency/Punctuation", "Major", 5),
        ("Style", "Minor", 1), ("No-error", "No-error", 0), ("Source issue", "Major", None), ("Found", "HOTW", None),
    ]  # fmt: skip
    path = jsonl(tmp_path, *({"category": category, "severity": severity} for category, severity, _ in rows))
    scores = [
        "category=Non-translation*:25,Source issue:null",
        "severity=Minor&category=Fluency/Punctuation:0.1",
        "severity=Major:5,Minor:1,No-error:0",
    ]
    report, recorder = feed(path, maps=["label=category"], scores=scores)
    found = sorted(events_of(recorder, "annotation"), key=lambda event: event["input_line"])
    assert [event["score"] for event in found] == [score for _, _, score in rows]
    assert report.warnings == {"score_not_in_table": 1}


def test_an_ordinal_score_spread_over_columns_is_read_back(tmp_path: Path) -> None:
    path = table(tmp_path, "who,bad,ok,good\nr,1,0,0\nr,0,1,0\nr,false,,TRUE\nr,0,0,0\nr,1,1,0\nr,0,2,0\n")
    report, recorder = feed(path, maps=["annotator=who"], one_hot=["score=bad:0,ok:1,good:2"])
    found = sorted(events_of(recorder, "annotation"), key=lambda event: event["input_line"])
    assert [event["score"] for event in found] == [0, 1, 2, None]
    assert report.warnings == {"one_hot_unset": 1}
    assert [(fault.line, fault.reason) for fault in report.first_faults] == [
        (6, "score: more than one of its 0/1 columns is set"),
        (7, "score: one of its 0/1 columns holds neither 0 nor 1"),
    ]


def test_labels_and_axes_may_be_spread_too(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"w": "r", "a": 1, "b": 0, "t1": 0, "t2": True})
    (found,) = annotations_of(path, maps=["annotator=w"], one_hot=["label=a:yes,b:no", "axis.tone=t1:1,t2:2"])
    assert (found["label"], found["axis_names"], found["axis_values"]) == ("yes", ["tone"], [2.0])


def test_corrections_and_withdrawals_need_to_say_of_what(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"id": "a1", "s": 3, "why": "typo", "t": 1_723_509_980}, {"s": 3}, {"id": "NULL", "s": 1})
    report, recorder = feed(path, kind="correction", maps=["annotation_id=id,score=s,reason=why,corrected_at=t"])
    (found,) = events_of(recorder, "correction")
    assert (found["annotation_id"], found["score"], found["reason"]) == ("a1", 3.0, "typo")
    assert found["corrected_at_us"] == 1_723_509_980_000_000
    assert {fault.reason for fault in report.first_faults} == {"a correction without annotation_id"}
    _, recorder = feed(path, kind="withdrawal", maps=["annotation_id=id,withdrawn_at=t"])
    assert [event["annotation_id"] for event in events_of(recorder, "withdrawal")] == ["a1"]


def test_a_column_that_comes_late_needs_to_be_allowed(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"w": "r1"}, {"w": "r2"})
    with pytest.raises(ConfigError, match="no column 'note'"):
        feed(path, maps=["annotator=w,label=note"])
    found = annotations_of(path, maps=["annotator=w,label=note"], missing_columns_allowed=True)
    assert [event["label"] for event in found] == [None, None]


def test_a_fault_names_line_and_digest_and_never_what_the_row_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"annotator": "r"}\n{"annotator": secret}\r\n{"annotator": {"secret": 1}}\n')
    report, recorder = feed(path)
    found = events_of(recorder, "fault")
    raw = [b'{"annotator": secret}', b'{"annotator": {"secret": 1}}']
    assert [event["row_sha256"] for event in found] == [hashlib.sha256(each).digest() for each in raw]
    assert [event["row_bytes"] for event in found] == [len(each) for each in raw]
    assert [event["input_line"] for event in found] == [2, 3]
    assert b"secret" not in repr(found).encode()
    assert report.rows == 3


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.just("NULL"),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip
rows = st.dictionaries(st.sampled_from(["annotator", "score", "item", "judged_at", "prompt", "axis.x", "z"]), values)
lines = st.one_of(
    st.binary(max_size=30), rows.map(lambda row: json.dumps(row).encode()), rows.map(lambda row: repr(row).encode())
)
HEAD = b'{"annotator": "r", "score": 1, "item": "i", "judged_at": 1, "prompt": "p", "axis.x": 1}\n'


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.lists(lines, max_size=12), store_text=st.booleans())
def test_every_row_of_any_file_is_an_event_or_a_fault(tmp_path: Path, body: list[bytes], store_text: bool) -> None:
    path = tmp_path / "any.jsonl"
    path.write_bytes(HEAD + b"\n".join(body))
    report, recorder = feed(path, store_text=store_text)
    found = [event["input_line"] for kind in ("annotation", "fault") for event in events_of(recorder, kind)]
    data = (HEAD + b"\n".join(body)).split(b"\n")
    expected = [at for at, line in enumerate(data, 1) if line.removesuffix(b"\r").strip(b" \t\n\r\x0b\x0c")]
    assert sorted(found) == expected
    assert report.rows == len(expected) == report.events["annotation"] + report.faults


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text(alphabet='ab1",\n\r\t é\0', max_size=80))
def test_every_record_of_any_table_is_an_event_or_a_fault(tmp_path: Path, body: str) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(b"annotator,label\n" + body.encode())
    report, recorder = feed(path)
    found = [event["input_line"] for kind in ("annotation", "fault") for event in events_of(recorder, kind)]
    assert report.rows == len(found) == len(set(found)) == report.events["annotation"] + report.faults
    if '"' not in body:
        data = body.encode().split(b"\n")
        expected = [at for at, line in enumerate(data, 2) if line and not line.isspace()]
        assert sorted(found) == expected
