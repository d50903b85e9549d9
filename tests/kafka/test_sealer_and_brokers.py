"""The sealer while brokers of three die, fall silent, or die together with a worker."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from kafka.fleet import Fleet
from kafka.sealer_load import SLACK, Load, both_at_work, crashes_alone, pauses, tell
from rlhf_audit_trail.kafka_cluster import KafkaCluster
from sealing_rig import Rig, random_bytes

pytestmark = pytest.mark.service
BOUNDS_S = {"broker kill -9": 12, "broker and sealer kill -9": 20, "broker silent for 20 s": 15}


def test_brokers_die_and_fall_silent(three_brokers: KafkaCluster, topic_prefix: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path / "trail", three_brokers.settings(topic_prefix), replicas=3)
    with Fleet(tmp_path / "logs") as fleet:
        for name in ("a", "b"):
            fleet.audit(name, *rig.command("--instance", name))
        both_at_work(rig, fleet)
        measured = {}
        for what, bound_s in (
            ("broker kill -9", 12),
            ("broker and sealer kill -9", 20),
            ("broker silent for 20 s", 15),
        ):
            since_ms = time.time() * 1000
            with Load(rig):
                time.sleep(2)
                if what.endswith("20 s"):
                    three_brokers.signal(1, signal.SIGSTOP)
                    for partition in range(4):
                        rig.send(random_bytes(3_500_000), partition)
                    time.sleep(20)
                    three_brokers.signal(1, signal.SIGCONT)
                    time.sleep(3)
                else:
                    three_brokers.kill(1)
                    if "sealer" in what:
                        fleet.send("a", signal.SIGKILL)
                    time.sleep(16)
            if not what.endswith("20 s"):
                three_brokers.start(1)
            three_brokers.wait_ready()
            rig.wait_until_sealed(timeout_s=60)
            measured[what] = (tell(what, pauses(rig, since_ms)), bound_s)
        print("records twice:", rig.judge())  # noqa: T201 - measured
        assert crashes_alone(fleet)
    for what, (paused_s, bound_s) in measured.items():
        assert paused_s <= bound_s * SLACK, what
