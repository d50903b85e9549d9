"""The README's "Record a training", run as it stands there: its code, then its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from training import tiny

tiny.need("torch", "trl", "datasets", "chdb", "clickhouse_connect")

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Record a training")[2].partition("\n## ")[0]
CODE = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
BEFORE = {
    "DPOTrainer": """
from pathlib import Path
from training import tiny
from trl import DPOConfig, DPOTrainer
tiny.save_model(Path("model").absolute())
model, tokenizer = tiny.load(Path("model").absolute())
args, dataset = DPOConfig(**tiny.settings(Path("out"))), tiny.pairs(8)
""",
    "watch": """
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = torch.randn(3, 2, 4)
def loss_of(model, batch):
    return model(batch).square().mean()
""",
    "log_annotations": "",
}


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_its_code_records_and_its_commands_answer(tmp_path: Path) -> None:
    assert len(CODE) == len(BEFORE)
    for (word, before), code in zip(BEFORE.items(), CODE, strict=True):
        assert word in code
        run(["-c", before + code], tmp_path)
    run(["-m", "rlhf_audit_trail", "local", "./my-run", "--until-idle"], tmp_path)
    commands = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    assert len(commands) == 1
    for line in commands[0].splitlines():
        name, *arguments = shlex.split(line, comments=True)[1:]
        if name == "dashboard":
            continue  # serves until Ctrl-C: tests/integration/test_report_in_chromium.py
        runs = ["--help"] if name == "report" else []  # several runs here: it asks which one
        answer = run(
            ["-m", "rlhf_audit_trail", name, *arguments, *runs, *(["--no-follow"] if name == "tail" else [])], tmp_path
        )
        assert answer.stdout
