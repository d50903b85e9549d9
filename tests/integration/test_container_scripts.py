"""What runs in and around the containers is plain shell and Python: here without containers, on the real programs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from base64 import urlsafe_b64decode
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from contract.versitygw import _program as versitygw
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.keys import read_private_text

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def prepare(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "deploy/prepare.sh"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The few files that the script needs."""
    (tmp_path / "deploy/clickhouse").mkdir(parents=True)
    shutil.copy(DEPLOY / "prepare.sh", tmp_path / "deploy")
    shutil.copy(DEPLOY / "clickhouse/users.xml.in", tmp_path / "deploy/clickhouse")
    shutil.copy(ROOT / ".env.example", tmp_path)
    return tmp_path


def me() -> dict[str, str]:
    return {"AUDIT_UID": str(os.getuid()), "AUDIT_GID": str(os.getgid())}


def test_prepare_makes_secrets_that_only_their_owner_reaches_and_prints_none(checkout: Path) -> None:
    done = prepare(checkout, **me())
    assert done.returncode == 0, done.stderr
    secrets = checkout / "deploy/secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    values = {path.name: path.read_text(encoding="ascii") for path in secrets.iterdir()}
    assert set(values) == {
        "s3_access_key", "s3_secret_key", "clickhouse_sink_password", "clickhouse_grafana_password",
        "clickhouse_users.xml", "grafana_admin_password",
    }  # fmt: skip
    plain = [value for name, value in values.items() if not name.endswith(".xml")]
    assert len(set(plain)) == len(plain)
    assert all(len(value) >= 16 for value in plain)
    assert not any(value in done.stdout + done.stderr for value in plain)
    for name in ("s3_access_key", "s3_secret_key", "clickhouse_sink_password"):
        assert read_private_text(secrets / name) == values[name]
    users = ET.fromstring(values["clickhouse_users.xml"])  # noqa: S314 - made above
    for user in ("sink", "grafana"):
        hashed = hashlib.sha256(values[f"clickhouse_{user}_password"].encode()).hexdigest()
        assert users.findtext(f"users/{user}/password_sha256_hex") == hashed


def test_prepare_writes_an_environment_for_this_user_and_a_cluster_of_its_own(checkout: Path) -> None:
    prepare(checkout, **me(), AUDIT_TRAIL="./my-trail")
    found = dict(re.findall(r"^(\w+)=(.*)$", (checkout / ".env").read_text(encoding="utf-8"), re.M))
    assert found["AUDIT_UID"] == str(os.getuid())
    assert found["AUDIT_TRAIL"] == "./my-trail"
    assert (checkout / "my-trail").is_dir()
    assert (checkout / found["AUDIT_NODE"]).is_dir()
    assert len(urlsafe_b64decode(found["AUDIT_CLUSTER_ID"] + "==")) == 16


def test_prepare_keeps_what_is_there(checkout: Path) -> None:
    prepare(checkout, **me())
    files = [checkout / ".env", *(checkout / "deploy/secrets").iterdir()]
    before = {path: path.read_bytes() for path in files}
    assert prepare(checkout, **me()).returncode == 0
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be refused as root")
def test_prepare_refuses_to_make_root_the_owner(checkout: Path) -> None:
    done = prepare(checkout)
    assert done.returncode == 2
    assert not (checkout / ".env").exists()


def test_the_entry_of_a_worker_reads_keys_from_files_and_takes_its_place(tmp_path: Path) -> None:
    program = tmp_path / "rlhf-audit"
    program.write_text(
        '#!/bin/sh\necho "$AWS_ACCESS_KEY_ID|$AWS_SECRET_ACCESS_KEY|${AWS_ACCESS_KEY_ID_FILE:-none}|$*|$$"\n'
    )
    program.chmod(0o755)
    for name, text in (("id", "audit-1"), ("secret", "a b'c\n")):
        (tmp_path / name).write_text(text, encoding="ascii")
    started = subprocess.Popen(
        [DEPLOY / "docker/worker.sh", "seal", "/trail", "--stream", "two words"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "AWS_ACCESS_KEY_ID_FILE": str(tmp_path / "id"),
            "AWS_SECRET_ACCESS_KEY_FILE": str(tmp_path / "secret"),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = started.communicate(timeout=10)
    assert out == f"audit-1|a b'c|none|seal /trail --stream two words|{started.pid}\n"


def test_the_entry_of_a_worker_ends_when_a_key_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [DEPLOY / "docker/worker.sh", "seal"],
        env={"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID_FILE": str(tmp_path / "nothing")},
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0


def healthy(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "docker/healthy.py"],
        env={"RLHF_AUDIT_METRICS_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_health_check_follows_the_worker() -> None:
    now = [0.0]
    health = WorkerHealth("seal", monotonic=lambda: now[0])
    with health.serve() as server:
        assert healthy(server.port).returncode == 0
        now[0] = 60.0
        stuck = healthy(server.port)
        assert (stuck.returncode, stuck.stdout) == (1, "no turn for 60 s\n")
    assert healthy(server.port).returncode == 1


@pytest.mark.service
def test_the_object_store_starts_with_its_buckets_and_refuses_a_wrong_key(tmp_path: Path) -> None:
    program = versitygw()
    for name, text in (("access", "audit-key"), ("secret", "only-on-loopback")):
        (tmp_path / name).write_text(text, encoding="ascii")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [DEPLOY / "docker/objects.sh"],
        env={
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "ROOT_ACCESS_KEY_FILE": str(tmp_path / "access"),
            "ROOT_SECRET_KEY_FILE": str(tmp_path / "secret"),
            "OBJECTS_ROOT": str(tmp_path / "objects"),
            "BUCKETS": "evidence vault",
            "VGW_PORT": f"127.0.0.1:{port}",
            "VGW_HEALTH": "/health",
            "VGW_QUIET": "true",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def bucket(name: str, secret: str) -> S3Store:
        return S3Store(
            name,
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id="audit-key",
            secret_access_key=secret,
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
            virtual_hosted_style_request=False,
        )

    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as page:
                    page.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    assert b" 200 " in page.recv(200)
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.05)
        for name in ("evidence", "vault"):
            obstore.put(bucket(name, "only-on-loopback"), "a/b", b"bytes", mode="create", use_multipart=False)
            assert bytes(obstore.get(bucket(name, "only-on-loopback"), "a/b").bytes()) == b"bytes"
        with pytest.raises(obstore.exceptions.BaseError):
            obstore.get(bucket("evidence", "wrong"), "a/b")
    finally:
        server.terminate()
        server.wait(10)
