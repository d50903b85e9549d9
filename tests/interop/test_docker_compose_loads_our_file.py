"""The loader inside `docker compose` reads docker-compose.yml: what a person would meet first, without Docker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.service

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def loader() -> Path:
    binary = HERE / "bin" / "composefile"
    go = shutil.which("go")
    reason = "no go on the path"
    if go is not None:
        built = subprocess.run(
            [go, "build", "-trimpath", "-buildvcs=false", "-o", str(binary), "."],
            cwd=HERE / "composefile",
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode == 0:
            return binary
        reason = f"go build of tests/interop/composefile failed: {built.stderr[-2000:]}"
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    path = tmp_path / "env"
    path.write_text(text.replace("AUDIT_CLUSTER_ID=", "AUDIT_CLUSTER_ID=bm90IGEgc2VjcmV0IGF0Lg"), encoding="utf-8")
    return path


def load(loader: Path, file: Path, environment: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [loader, file, environment],
        env={"PATH": os.environ["PATH"], "HOME": str(environment.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_file_is_accepted_and_resolves_to_what_is_written(loader: Path, environment: Path) -> None:
    done = load(loader, FILE, environment)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    assert services["sink-clickhouse"]["user"] == "1000:1000"
    assert services["sink-clickhouse"]["depends_on"].keys() == {"topics", "clickhouse"}
    assert services["ship"]["environment"]["RLHF_AUDIT_BROKERS"] == "kafka:9092"
    assert services["alertmanager"]["command"][-1] == "--cluster.listen-address="
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())
    assert "$" not in done.stdout.replace("$$", "")


def test_without_the_prepared_environment_it_says_what_to_run(loader: Path, tmp_path: Path) -> None:
    empty = tmp_path / "env"
    empty.write_text("", encoding="utf-8")
    done = load(loader, FILE, empty)
    assert done.returncode == 1
    assert "run deploy/prepare.sh" in done.stderr


def test_the_loader_refuses_a_key_that_compose_does_not_know(loader: Path, environment: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    text = FILE.read_text(encoding="utf-8")
    wrong.write_text(text.replace("    hostname: kafka\n", "    host_name: kafka\n"), encoding="utf-8")
    done = load(loader, wrong, environment)
    assert done.returncode == 1
    assert "host_name" in done.stderr
