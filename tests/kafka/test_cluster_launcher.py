"""The launcher: brokers that serve, that come back, and that never outlive the process they are tied to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_audit_stores.kafka.topics import admin_client
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from rlhf_audit_trail.kafka_processes import Process

pytestmark = pytest.mark.service

ORPHAN = """
import sys
from pathlib import Path
from rlhf_audit_trail.kafka_cluster import KafkaCluster
cluster = KafkaCluster(Path(sys.argv[1]))
cluster.up()
print(cluster.pids()[1], flush=True)
sys.stdin.read()
"""


def run(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlhf_audit_trail", "kafka", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment(), check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def ended(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while Process.of(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_one_broker_serves_with_the_id_it_was_formatted_with(kafka: KafkaCluster) -> None:
    client, _ = admin_client(kafka.settings())
    cluster = client.describe_cluster(request_timeout=10).result(timeout=11)
    written = json.loads((kafka.directory / "cluster.json").read_text(encoding="utf-8"))
    assert cluster.cluster_id == written["cluster_id"]
    assert kafka.status()["ready"] is True


def test_a_broker_dies_with_the_process_it_is_tied_to(kafka: KafkaCluster, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path / "c")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Process.of(pid) is not None
        parent.kill()
        assert ended(pid, within_s=60)


def test_three_brokers_come_back_to_full_isr_after_a_kill(three_brokers: KafkaCluster) -> None:
    from confluent_kafka.cimpl import NewTopic

    client, _ = admin_client(three_brokers.settings())
    asked = client.create_topics([NewTopic("t", num_partitions=3, replication_factor=3)], request_timeout=30)
    asked["t"].result(timeout=31)
    three_brokers.kill(2)
    assert three_brokers.pids()[2] is None
    three_brokers.start(2)
    three_brokers.wait_ready()
    partitions = client.list_topics("t", timeout=10).topics["t"].partitions
    assert [len(partition.isrs) for partition in partitions.values()] == [3, 3, 3]


def test_topics_on_three_brokers_stand_three_times_and_two_disks_acknowledge(
    three_brokers: KafkaCluster, topic_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf_audit_trail.cli import main

    flags = ["--brokers", three_brokers.bootstrap, "--topic-prefix", topic_prefix, "--json"]
    assert main(["topics", "apply", str(tmp_path / "trail"), *flags]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["problems"], len(said["begun"])) == ([], 13)
    client, _ = admin_client(three_brokers.settings())
    topics = client.list_topics(timeout=10).topics
    for name in said["created"]:
        assert {len(partition.replicas) for partition in topics[name].partitions.values()} == {3}
    assert main(["topics", "check", str(tmp_path / "trail"), *flags]) == 0


def test_a_foreground_cluster_ends_with_the_command_even_when_that_is_killed(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "rlhf_audit_trail",
        "kafka",
        "up",
        "--foreground",
        "--json",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        said = ""
        while "\n}" not in said:
            line = process.stdout.readline()
            assert line
            said += line
        pid = json.loads(said)["nodes"]["1"]
        process.kill()
        assert ended(pid, within_s=60)


@pytest.fixture
def background(kafka: KafkaCluster, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "background"
    yield folder
    if (folder / "cluster.json").exists():
        KafkaCluster(folder, is_tied=False, stop_timeout_s=0).down()


def test_up_leaves_a_broker_behind_and_down_ends_it(background: Path) -> None:
    up = json.loads(run("up", "--dir", background, "--json").stdout)
    pid = up["nodes"]["1"]
    assert up["ready"] is True
    again = json.loads(run("up", "--dir", background, "--json").stdout)
    assert (again["nodes"]["1"], again["brokers"]) == (pid, up["brokers"])
    assert run("up", "--dir", background, "--brokers", "3", check=False).returncode == 2
    assert json.loads(run("status", "--dir", background, "--json").stdout)["ready"] is True
    down = json.loads(run("down", "--dir", background, "--json").stdout)
    assert down["nodes"] == {"1": None}
    assert Process.of(pid) is None
    assert run("status", "--dir", background, check=False).returncode == 3


def test_a_pid_file_of_an_earlier_boot_names_nobody(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    assert me is not None
    stranger = Process(me.pid, "1")
    stranger.send(signal.SIGKILL)  # we are still here to say so
    assert not stranger.is_alive


def test_down_where_no_cluster_is_says_what_makes_one(tmp_path: Path) -> None:
    done = run("down", "--dir", tmp_path, check=False)
    assert done.returncode == 3
    assert "rlhf-audit kafka up --dir" in done.stderr


def test_without_maven_and_jars_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kafka: KafkaCluster
) -> None:
    from rlhf_audit_trail.kafka_jars import KafkaUnavailableError, jars

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailableError, match=r"no Maven here.*apt-get install"):
        jars(tmp_path / "cache")
