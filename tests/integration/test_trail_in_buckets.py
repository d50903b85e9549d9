"""A trail whose objects and vault lie in buckets of a real S3 server: checked, read and rebuilt from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contract.versitygw import Gateway, running_gateway
from query_copies import annotation, require_chdb, write_trail
from rlhf_audit_auditor import jobs
from rlhf_audit_trail import cli

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("default")]  # what the engine warns of is not ours

PLACES = ("--objects-url", "s3://audit/trail", "--vault-url", "s3://audit-vault/trail")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("s3")) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Moved:
    """A trail without objects and vault, where they lie now, and what was said of it when it was one folder."""

    trail: Path
    objects: Path
    before: dict[str, Any]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> Any:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def moved(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Moved:
    monkeypatch.setenv("RLHF_AUDIT_STATE", str(tmp_path / "state"))
    for name, value in (gateway.environment() | {"AWS_ALLOW_HTTP": "true"}).items():
        monkeypatch.setenv(name, value)
    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(7)], [annotation(8)]])
    before = {"verify": said(capsys, "verify", str(trail), "--no-memory")}
    before["tail"] = tail(capsys, trail)
    for bucket, folder in (("audit", "objects"), ("audit-vault", "vault")):
        gateway.bucket(bucket)
        shutil.rmtree(gateway.data / bucket / "trail", ignore_errors=True)
        shutil.move(trail / folder, gateway.data / bucket / "trail")
    return Moved(trail, gateway.data / "audit" / "trail", before)


def tail(capsys: pytest.CaptureFixture[str], trail: Path) -> str:
    capsys.readouterr()
    assert cli.main(["tail", str(trail), "--no-follow", "--json"]) == 0
    return capsys.readouterr().out


def configure(trail: Path) -> None:
    (trail / "config.toml").write_text(
        'objects_url = "s3://audit/trail"\nvault_url = "s3://audit-vault/trail"\n', encoding="utf-8"
    )


@pytest.mark.parametrize("small", [jobs.SMALL_ENTRIES, 0], ids=["one process", "several"])
def test_verify_reads_buckets_and_finds_what_it_found_in_folders(
    moved: Moved, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(jobs, "SMALL_ENTRIES", small)
    report = said(capsys, "verify", str(moved.trail), *PLACES, "--no-memory", "--jobs", "2")
    for name in ("status", "ledger", "payloads", "complete", "partitions", "object_bytes"):
        assert report[name] == moved.before["verify"][name], name
    assert report["payloads"]["rehashed"] > 0


def test_verify_does_not_believe_the_configuration_that_lies_in_the_trail_and_says_what_to_do(
    moved: Moved, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(moved.trail)
    assert cli.main(["verify", str(moved.trail)]) == 3
    assert "--objects-url" in capsys.readouterr().err


def test_a_changed_or_missing_object_in_a_bucket_is_found(moved: Moved, capsys: pytest.CaptureFixture[str]) -> None:
    segment = next((moved.objects / "segments" / "annotations").rglob("*.avro"))
    data = segment.read_bytes()
    segment.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    assert said(capsys, "verify", str(moved.trail), *PLACES, status=1)["status"] == "contradicted"
    segment.unlink()
    assert said(capsys, "verify", str(moved.trail), *PLACES, status=1)["status"] == "contradicted"


def test_a_store_that_refuses_or_is_not_there_is_neither_fine_nor_tampered(
    moved: Moved, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert cli.main(["verify", str(moved.trail), *PLACES]) == 2
        assert "refuses this bucket or these credentials: SignatureDoesNotMatch" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert cli.main(["verify", str(moved.trail), *PLACES]) == 3


def test_status_tail_sql_report_and_restore_read_what_the_settings_name(
    moved: Moved, capsys: pytest.CaptureFixture[str]
) -> None:
    require_chdb()
    configure(moved.trail)
    trail = str(moved.trail)
    assert tail(capsys, moved.trail) == moved.before["tail"]
    state = said(capsys, "status", trail)
    assert [each["windows"] for each in state["partitions"]] == [1, 1]
    assert [each["copied"] for each in state["partitions"]] == [1, 1]
    assert said(capsys, "sql", trail, "SELECT count() AS n FROM annotation") == [{"n": 8}]
    assert said(capsys, "restore", trail)["is_complete"]
    assert said(capsys, "sql", trail, "SELECT count() AS n FROM annotation") == [{"n": 8}]
    assert cli.main(["report", trail, "--no-memory"]) == 0
    assert not (moved.trail / "objects").exists()
