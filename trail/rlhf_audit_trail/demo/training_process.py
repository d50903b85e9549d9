"""The demo's training: two ranks under torchrun, in processes of their own, with their words in a file.

Nothing is downloaded: the hub is told to stay offline.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_trail.runtime_start import python_path
from rlhf_audit_trail.tied_process import TiedProcess

RANKS = 2
SCRIPT = Path(__file__).with_name("train.py")
NEEDED = ("torch", "transformers", "trl", "datasets", "accelerate", "chdb", "clickhouse_connect")
_LOOK_AGAIN_S = 0.2
_TAIL_LINES = 15
_STOP_S = 20.0


class TrainingError(AuditTrailError):
    """The training script, or what makes its model, failed; its log says why."""


def missing_packages() -> list[str]:
    """What would have to be installed for the training."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def make_model(pairs: Path, folder: Path, log: Path) -> str:
    """Make the model; returns a line about it. Raises TrainingError if that fails."""
    with log.open("ab") as errors:
        done = subprocess.run(  # noqa: S603 - our own module under the interpreter that runs us
            [sys.executable, "-P", "-m", "rlhf_audit_trail.demo.model", str(pairs), str(folder)],
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise TrainingError(f"the model could not be made, status {done.returncode}: see {log}")
    return done.stdout.strip().splitlines()[-1]


def torchrun_words(*, model: Path, pairs: Path, steps: int, out: Path) -> list[str]:
    """The command, as a user would type it."""
    return [
        "torchrun", "--standalone", f"--nproc-per-node={RANKS}", str(SCRIPT),
        "--model", str(model), "--pairs", str(pairs), "--steps", str(steps), "--out", str(out),
    ]  # fmt: skip


class Training:
    """A training that was started. A context manager: what still runs at the end is stopped."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.log = log
        self._process = TiedProcess([sys.executable, "-m", "torch.distributed.run", *words[1:]], log, _environment())

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()  # torchrun passes it on to its ranks
        self._process.wait(_STOP_S)
        self._process.end()

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Whether ``is_so`` came to be before the training ended or time ran out. Raises TrainingError if it failed."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            status = self._process.poll()
            if status:
                raise TrainingError(f"the training ended with status {status}; {self.log} ends:\n{_tail(self.log)}")
            if status == 0 or time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return True

    def wait(self, timeout_s: float, tell: Callable[[str], None]) -> None:
        """Until it has ended well, telling its last step again and again. Raises TrainingError if it did not."""

        def tell_step() -> bool:
            tell((progress_lines(self.log) or ["training"])[-1])
            return False

        self.wait_until(tell_step, timeout_s)
        if self._process.poll() is None:
            raise TrainingError(f"the training did not end within {timeout_s:.0f} s; {self.log} says how far it came")


def progress_lines(log: Path) -> list[str]:
    """What rank 0 said of its steps."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.startswith("step ")]


def added_lines() -> list[str]:
    """The lines of the script that record."""
    text = SCRIPT.read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if "# added line" in line]


def _environment() -> Mapping[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": python_path(),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
