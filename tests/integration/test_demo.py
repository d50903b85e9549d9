"""``rlhf-audit demo`` as a person runs it: with training, on real feedback, and where there is no torch."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training.tiny import need_now

SHARED = Path(os.environ.get("RLHF_AUDIT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
PAIRS = SHARED / "derived" / "pairs_qa_feedback.shared.jsonl.gz"
EVENTS = SHARED / "derived" / "sxs_mqm_zhen_events.shared.jsonl.gz"
EVENTS_MAPPING = (
    "--annotations-map", "annotator=rater,judged_at=ts_ms,item=doc+doc_seg_id+system,group=lang",
    "--annotations-map", "axis.category=category,label=severity,prompt=source,response=target",
    "--annotations-map", "labeler==human",
    "--annotations-scores", "severity=HOTW-test:null",
    "--annotations-scores", "category=Source issue*:null,Non-translation*:25",
    "--annotations-scores", "severity=Minor&category=Fluency/Punctuation:0.1",
    "--annotations-scores", "severity=Major:5,Minor:1,No-error:0",
)  # fmt: skip
TRAINING = ("torch", "transformers", "trl", "datasets", "accelerate", "chdb", "clickhouse_connect")
SECTIONS = ("curves", "gradients", "replicas", "annotators", "agreement", "checkpoints", "integrity", "not-proved")
NOBODY = "http://127.0.0.1:9"  # port "discard": a download would fail at once


def audit(home: Path, *arguments: str | Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """One command, in a process of its own, without a way to the outside."""
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, path), *sys.path]),
        "HOME": str(home),
        "RLHF_AUDIT_STATE": str(home / "state"),
        "HTTP_PROXY": NOBODY,
        "HTTPS_PROXY": NOBODY,
    }
    environ.pop("HF_HUB_OFFLINE", None)  # the demo has to think of it itself
    return subprocess.run(
        [sys.executable, "-m", "rlhf_audit_trail", *map(str, arguments)],
        env=environ, cwd=home, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def asked(home: Path, trail: Path, query: str) -> list[dict[str, Any]]:
    done = audit(home, "sql", trail, query, "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def check_of_the_whole_story(done: subprocess.CompletedProcess[str], out: Path, steps: int) -> None:
    """What every demo with training has to show."""
    text = done.stdout
    assert done.returncode == 0, text[-3000:] + done.stderr[-3000:]
    assert "NO TRAINING" not in text
    assert text.count("# added line") == 3
    assert f"torchrun --standalone --nproc-per-node=2 {Path('rlhf_audit_trail', 'demo', 'train.py')}" in text.replace(
        str(Path(__file__).parents[2] / "trail") + os.sep, ""
    )
    assert "NOT ALIKE" not in text
    assert text.count("  alike") == 6
    counted = re.search(r"optimizer steps +(\d+)  policy_update +(\d+)  alike", text)
    assert counted
    assert [int(count) for count in counted.groups()] == [2 * steps, 2 * steps]
    assert "NOT AS RECORDED" not in text
    assert text.count(", as recorded\n") == 2
    assert text.count("$ rlhf-audit sql ") >= 3
    assert re.search(rf"replicate +{steps} +{steps}\n", text)
    assert "the expected checkpoint (size" in text
    assert text.count("as it should") == 8
    assert re.search(r"audit \d+\.\d % of step time, \d+\.\d MiB on disk, 2/2 ranks complete, 0 lost", text)
    assert f"open {out / 'report.html'}" in text


def test_the_demo_trains_records_asks_verifies_and_forges(tmp_path: Path) -> None:
    need_now(*TRAINING)
    out = tmp_path / "demo"
    done = audit(tmp_path, "demo", "--out", out, "--steps", "16")
    check_of_the_whole_story(done, out, 16)
    assert "two of them broken on purpose" in done.stdout
    assert re.search(r"annotation +1680\n", done.stdout)
    assert re.search(r"fault +2\n", done.stdout)
    (runs,) = [
        run for run in json.loads(audit(tmp_path, "runs", out / "trail", "--json").stdout) if run["kind"] == "run"
    ]
    assert (runs["state"], runs["ranks_seen"], runs["ranks_missing"], runs["step"]) == ("finished", [0, 1], [], 16)


@pytest.mark.skipif(not EVENTS.exists(), reason=f"SKIPPED ALOUD: no real feedback in {SHARED}")
def test_real_pairs_and_judgements_are_all_there_in_sql_and_on_the_page(tmp_path: Path) -> None:
    need_now(*TRAINING)
    out = tmp_path / "demo"
    files = ("--pairs", PAIRS, "--annotations", EVENTS, *EVENTS_MAPPING)
    done = audit(tmp_path, "demo", "--out", out, "--steps", "16", *files)
    check_of_the_whole_story(done, out, 16)
    trail = out / "trail"

    pairs, events = rows_of(PAIRS), rows_of(EVENTS)
    assert (len(pairs), len(events)) == (1950, 18566)
    count = "SELECT count() AS n, uniqExact(input_sha256) AS files FROM annotation"
    assert asked(tmp_path, trail, count) == [{"n": len(pairs) + len(events), "files": 2}]
    found = asked(tmp_path, trail, "SELECT annotation_id FROM annotation WHERE chosen_sha256 IS NOT NULL")
    assert Counter(row["annotation_id"] for row in found) == Counter(row["id"] for row in pairs)
    found = asked(
        tmp_path, trail, "SELECT annotator, label, count() AS n FROM annotation WHERE annotator != '' GROUP BY ALL"
    )
    assert {(row["annotator"], row["label"]): int(row["n"]) for row in found} == Counter(
        (row["rater"], row["severity"]) for row in events
    )
    trained = asked(
        tmp_path, trail, "SELECT arrayJoin(annotation_ids) AS id, count() AS n FROM policy_update GROUP BY id"
    )
    assert len(trained) == 16 * 8
    assert {row["id"] for row in trained} <= {row["id"] for row in pairs}

    kept = out / "kept-elsewhere"
    verified = audit(tmp_path, "verify", trail, "--key", kept / "log.vkey", "--expect", kept / "checkpoint")
    assert verified.returncode == 0, verified.stdout
    assert "complete     yes" in verified.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="([a-z-]+)"', page)
    assert set(SECTIONS) <= set(sections), sections
    assert not re.search(r'(src|href)="https?:', page)


BLOCKER = 'import sys\nsys.modules["torch"] = None\n'


@pytest.mark.parametrize("why", ["torch not installed", "as asked for"])
def test_without_torch_the_demo_says_so_and_tells_the_story_of_the_feedback(tmp_path: Path, why: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    is_asked_for = why == "as asked for"
    flags = ["--feedback-only"] if is_asked_for else []
    done = audit(tmp_path, "demo", "--out", tmp_path / "demo", *flags, path=() if is_asked_for else (tmp_path,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NO TRAINING IN THIS DEMO" in done.stdout
    assert why in done.stdout
    assert ("pip install 'rlhf-audit-trail[trl,sinks]'" in done.stdout) == (not is_asked_for)
    assert done.stdout.count("as it should") == 8
    assert "torchrun" not in done.stdout


def test_a_training_that_fails_says_where_its_words_are(tmp_path: Path) -> None:
    need_now(*TRAINING)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import os, sys\nif 'RANK' in os.environ:\n    sys.modules['trl'] = None\n", encoding="utf-8"
    )
    done = audit(tmp_path, "demo", "--out", tmp_path / "demo", "--steps", "2", path=(tmp_path / "broken",))
    assert done.returncode == 3
    assert "the training ended with status 1" in done.stderr
    assert "training.log" in done.stderr
