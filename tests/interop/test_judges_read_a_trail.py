"""Every log of a real trail, judged by programs nobody here wrote and by the second reader.

The forgeries of a trail that no log checker can see (a rollback, everything
sealed again with the real key) pass there and are refused by ``--expect``.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from interop.judge import judge_log
from oracle.second_reader import read_trail
from rlhf_audit_stores.keys import load_keys
from rlhf_audit_trail.cli import main
from rlhf_audit_trail.demo_data import judgements
from rlhf_audit_trail.forgeries import reseal, roll_back

pytestmark = pytest.mark.service

SHARED = Path(os.environ.get("RLHF_AUDIT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = SHARED / "derived" / "sxs_mqm_zhen_events.shared.jsonl.gz"
RATERS = 70  # the secret that routes them is drawn anew: that one of four lanes stays empty has a chance of 1 in 10^8
REAL_MAPPING = ["--map", "annotator=rater,judged_at=ts_ms,item=global_seg_id,axis.category=category,label=severity"]


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail of made-up judgements in every lane and, where the data is there, of 18,566 real ones."""
    folder = tmp_path_factory.mktemp("judged")
    made, spread = folder / "judgements.jsonl", folder / "spread.jsonl"
    made.write_text(judgements(3000), encoding="utf-8")
    one_each = ({"annotator": f"rater-{at}", "judged_at": 1_760_000_000 + at, "score": at % 5} for at in range(RATERS))
    spread.write_text("".join(json.dumps(row) + "\n" for row in one_each), encoding="utf-8")
    for source in (made, spread):
        assert main(["ingest", str(source), "--out", str(folder / "trail")]) == 0
    if REAL.exists():
        assert main(["ingest", str(REAL), "--out", str(folder / "trail"), *REAL_MAPPING]) == 0
    return folder / "trail"


def vkeys(trail: Path) -> dict[str, str]:
    """Verifier lines by key name, which is the origin of a log."""
    lines = (trail / "keys" / "log.vkey").read_text(encoding="ascii").split()
    return {line.split("+", 1)[0]: line for line in lines}


def logs(trail: Path) -> dict[str, Path]:
    """Folders of all logs that have a checkpoint, by origin."""
    found = [path.parent for path in sorted((trail / "objects").rglob("checkpoint"))]
    return {(folder / "checkpoint").read_text(encoding="utf-8").split("\n", 1)[0]: folder for folder in found}


def refuses(copy: Path, expected: Path) -> bool:
    """Whether ``verify`` refuses the copy once it is told a checkpoint of the original."""
    return main(["verify", str(copy), "--no-memory", "--expect", str(expected)]) == 1


def test_every_log_of_a_trail_is_accepted_by_foreign_programs(interop_binary: Path, trail: Path) -> None:
    known = vkeys(trail)
    assert len(logs(trail)) == 6, "the global log, the lifecycle's lane and the annotations' four"
    for origin, folder in logs(trail).items():
        verdicts = judge_log(interop_binary, folder, known[origin], prove=[0, 1])
        assert verdicts.all_accept, f"{origin}: {verdicts.said}"


def test_the_second_reader_accepts_the_same_trail(trail: Path) -> None:
    counts = read_trail(trail, next(iter(vkeys(trail).values())))
    assert counts.keys() - {"checkpoints"} == logs(trail).keys()
    assert main(["verify", str(trail), "--no-memory"]) == 0


def test_a_wrong_key_is_refused_by_foreign_programs(interop_binary: Path, trail: Path) -> None:
    known = vkeys(trail)
    origins = list(logs(trail))
    verdicts = judge_log(interop_binary, logs(trail)[origins[0]], known[origins[1]])
    assert not verdicts.fsck
    assert not verdicts.entries
    assert not verdicts.note


@pytest.mark.parametrize("forge", [roll_back, reseal], ids=["roll back", "re-seal"])
def test_what_log_checkers_cannot_see_the_kept_checkpoint_refuses(
    forge: object, interop_binary: Path, trail: Path, tmp_path: Path
) -> None:
    copy, kept = tmp_path / "copy", tmp_path / "kept.checkpoint"
    shutil.copytree(trail, copy)
    shutil.copy(trail / "objects" / "global" / "checkpoint", kept)
    assert callable(forge)
    forge(copy, load_keys(copy / "keys"))
    known = vkeys(copy)
    for origin, folder in logs(copy).items():
        assert judge_log(interop_binary, folder, known[origin]).all_accept
    assert main(["verify", str(copy), "--no-memory"]) == 0
    assert refuses(copy, kept)
