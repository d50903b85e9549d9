"""``rlhf-audit verify`` and ``forge`` as a person types them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from rlhf_audit_trail.cli import main


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail of two ingests."""
    folder = tmp_path_factory.mktemp("honest")
    for name in ("one", "two"):
        source = folder / f"{name}.csv"
        source.write_text(
            "annotation_id,annotator,score\n" + "".join(f"{name}{n},r{n % 5},{n % 3}\n" for n in range(90))
        )
        assert main(["ingest", str(source), "--out", str(folder / "trail"), "--progress", "off"]) == 0
    return folder / "trail"


@pytest.fixture
def trail(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work on, and a verifier without a past."""
    monkeypatch.setenv("RLHF_AUDIT_STATE", str(tmp_path / "state"))
    shutil.copytree(honest, tmp_path / "trail", ignore=shutil.ignore_patterns("spool"))
    return tmp_path / "trail"


def digest(folder: Path) -> str:
    """Names and contents of everything in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def test_it_says_the_verdict_first_then_what_is_and_is_not_proved(
    trail: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(trail)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].startswith("verified")
    assert "shows only that the trail agrees with itself" in lines[1]
    assert "180 annotation" in out
    assert out.index("not proved") > out.index("proved")
    assert "\x1b" not in out
    assert "r1" not in out  # no annotator


def test_the_second_time_it_extends_what_it_remembered(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(trail)]) == 0
    capsys.readouterr()
    assert main(["verify", str(trail), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["level"] == "extends a checkpoint known before"
    assert main(["verify", str(trail), "--json", "--no-memory"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == "agrees with itself"


def test_key_and_checkpoint_from_elsewhere(trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, kept = tmp_path / "kept.vkey", tmp_path / "kept.checkpoint"
    shutil.copy(trail / "keys" / "log.vkey", key)
    shutil.copy(trail / "objects" / "global" / "checkpoint", kept)
    shutil.rmtree(trail / "keys")
    shutil.rmtree(trail / "vault")
    assert main(["verify", str(trail), "--key", str(key), "--no-memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == "key from elsewhere"
    assert main(["verify", str(trail), "--key", str(key), "--expect", str(kept), "--no-memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["level"] == "extends a checkpoint known before"
    assert main(["verify", str(trail), "--require", "payload"]) == 3


def test_payloads_in_another_folder(trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trail / "vault").rename(tmp_path / "payloads")
    assert main(["verify", str(trail), "--no-memory"]) == 3
    capsys.readouterr()
    assert main(["verify", str(trail), "--no-memory", "--vault", str(tmp_path / "payloads"), "--json"]) == 0
    payloads = json.loads(capsys.readouterr().out)["payloads"]
    assert payloads["rehashed"] == payloads["messages"] > 0
    assert main(["verify", str(trail), "--no-memory", "--log-only"]) == 0


def test_a_tampered_trail_exits_1_and_names_the_place(trail: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = next((trail / "objects" / "segments").rglob("*.avro"))
    segment.write_bytes(segment.read_bytes()[:-1])
    assert main(["verify", str(trail)]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("CONTRADICTED")
    assert segment.relative_to(trail / "objects").as_posix() in out


@pytest.mark.parametrize(
    "arguments",
    [["--require", "everything"], ["--jobs", "0"], ["--log-only", "--require", "payload"], ["--expect", "missing"]],
)
def test_arguments_that_make_no_sense_exit_2(trail: Path, arguments: list[str]) -> None:
    assert main(["verify", str(trail), *arguments]) == 2


def test_nothing_there_exits_3(tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path)]) == 3
    assert main(["verify", str(tmp_path / "missing")]) == 3


def test_several_processes_find_the_same(trail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_audit_auditor import jobs
    from rlhf_audit_auditor.opening import open_trail
    from rlhf_audit_auditor.verify import Options, verify

    monkeypatch.setattr(jobs, "SMALL_ENTRIES", 1)
    segment = next((trail / "objects" / "segments").rglob("*.avro"))
    segment.write_bytes(segment.read_bytes()[:-1])
    counted: list[int] = []
    one = verify(open_trail(trail), Options())
    two = verify(open_trail(trail), Options(jobs=2, progress=counted.append))
    assert one.findings == two.findings != []
    assert sum(counted) > 0


def test_forge_shows_each_forgery_and_leaves_the_trail_alone(
    trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digest(trail)
    assert main(["forge", str(trail), "--out", str(tmp_path / "forged")]) == 0
    out = capsys.readouterr().out
    assert digest(trail) == before
    assert out.count("as it should") == 8
    assert "WRONG" not in out
    assert sorted(path.name for path in (tmp_path / "forged").iterdir()) == [
        "change-a-byte",
        "cut-the-end",
        "drop-a-window",
        "re-seal",
        "roll-back",
        "swap-two-objects",
    ]
    resealed = tmp_path / "forged" / "re-seal"
    key = ["--key", str(trail / "keys" / "log.vkey"), "--vault-key", str(trail / "keys" / "vault.key")]
    assert main(["verify", str(resealed), "--no-memory", *key]) == 0
    assert main(["verify", str(trail)]) == 0
    assert main(["verify", str(resealed), *key]) == 1  # the remembered checkpoint


def test_forge_finds_a_vault_that_lies_elsewhere(
    trail: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(trail, tmp_path / "moved")
    (moved / "vault").rename(tmp_path / "elsewhere")
    (moved / "config.toml").write_text('vault_dir = "../elsewhere"\n', encoding="utf-8")
    assert main(["forge", str(moved)]) == 0
    assert capsys.readouterr().out.count("as it should") == 8


def test_forge_without_a_ledger_has_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forge", str(tmp_path)]) == 3
    assert "holds no ledger" in capsys.readouterr().err


def test_forge_refuses_to_write_into_the_trail(trail: Path) -> None:
    assert main(["forge", str(trail), "--out", str(trail / "forged")]) == 2
