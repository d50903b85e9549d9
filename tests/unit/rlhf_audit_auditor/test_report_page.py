"""The report page without a database: what it says of nothing, and that no event can put markup on it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_auditor.report import Report
from rlhf_audit_auditor.report_page import Checked, gather, render, runs_of
from rlhf_audit_auditor.report_page.curves import width_of
from rlhf_audit_auditor.report_page.markup import tag

SECTIONS = [
    "run", "curves", "gradients", "replicas", "rollouts", "annotators", "agreement", "checkpoints", "integrity",
    "not-proved",
]  # fmt: skip
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m\u202e"
START: dict[str, Any] = {
    "run_id": "run", "rank": 0, "epoch": 0, "at_us": 1_790_000_000_000_000, "world_size": 2, "expected_ranks": [0, 1],
    "parent_run_id": None, "resumed_from": None, "resumed_step": None, "trainer": "T", "algorithm": "dpo",
    "objective": None, "model_name": "m", "model_class": "M", "model_config_sha256": None,
    "model_parameters_sha256": "00" * 32, "reference_model_name": None, "reference_parameters_sha256": None,
    "reward_names": [], "parameter_count": 10, "trainable_count": 5, "max_grad_norm": None, "seed": 0,
    "max_steps": 3, "per_device_batch": 2, "accumulation_steps": 1, "dataset_rows": None, "dataset_fingerprint": None,
    "lineage": "unknown", "gradient_hook": "none", "code_commit": "c0ffee", "is_code_dirty": True, "packages": ["p==1"],
    "python": "3.11", "platform": "L", "device": None, "device_count": None,
}  # fmt: skip


class Parsed(HTMLParser):
    """What a browser would make of a page: elements, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.blocks: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += [key for key, _ in attrs]
        self.ids += [value for key, value in attrs if key == "id" and value is not None]
        self._inside = name + "".join(f" {value}" for key, value in attrs if key == "type")

    def handle_endtag(self, name: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside.startswith(("script", "style")):
            self.blocks[self._inside] = self.blocks.get(self._inside, "") + data
        else:
            self.text += data


def nothing(sql: str, parameters: Mapping[str, str], /) -> Sequence[Mapping[str, Any]]:
    return []


def started(start: Mapping[str, Any]) -> Any:
    """A query copy that holds one run_start and nothing else."""

    def query(sql: str, parameters: Mapping[str, str], /) -> Sequence[Mapping[str, Any]]:
        return [start] if "FROM audit_restricted.run_start WHERE" in sql else []

    return query


def page_of(query: Any = nothing, run_id: str | None = "run", checked: Checked | None = None, **more: Any) -> str:
    page = gather(query, run_id, checked or Checked(None, 0), now_us=1_790_000_000_000_000)
    return render(page, **more).decode("utf-8")


@pytest.mark.parametrize("run_id", [None, "run"])
def test_a_trail_that_holds_nothing_still_has_every_section(run_id: str | None) -> None:
    parsed = Parsed(page_of(run_id=run_id))
    assert [name for name in parsed.ids if name not in ("head", "plots")] == SECTIONS
    assert parsed.tags.count("h2") == len(SECTIONS)
    assert "not checked" in parsed.text
    assert "Nothing on this page is verified" in parsed.text
    assert "that the trail is intact: it was not checked" in parsed.text
    assert runs_of(nothing) == []


def test_a_verdict_is_shown_with_its_level_and_a_contradiction_without_one() -> None:
    report = Report()
    assert "verified: agrees with itself" in Parsed(page_of(checked=Checked(report, 0))).text
    report.unreadable.append("objects/a <b>: cannot be read")
    text = Parsed(page_of(checked=Checked(report, 0))).text
    assert "could not check" in text
    assert "objects/a <b>: cannot be read" in text
    assert "Level: agrees" not in text


def test_ranks_that_never_appeared_are_named() -> None:
    text = Parsed(page_of(started(START))).text
    assert "Ranks that were expected and never appeared: 1." in text
    assert "ranks missing" in text
    assert "no end recorded yet by 1 of 1 ranks" in text
    assert "with changes that are not committed" in text


@given(text=st.one_of(st.just(HOSTILE), st.text(max_size=50)))
def test_no_text_of_an_event_becomes_markup(text: str) -> None:
    start = START | dict.fromkeys(
        ("trainer", "algorithm", "model_name", "code_commit", "python", "parent_run_id", "run_id"), text
    )
    start |= {"packages": [text], "reward_names": [text]}
    plain = Parsed(page_of(started(START | {"parent_run_id": "x", "reward_names": ["x"]}), "run"))
    parsed = Parsed(page_of(started(start), text))
    assert set(parsed.tags) <= set(plain.tags)
    assert set(parsed.attributes) == set(plain.attributes)
    assert parsed.tags.count("script") == 3
    assert not any(name.startswith("on") for name in parsed.attributes)


def test_hostile_text_is_shown_as_it_is_and_without_control_characters() -> None:
    page = page_of(started(START | {"model_name": HOSTILE}), HOSTILE)
    assert "<img" not in page
    assert "<script>alert" not in page
    text = Parsed(page).text
    assert "</script><script>alert(1)</script><img src=x onerror=alert(1)>" in text
    assert "\x1b" not in page
    assert "\u202e" not in page


@given(text=st.text(), value=st.text())
def test_a_tag_gives_back_its_text_and_opens_nothing_else(text: str, value: str) -> None:
    parsed = Parsed(tag("p", text, title=value))
    assert parsed.tags == ["p"]
    assert parsed.attributes == ["title"]


def test_data_cannot_end_the_element_that_holds_them() -> None:
    rows = [{"name": HOSTILE, "given": 1, "without": 0, "mean": 1.0, "std": 0.0, "low": 1.0, "high": 1.0, "place": 0}]
    totals = {"events": 1, "prompts": 1, "ranks": 1, "low": 0, "high": 0}

    def query(sql: str, parameters: Mapping[str, str], /) -> Sequence[Mapping[str, Any]]:
        if "audit_restricted.rollout" not in sql or "UNION" in sql:
            return []
        return rows if "ARRAY JOIN" in sql else [totals]

    parsed = Parsed(page_of(query))
    found = json.loads(parsed.blocks["script application/json"])
    assert found["rollouts"]["series"][0]["label"] == HOSTILE
    assert parsed.tags.count("script") == 3


def test_the_policy_names_these_scripts_and_styles_and_forbids_every_request() -> None:
    page = page_of()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    said = policy[1].replace("&#x27;", "'")
    assert said.startswith("default-src 'none'")
    assert "connect-src 'none'" in said
    assert "unsafe" not in said
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert (len(scripts), len(styles)) == (2, 1)
    for text in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in said
    assert " style=" not in page
    assert "connect-src 'self'" in page_of(refresh_ms=3000).replace("&#x27;", "'")


def test_the_page_names_no_address_to_load_from() -> None:
    page = page_of()
    assert set(re.findall(r"https?://[^\s\"')]+", page)) == {"https://github.com/leeoniya/uPlot"}  # its own banner
    assert re.findall(r"(?:src|href)=\"(?!#|data:,)", page) == []


def test_vendored_files_are_those_that_their_note_names() -> None:
    folder = files("rlhf_audit_auditor.report_page").joinpath("vendor/uplot")
    named = dict(
        re.findall(r"\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|", folder.joinpath("README.md").read_text("utf-8"))
    )
    assert set(named) == {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"}
    for name, digest in named.items():
        assert hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() == digest


@given(low=st.integers(0, 10**6), extent=st.integers(0, 10**7), pieces=st.integers(1, 1000))
def test_pieces_are_never_more_than_asked_for(low: int, extent: int, pieces: int) -> None:
    width = width_of(low, low + extent, pieces)
    assert extent // width + 1 <= pieces
