"""``rlhf-audit report`` on sealed trails through the real engine: numbers, limits, runs to choose from, verdicts."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from html import unescape
from pathlib import Path
from typing import Any

import numpy
import pytest

from query_copies import annotation, require_chdb, write_trail
from report_trails import HOSTILE, Event, add_run, run_events, tensors_of, write_run
from rlhf_audit_trail import cli
from rlhf_audit_trail.local import LocalTrail

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("default")]

STEPS, LAYERS = 900, 3


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return run_events(run_id="long-run", steps=STEPS, layers=LAYERS, ranks=3, sick=(1, 2, 600))


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> Path:
    require_chdb()
    folder = tmp_path_factory.mktemp("report") / "trail"
    write_run(folder, events)
    return folder


@pytest.fixture(scope="module")
def page(trail: Path) -> str:
    assert cli.main(["report", str(trail), "--no-memory"]) == 0
    return (trail / "report-long-run.html").read_text(encoding="utf-8")


def plots_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    plots: dict[str, Any] = json.loads(found[1])
    return plots


def section(page: str, name: str) -> str:
    """Text of a section."""
    markup = page.split(f'<section id="{name}">')[1].split("</section>")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def grid_of(spec: dict[str, Any], measure: int) -> Any:
    raw = base64.b64decode(spec["measures"][measure]["data"])
    return numpy.frombuffer(raw, "<f4").reshape(len(spec["rows"]), spec["x"]["count"])


def test_curves_hold_mean_lowest_and_highest_of_each_stretch(page: str, events: list[Event]) -> None:
    spec = plots_of(page)["curve-loss"]
    own = [record["loss"] for kind, rank, record in events if kind == "policy_update" and rank == 0]
    (series,) = spec["series"]
    assert len(spec["x"]) == STEPS // 2
    assert series["mean"] == pytest.approx([sum(own[at : at + 2]) / 2 for at in range(0, STEPS, 2)], rel=1e-5)
    assert series["low"] == pytest.approx([min(own[at : at + 2]) for at in range(0, STEPS, 2)], rel=1e-5)
    assert series["high"] == pytest.approx([max(own[at : at + 2]) for at in range(0, STEPS, 2)], rel=1e-5)
    assert {"curve-margin", "curve-accuracy", "curve-rewards", "curve-learning_rate", "curve-grad_norm"} <= set(
        plots_of(page)
    )


def test_the_heat_map_adds_up_layers_and_keeps_the_largest_step(page: str, events: list[Event]) -> None:
    spec = plots_of(page)["gradients"]
    _, layers = tensors_of(LAYERS)
    names = list(dict.fromkeys(layers))
    assert spec["rows"] == names
    assert spec["x"] == {"kind": "step", "first": 1, "width": 3, "last": STEPS, "count": 300}
    norms, maxima = numpy.zeros((len(names), 300)), numpy.zeros((len(names), 300))
    for kind, rank, record in events:
        if kind != "gradient_stats" or rank != 0:
            continue
        place = (record["step"] - 1) // 3
        squares = numpy.frombuffer(record["squared_norm_f64le"], "<f8")
        largest = numpy.frombuffer(record["max_abs_f64le"], "<f8")
        for at, name in enumerate(names):
            chosen = [layer == name for layer in layers]
            norms[at, place] = max(norms[at, place], squares[chosen].sum() ** 0.5)
            maxima[at, place] = max(maxima[at, place], largest[chosen].max())
    assert grid_of(spec, 0) == pytest.approx(norms, rel=1e-6)
    assert grid_of(spec, 1) == pytest.approx(maxima, rel=1e-6)


def test_a_sick_rank_is_named_with_tensor_and_first_step(page: str) -> None:
    text = section(page, "replicas")
    name = tensors_of(LAYERS)[0][2]
    assert f"Replicas differ, first at step 600 in {name}" in text.replace(" ,", ",")
    assert "in 301 steps altogether" in text
    assert "Rank 1 stands alone" in text
    assert "replicas differ" in page.split("</header>")[0]


def test_agreement_is_what_the_definitions_give(page: str, events: list[Event]) -> None:
    units: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for kind, _, record in events:
        if kind == "annotation":
            is_first = record["chosen_sha256"] < record["rejected_sha256"]
            units[record["item"]].append((is_first, record["score"]))
    pairs = [judged for judged in units.values() if len(judged) == 2]
    equal = sum(one[0] == other[0] for one, other in pairs) / len(pairs)
    scores = [score for judged in pairs for _, score in judged]
    observed = sum((one[1] - other[1]) ** 2 for one, other in pairs) * 2 / len(scores)
    expected = sum((a - b) ** 2 for a in scores for b in scores) / (len(scores) * (len(scores) - 1))
    text = section(page, "agreement")
    assert f"preference {len(pairs)} {len(scores)} {100 * equal:.3g} %" in text
    assert f"{1 - observed / expected:.3f} {observed**0.5:.4g}" in text


def test_every_section_says_something_and_nothing_that_was_said_in_confidence(page: str) -> None:
    assert "SECRET" not in page
    assert "<img" not in page
    assert HOSTILE in section(page, "annotators")
    assert "3 packages" in section(page, "run")
    assert "checkpoint-900: step 900, saved, rank 0, 3 files" in section(page, "checkpoints")
    assert "07" * 32 in section(page, "checkpoints")
    assert "a file vanished or changed" not in section(page, "checkpoints")
    assert f"{STEPS * 6:,} completions" in section(page, "rollouts")
    integrity = section(page, "integrity")
    assert "Level: agrees with itself" in integrity
    assert "Complete: every lane is whole" in integrity
    assert "policy update 2,700 2,700 equal" in integrity
    assert "that these data trained any weights" in section(page, "not-proved")


def test_a_trail_with_several_runs_lists_them_and_takes_the_beginning_of_an_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_chdb()
    folder = tmp_path / "trail"
    with LocalTrail(folder) as opened:
        add_run(opened, run_events(run_id="alpha/1", steps=2, ranks=1), prefix="a")
        add_run(opened, run_events(run_id="beta", steps=3, ranks=1, is_ended=False), prefix="b")
    assert cli.main(["report", str(folder), "--no-memory"]) == 2
    said = capsys.readouterr().err
    assert "holds 2 runs" in said
    assert "alpha/1" in said
    assert "beta" in said
    assert cli.main(["report", str(folder), "gamma", "--no-memory"]) == 2
    assert "no run 'gamma'" in capsys.readouterr().err
    assert cli.main(["report", str(folder), "be", "--no-memory", "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "no end recorded yet by 1 of 1 ranks" in text
    assert "Only one rank recorded gradients" in section(text, "replicas")
    assert plots_of(text)["curve-loss"]["x"] == [1, 2, 3]
    assert cli.main(["report", str(folder), "alpha", "--no-memory"]) == 0
    written = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert written.parent == folder
    assert re.fullmatch(r"report-alpha_1-[0-9a-f]{8}\.html", written.name)


def test_feedback_without_any_run_has_a_page_too(tmp_path: Path) -> None:
    require_chdb()
    folder = tmp_path / "trail"
    write_trail(folder, [[annotation(number, item=f"item {number // 3}") for number in range(60)]])
    assert cli.main(["report", str(folder), "--no-memory"]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "no training run" in section(text, "run")
    assert "60 annotations by 3 named annotators" in section(text, "annotators")
    assert "score 20 60" in section(text, "agreement")
    assert "annotators" in plots_of(text)


def test_a_trail_that_was_changed_gets_a_page_that_says_so_and_exit_status_one(tmp_path: Path) -> None:
    require_chdb()
    folder = tmp_path / "trail"
    write_run(folder, run_events(run_id="run", steps=2, ranks=1))
    assert cli.main(["report", str(folder), "--no-memory"]) == 0
    segment = next((folder / "objects" / "segments").rglob("*.avro"))
    segment.chmod(0o600)
    segment.write_bytes(segment.read_bytes()[:-1])
    assert cli.main(["report", str(folder), "--no-memory"]) == 1
    text = (folder / "report-run.html").read_text(encoding="utf-8")
    assert "contradicted" in text.split("</header>")[0]
    assert "Level: agrees" not in text
