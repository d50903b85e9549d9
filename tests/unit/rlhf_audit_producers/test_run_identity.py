"""Which run and which rank: the first source that says something wins, and all ranks find the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_audit_producers.run_identity import identify
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.disk import RealDisk


def run_of(tmp_path: Path, run_id: str | None = None, **environ: str) -> str:
    return identify(tmp_path, RealDisk(), run_id=run_id, environ=environ).run_id


def test_the_first_source_that_says_something_wins(tmp_path: Path) -> None:
    said = {"RLHF_AUDIT_RUN_ID": "inherited", "TORCHELASTIC_RUN_ID": "elastic", "SLURM_JOB_ID": "17"}
    assert run_of(tmp_path, "given", **said) == "given"
    assert run_of(tmp_path, **said) == "inherited"
    del said["RLHF_AUDIT_RUN_ID"]
    assert run_of(tmp_path, **said) == "elastic"
    assert run_of(tmp_path, **said | {"TORCHELASTIC_RUN_ID": "none"}) == "slurm-17"


def test_a_restart_under_torchrun_is_the_same_run(tmp_path: Path) -> None:
    first = run_of(tmp_path, TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT="0")
    assert run_of(tmp_path, TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT="1") == first


def test_ranks_with_one_parent_find_the_name_that_was_made_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlhf_audit_producers.run_identity import identify;"
        "from rlhf_audit_stores.disk import RealDisk;"
        "print(identify(Path(sys.argv[1]), RealDisk()).run_id)"
    )

    def rank(number: int) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_AUDIT_")}
        environ |= {"RANK": str(number), "TORCHELASTIC_RUN_ID": "none", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)

    said = [process.communicate()[0] for process in [rank(0), rank(1), rank(2)]]
    assert len(set(said)) == 1
    assert said[0].strip()


def process_group(rank: int, world_size: int) -> SimpleNamespace:
    """What torch looks like to a rank without a launcher."""
    distributed = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_rank=lambda: rank,
        get_world_size=lambda: world_size,
    )
    return SimpleNamespace(distributed=distributed)


def test_ranks_that_only_torch_knows_find_the_name_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run_of(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", process_group(1, 2))
    found = identify(tmp_path, RealDisk(), environ={})
    assert (found.rank, found.world_size) == (1, 2)
    assert found.run_id == run_of(tmp_path, RANK="0") != alone
    monkeypatch.setitem(sys.modules, "torch", process_group(0, 1))
    assert run_of(tmp_path) == alone


def test_two_programs_without_any_id_are_two_runs(tmp_path: Path) -> None:
    assert run_of(tmp_path) == run_of(tmp_path), "one process is one run"
    assert run_of(tmp_path) != run_of(tmp_path, RANK="0"), "another parent process is another run"


def test_rank_and_world_size_come_from_the_launcher(tmp_path: Path) -> None:
    found = identify(tmp_path, RealDisk(), run_id="r", environ={"RANK": "3", "WORLD_SIZE": "8"})
    assert (found.rank, found.world_size, found.producer) == (3, 8, "r/3")
    slurm = identify(tmp_path, RealDisk(), run_id="r", environ={"SLURM_PROCID": "2", "SLURM_NTASKS": "4"})
    assert (slurm.rank, slurm.world_size) == (2, 4)
    given = identify(tmp_path, RealDisk(), run_id="r", rank=1, world_size=2, environ={"RANK": "3"})
    assert (given.rank, given.world_size) == (1, 2)
    alone = identify(tmp_path, RealDisk(), run_id="r", environ={})
    assert (alone.rank, alone.world_size) == (0, 1)


def test_without_a_disk_the_name_that_is_made_is_of_this_process_alone(tmp_path: Path) -> None:
    names = {identify(tmp_path / "runs", None, environ={}).run_id for _ in range(2)}
    assert len(names) == 2
    assert identify(tmp_path, None, environ={"TORCHELASTIC_RUN_ID": "job"}).run_id == "job"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("run_id", ["", "a b", "x" * 161, "a\n", "\ud800"])
def test_an_id_that_cannot_be_one_is_refused(run_id: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run id"):
        identify(tmp_path, RealDisk(), run_id=run_id, environ={})


def test_a_rank_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RANK"):
        identify(tmp_path, RealDisk(), run_id="r", environ={"RANK": "two"})
    with pytest.raises(ConfigError, match="rank"):
        identify(tmp_path, RealDisk(), run_id="r", rank=-1, environ={})
