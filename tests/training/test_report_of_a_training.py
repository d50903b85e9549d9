"""The report of a real training on two ranks: what the trainer logged, what both ranks measured, what was saved."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

from training import tiny

tiny.need("torch", "transformers", "trl", "datasets")

EXAMPLES = Path(__file__).parents[2] / "examples"
MAKE_MODEL = "import sys; from pathlib import Path; from _tiny import model_in; model_in(Path(sys.argv[1]))"
STEPS = 8


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_a_training_on_two_ranks_is_on_its_page(tmp_path: Path) -> None:
    tiny.need_now("chdb", "clickhouse_connect", "trl", "datasets")
    run("-c", MAKE_MODEL, str(tmp_path / "model"))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    output = run(*torchrun, str(EXAMPLES / "dpo.py"), str(tmp_path)).stdout
    trail = tmp_path / "audit"
    deadline = time.monotonic() + 60
    while "another runtime" in run("-m", "rlhf_audit_trail", "local", "--until-idle", str(trail)).stderr:
        assert time.monotonic() < deadline, "the runtime of the training does not end"
        time.sleep(0.2)
    written = run("-m", "rlhf_audit_trail", "report", str(trail), "--no-memory").stdout.strip()
    page = Path(written).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    plots = json.loads(found[1])
    logged = [float(one) for one in re.findall(r"'loss': '?([0-9.]+)", output)]
    assert len(logged) == STEPS
    (loss,) = plots["curve-loss"]["series"]
    assert plots["curve-loss"]["x"] == list(range(1, STEPS + 1))
    assert [f"{value:.3g}" for value in loss["mean"]] == [f"{value:.3g}" for value in logged]
    assert {"curve-margin", "curve-accuracy", "curve-rewards", "gradients", "annotators"} <= set(plots)
    assert plots["gradients"]["x"]["count"] == STEPS
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", page.split("<main>")[1].split("<script")[0])).split())
    assert "2 ranks state the same statistics, to the last bit, in all 8 steps compared." in text
    assert "World size 2" in text
    assert "8 annotations by 1 named annotator" in text
    assert "model.safetensors" in text
    assert "Complete: every lane is whole and has its end." in text
    assert "Explain tides" not in page
