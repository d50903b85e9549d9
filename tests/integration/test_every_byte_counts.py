"""200 single-byte changes to real trails, a control run before and after each: each is refused, naming the place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flipping import Flip, flips, strata
from rlhf_audit_trail.cli import main
from verifying import report_of

SEED = 20_251_125
SMALL, LARGE = 185, 15


def ingest(trail: Path, name: str, rows: int) -> None:
    source = trail.parent / f"{name}.jsonl"
    lines = [
        f'{{"annotation_id":"{name}-{n}","annotator":"r{n % 13}","item":"i{n // 3}","score":{n % 5}}}\n'
        for n in range(rows)
    ]
    source.write_text("".join(lines), encoding="utf-8")
    assert main(["ingest", str(source), "--out", str(trail), "--progress", "off"]) == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three windows in each of several partitions; full and partial bundles and tiles."""
    trail = tmp_path_factory.mktemp("small") / "trail"
    for name, rows in (("a", 700), ("b", 900), ("c", 40)):
        ingest(trail, name, rows)
    return trail


def refused(trail: Path, flip: Flip) -> str | None:
    """None if the change is refused with its place and the trail is whole again after it; else what went wrong."""
    honest = flip.path.read_bytes()
    changed = bytearray(honest)
    changed[flip.at] ^= flip.mask
    flip.path.write_bytes(changed)
    try:
        report = report_of(trail)
    finally:
        flip.path.write_bytes(honest)
    control = report_of(trail)
    if control.exit_code != 0:
        return f"{flip}: control run after it exits {control.exit_code}"
    if report.exit_code != 1:
        return f"{flip}: exits {report.exit_code}"
    if not any(place_of(trail, flip.path) in finding.place for finding in report.findings):
        return f"{flip}: no finding names {place_of(trail, flip.path)}"
    return None


def place_of(trail: Path, path: Path) -> str:
    """The log that a finding about this file must name."""
    parts = path.relative_to(trail).parts
    if parts[1] == "global":
        return "global/"
    return "/".join(parts[1:3] if parts[0] == "vault" else parts[2:4])


def check(trail: Path, count: int) -> Counter[str]:
    assert report_of(trail).exit_code == 0
    tried: Counter[str] = Counter()
    wrong = []
    for flip in flips(trail, count, SEED):
        tried[flip.stratum] += 1
        if (what := refused(trail, flip)) is not None:
            wrong.append(what)
    assert wrong == []
    return tried


def test_every_class_of_object_and_every_field_of_a_checkpoint_is_protected(small: Path) -> None:
    tried = check(small, SMALL)
    assert set(tried) == set(strata(small))
    assert sum(tried.values()) == SMALL
    assert {"partition full bundle", "partition partial bundle", "partition full tile of level 0", "vault"} <= set(
        tried
    )


def test_tiles_of_every_level_are_protected(tmp_path: Path) -> None:
    """Past 65,536 entries a log has full tiles on level 1 and a partial one on level 2."""
    trail = tmp_path / "trail"
    source = tmp_path / "one.csv"
    source.write_text("annotation_id,annotator,score\n" + "".join(f"a{n},r,{n % 5}\n" for n in range(66_000)))
    assert main(["ingest", str(source), "--out", str(trail), "--progress", "off"]) == 0
    names = [name for name in strata(trail) if "tile of level" in name and name.startswith("partition")]
    assert {f"partition full tile of level {level}" for level in (0, 1)} <= set(names)
    assert "partition partial tile of level 2" in names
    chosen = [flip for flip in flips(trail, 400, SEED) if flip.stratum in names][:LARGE]
    assert {flip.stratum for flip in chosen} == set(names)
    assert [what for flip in chosen if (what := refused(trail, flip)) is not None] == []
