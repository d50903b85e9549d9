"""What the owner of feedback is told: contradictions, repetitions, constant answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feeding import feed
from rlhf_audit_producers import owner_warnings
from rlhf_audit_producers.owner_warnings import OwnerWarnings


def told(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> OwnerWarnings:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report, _ = feed(path, **options)
    assert report.owner is not None
    return report.owner


def test_an_item_counts_once_however_often_it_is_contradicted(tmp_path: Path) -> None:
    rows = [{"annotator": f"r{n}", "item": "a", "label": str(n % 3)} for n in range(9)]
    rows += [{"annotator": "r1", "item": "b", "label": "x"}, {"annotator": "r2", "item": "b", "label": "x"}]
    found = told(tmp_path, rows)
    assert (found.contradictory_items, found.duplicate_rows) == (1, 0)


def test_pairs_judged_the_other_way_round_contradict_and_equal_ones_repeat(tmp_path: Path) -> None:
    rows = [
        {"annotator": "r1", "prompt": "p", "chosen": "a", "rejected": "b"},
        {"annotator": "r2", "prompt": "p", "chosen": "b", "rejected": "a"},
        {"annotator": "r2", "prompt": "p", "chosen": "b", "rejected": "a"},
        {"annotator": "r1", "prompt": "q", "chosen": "b", "rejected": "a"},
    ]
    found = told(tmp_path, rows)
    assert (found.contradictory_items, found.duplicate_rows) == (1, 1)


def test_scores_of_a_response_are_compared_by_prompt_and_response(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": r, "score": s} for r, s in (("a", 1), ("a", 2), ("b", 1), ("b", 1))]
    found = told(tmp_path, rows)
    assert (found.contradictory_items, found.duplicate_rows) == (1, 1)


def test_ids_that_stand_twice_are_counted(tmp_path: Path) -> None:
    rows = [{"annotation_id": n % 4, "label": "x"} for n in range(6)]
    assert told(tmp_path, rows).repeated_ids == 2


def test_an_annotator_who_always_says_the_same_is_named(tmp_path: Path) -> None:
    rows = [{"annotator": name, "item": f"{name}{n}", "score": n % vary} for name, vary in (("same", 1), ("other", 2))
            for n in range(30)]  # fmt: skip
    rows += [{"annotator": "few", "item": f"few{n}", "score": 1} for n in range(5)]
    found = told(tmp_path, rows)
    assert (found.constant_annotators, found.annotators) == (("same",), 3)
    assert any("same" in sentence for sentence in found.sentences())


def test_pairs_have_no_constant_answer(tmp_path: Path) -> None:
    rows = [{"annotator": "r", "prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(40)]
    assert told(tmp_path, rows).constant_annotators == ()


def test_nothing_odd_is_nothing_said(tmp_path: Path) -> None:
    rows = [{"annotator": f"r{n % 3}", "item": f"i{n // 3}", "score": n // 3} for n in range(90)]
    assert told(tmp_path, rows).sentences() == []


def test_past_its_bound_it_says_that_counts_are_lower_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_warnings.OwnerObserver.__init__, "__kwdefaults__", {"max_known": 10})
    rows = [{"annotator": "r", "item": f"i{n}", "score": n} for n in range(40)]
    rows += [{"annotator": "r", "item": f"i{n}", "score": 2 * n} for n in (1, 2, 39)]
    found = told(tmp_path, rows)
    assert found.contradictory_items == 2
    assert not found.is_complete
    assert "lower bounds" in found.sentences()[-1]
