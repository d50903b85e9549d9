"""``rlhf-audit report`` on sealed trails through the real engine: numbers, limits, runs to choose from, verdicts."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Callable
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


def changed(events: list[Event], kind: str, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> list[Event]:
    """Events with those of a kind changed; ``change`` gets rank and record."""
    return [(name, rank, record if name != kind else change(rank, dict(record))) for name, rank, record in events]


def test_parts_of_sharded_gradients_are_added_up_and_what_is_not_finite_is_marked(tmp_path: Path) -> None:
    require_chdb()
    events = run_events(run_id="shards", steps=4, layers=1, ranks=2)
    count = len(tensors_of(1)[0])
    events = changed(events, "tensor_table", lambda rank, record: record | {"placements": ["shard"] * count})

    def shard(rank: int, record: dict[str, Any]) -> dict[str, Any]:
        squares = numpy.full(count, 9.0 if rank else 16.0)
        broken = numpy.zeros(count, "<i8")
        if rank and record["step"] == 3:
            squares[0], broken[0] = numpy.nan, 5
        packed = {"squared_norm_f64le": squares.tobytes(), "non_finite_i64le": broken.tobytes()}
        return record | packed | {"placement": "shard"}

    def update(rank: int, record: dict[str, Any]) -> dict[str, Any]:
        return record | ({"loss": float("nan")} if record["step"] == 2 else {})

    write_run(tmp_path / "trail", changed(changed(events, "gradient_stats", shard), "policy_update", update))
    assert cli.main(["report", str(tmp_path / "trail"), "--no-memory"]) == 0
    page = (tmp_path / "trail" / "report-shards.html").read_text(encoding="utf-8")
    grid = grid_of(plots_of(page)["gradients"], 0)
    assert grid[0].tolist() == [5.0, 5.0, numpy.inf, 5.0]
    assert grid[1].tolist() == pytest.approx([75**0.5] * 4)  # three tensors of 9 + 16 each
    assert "not finite in 1 cells" in section(page, "gradients")
    assert "added up over the ranks" in section(page, "gradients")
    assert "no replica to compare" in section(page, "replicas")
    assert plots_of(page)["curve-loss"]["x"] == [1, 3, 4]
    assert "The loss was not finite in 2 updates" in section(page, "curves")


def test_a_step_made_again_after_a_restart_counts_once(tmp_path: Path) -> None:
    require_chdb()
    before = run_events(run_id="again", steps=5, ranks=2, is_ended=False, annotators=0)
    after = [one for one in run_events(run_id="again", steps=6, ranks=2, annotators=0) if one[2].get("step", 9) > 3]
    after = changed(after, "policy_update", lambda rank, record: record | {"loss": 7.0})
    with LocalTrail(tmp_path / "trail") as trail:
        add_run(trail, before)
        add_run(trail, after, first_epoch=1)
    assert cli.main(["report", str(tmp_path / "trail"), "--no-memory"]) == 0
    page = (tmp_path / "trail" / "report-again.html").read_text(encoding="utf-8")
    spec = plots_of(page)["curve-loss"]
    assert spec["x"] == [1, 2, 3, 4, 5, 6]
    assert spec["series"][0]["mean"][3:] == [7.0, 7.0, 7.0]
    assert "4 updates are of steps made again" in section(page, "curves")
    assert "2 ranks state the same statistics, to the last bit, in all 6 steps compared" in section(page, "replicas")


def test_more_layers_than_rows_share_rows_and_the_largest_is_shown(tmp_path: Path) -> None:
    require_chdb()
    events = run_events(run_id="deep", steps=2, layers=300, ranks=1, annotators=0)
    write_run(tmp_path / "trail", events)
    assert cli.main(["report", str(tmp_path / "trail"), "--no-memory"]) == 0
    spec = plots_of((tmp_path / "trail" / "report-deep.html").read_text(encoding="utf-8"))["gradients"]
    assert len(spec["rows"]) == 151
    assert spec["rows"][1] == "model.layers.1 to model.layers.2"
    stats = [record for kind, _, record in events if kind == "gradient_stats"]
    squares = numpy.frombuffer(stats[0]["squared_norm_f64le"], "<f8")[4:10].reshape(2, 3).sum(axis=1)
    assert grid_of(spec, 0)[1, 0] == pytest.approx(squares.max() ** 0.5, rel=1e-6)
