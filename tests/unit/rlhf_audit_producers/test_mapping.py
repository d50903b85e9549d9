"""Mappings: what people write, what it means, and the digest by which a file is recognised."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.layout import Sniffed, sniff
from rlhf_audit_producers.mapping import (
    FieldSource,
    Mapping,
    by_names,
    check,
    producer_id,
    unused,
)
from rlhf_audit_producers.mapping_text import expanded, from_file, from_flags
from rlhf_audit_producers.scoring import Condition, OneHot, ScoreRule
from rlhf_audit_schemas.errors import ConfigError


def sniffed(tmp_path: Path, *columns: str) -> Sniffed:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(dict.fromkeys(columns, "1")) + "\n", encoding="utf-8")
    with InputFile(path) as source:
        return sniff(source)


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("annotator=rater", [FieldSource("annotator", ("rater",))]),
        ("annotator=rater,score=s", [FieldSource("annotator", ("rater",)), FieldSource("score", ("s",))]),
        ("item=doc+seg.no", [FieldSource("item", ("doc", "seg.no"))]),
        ("labeler==human", [FieldSource("labeler", constant="human")]),
        ("labeler==a,b=c", [FieldSource("labeler", constant="a,b=c")]),
        ("score=s,labeler==ai", [FieldSource("score", ("s",)), FieldSource("labeler", constant="ai")]),
        ("axis.fluency=Fluency (1-5)", [FieldSource("axis.fluency", ("Fluency (1-5)",))]),
        (r"label=a\,b\+c", [FieldSource("label", ("a,b+c",))]),
        ("label=a=b", [FieldSource("label", ("a=b",))]),
    ],
)
def test_flags_say_where_a_field_comes_from(text: str, sources: list[FieldSource]) -> None:
    assert list(from_flags(maps=[text]).sources) == sources


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (
            "severity=Major:5,Minor:1,No-error:0",
            [
                ScoreRule((Condition("severity", "Major"),), 5),
                ScoreRule((Condition("severity", "Minor"),), 1),
                ScoreRule((Condition("severity", "No-error"),), 0),
            ],
        ),
        ("category=Non-translation*:25", [ScoreRule((Condition("category", "Non-translation", True),), 25)]),
        (
            "severity=Minor&category=Fluency/Punctuation:0.1",
            [ScoreRule((Condition("severity", "Minor"), Condition("category", "Fluency/Punctuation")), 0.1)],
        ),
        ("c=Source issue:null", [ScoreRule((Condition("c", "Source issue"),), None)]),
        (r"c=a\:b\,c\*:-2e1", [ScoreRule((Condition("c", "a:b,c*"),), -20)]),
        ("c=a:1,d=b:2", [ScoreRule((Condition("c", "a"),), 1), ScoreRule((Condition("d", "b"),), 2)]),
        ("c=:3", [ScoreRule((Condition("c", ""),), 3)]),
    ],
)
def test_score_tables_are_lists_of_rules_in_their_order(text: str, rules: list[ScoreRule]) -> None:
    assert list(from_flags(scores=[text]).scores) == rules


def test_one_hot_columns_may_be_named_or_numbered(tmp_path: Path) -> None:
    named = from_flags(one_hot=["score=bad:0,good:2,ok:1"])
    assert named.one_hot == (OneHot("score", (("bad", "0"), ("good", "2"), ("ok", "1"))),)
    numbered = expanded(from_flags(one_hot=["score=star*"]), ["star_1", "stars", "star_2", "star3", "x"])
    assert numbered.one_hot == (OneHot("score", (("star3", "3"), ("star_1", "1"), ("star_2", "2"))),)
    with pytest.raises(ConfigError, match="fewer than two columns"):
        expanded(from_flags(one_hot=["score=star*"]), ["star_1", "stars"])


@pytest.mark.parametrize(
    "flags",
    [
        {"maps": ["annotator"]},
        {"maps": ["=rater"]},
        {"maps": ["annotator="]},
        {"scores": ["severity"]},
        {"scores": ["severity=Major"]},
        {"scores": ["severity=Major:high"]},
        {"scores": ["Major:5"]},
        {"one_hot": ["score"]},
        {"one_hot": ["score=a,b"]},
        {"one_hot": ["score=a:low,b:high"]},
        {"one_hot": ["annotator=a:1,b:2"]},
        {"one_hot": ["score=a:1,a:2"]},
        {"maps": ["labeler==\udcff"]},
    ],
)
def test_flags_that_say_nothing_clear_are_refused(flags: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError):
        from_flags(**flags)  # type: ignore[arg-type]  # keyword arguments of one type each


TOML = """
kind = "annotation"
null = ["-"]
[map]
annotator = "rater"
item = ["doc", "seg"]
labeler = {constant = "human"}
axis.fluency = "flu"
[[scores]]
when = {severity = "Minor", category = "Fluency*"}
score = 0.1
[[scores]]
when = {category = "Source issue"}
score = "null"
[one_hot.label]
bad = 0
good = 1
"""
AS_FLAGS: dict[str, Any] = {
    "maps": ["annotator=rater,item=doc+seg,axis.fluency=flu", "labeler==human"],
    "scores": ["severity=Minor&category=Fluency*:0.1", "category=Source issue:null"],
    "one_hot": ["label=bad:0,good:1"],
    "nulls": ["-"],
}


def test_a_mapping_file_says_the_same_as_flags_in_toml_and_json(tmp_path: Path) -> None:
    toml, plain = tmp_path / "m.toml", tmp_path / "m.json"
    toml.write_text(TOML, encoding="utf-8")
    document = {
        "null": ["-"],
        "map": {"annotator": "rater", "item": ["doc", "seg"], "labeler": {"constant": "human"}, "axis.fluency": "flu"},
        "scores": [
            {"when": {"severity": "Minor", "category": "Fluency*"}, "score": 0.1},
            {"when": {"category": "Source issue"}, "score": None},
        ],
        "one_hot": {"label": {"bad": 0, "good": 1}},
    }
    plain.write_text(json.dumps(document), encoding="utf-8")
    found = sniffed(tmp_path, "rater", "doc")
    digests = {each.digest(found) for each in (from_file(toml), from_file(plain), from_flags(**AS_FLAGS))}
    assert len(digests) == 1


def test_flags_come_on_top_of_a_mapping_file(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(TOML, encoding="utf-8")
    mapping = from_flags(maps=["annotator=who"], base=from_file(path))
    assert mapping.source("annotator") == FieldSource("annotator", ("who",))
    assert mapping.source("item") == FieldSource("item", ("doc", "seg"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mapp]\na='b'", "unknown key 'mapp', did you mean 'map'"),
        ("[map]\na=1", "map.a"),
        ("[map]\na=[]", "map.a"),
        ("kind='vote'", "kind: expected"),
        ("null='x'", "null: expected"),
        ("store_text=1", "store_text"),
        ("scores=[1]", "scores: expected"),
        ("[[scores]]\nwhen={}\nscore=1", "scores"),
        ("[[scores]]\nwhen={a='b'}\nscore='high'", "scores"),
        ("one_hot=3", "one_hot"),
        ("a = ", "not valid TOML"),
        ("scores=3", "m.toml"),
    ],
)
def test_a_mapping_file_that_is_wrong_is_named_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        from_file(path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"maps": ["annotatr=a"]}, "unknown field 'annotatr' of kind annotation, did you mean 'annotator'"),
        ({"maps": ["annotator=rator"]}, "no column 'rator', did you mean 'rater'.*its columns: rater, doc"),
        ({"maps": ["annotator=rater", "annotator=doc"]}, "mapped twice"),
        ({"maps": ["score=rater+doc"]}, "cannot be joined"),
        ({"maps": ["annotation_id==7,label=doc"]}, "cannot be the same"),
        ({"maps": ["labeler==human"]}, "no column is mapped"),
        ({"maps": ["axis.=doc"]}, "unknown field"),
        ({"maps": ["score=doc"], "scores": ["doc=a:1"]}, "only one of them"),
        ({"maps": ["annotator=rater"], "kind": "withdrawal"}, "needs annotation_id"),
        ({"maps": ["annotation_id=rater,item=doc"], "kind": "correction"}, "unknown field 'item' of kind correction"),
        ({"maps": ["annotation_id=doc"], "scores": ["doc=a:1"], "kind": "withdrawal"}, "has no score"),
        ({"scores": ["severty=Major:5"]}, "no column 'severty'"),
    ],
)
def test_a_mapping_that_does_not_fit_says_what_would(tmp_path: Path, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(from_flags(**flags), sniffed(tmp_path, "rater", "doc"))


def test_columns_that_are_called_like_fields_are_mapped_by_themselves(tmp_path: Path) -> None:
    found = sniffed(tmp_path, "id", "annotator", "rater", "prompt", "chosen", "axis.tone", "foo")
    mapping = by_names(from_flags(), found)
    assert {source.field: source.columns for source in mapping.sources} == {
        "annotation_id": ("id",),
        "annotator": ("annotator",),
        "prompt": ("prompt",),
        "chosen": ("chosen",),
        "axis.tone": ("axis.tone",),
    }
    assert unused(mapping, found.columns) == ["rater", "foo"]
    check(mapping, found)


def test_the_order_in_which_a_mapping_is_written_does_not_matter_but_all_it_says_does(tmp_path: Path) -> None:
    found = sniffed(tmp_path, "a", "b", "c")
    one = from_flags(maps=["annotator=a", "item=b"], nulls=["-", "?"])
    other = from_flags(maps=["item=b,annotator=a"], nulls=["?", "-", "NULL"])
    assert one.digest(found) == other.digest(found)
    different: list[Mapping] = [
        one,
        from_flags(maps=["annotator=a", "item=b"]),
        from_flags(maps=["annotator=b", "item=a"], nulls=["-", "?"]),
        from_flags(maps=["annotator=a", "item==b"], nulls=["-", "?"]),
        from_flags(maps=["annotator=a", "item=b"], nulls=["-", "?"], store_text=True),
        from_flags(maps=["annotator=a", "item=b"], nulls=["-", "?"], scores=["c=x:1"]),
        from_flags(maps=["annotator=a", "item=b"], nulls=["-", "?"], scores=["c=x*:1"]),
        from_flags(maps=["annotator=a", "item=b"], nulls=["-", "?"], one_hot=["score=b:1,c:2"]),
    ]
    for left, right in itertools.combinations(different, 2):
        assert left.digest(found) != right.digest(found)


def test_the_producer_is_named_by_file_and_mapping() -> None:
    names = {producer_id(bytes([file]) * 32, bytes([mapping]) * 32) for file in (0, 1) for mapping in (0, 1)}
    assert len(names) == 4
    assert producer_id(bytes(32), bytes(32)) == "ingest/42af2507605c7eb9a9c8149097d5d099"
