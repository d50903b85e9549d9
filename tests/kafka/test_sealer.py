"""The sealer on a real broker: whatever happens to it, the sealed topic is what the local loop makes of the source.

Pauses are gaps between the times of neighbouring sealed records under steady load, and are printed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kafka.fleet import Fleet
from kafka.sealer_load import SLACK, Load, both_at_work, crashes_alone, pauses, tell
from rlhf_audit_ledger.control import Control, ControlType, Tick
from rlhf_audit_ledger.fold import decode_close
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.seal import seal_all
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.state import first_state
from rlhf_audit_ledger.tiles import Edge
from rlhf_audit_processors.kafka.worker import CRASHED
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.tail import PartitionTail
from rlhf_audit_stores.kafka.topics import admin_client, sealed_topic
from rlhf_audit_stores.objects import FolderStore
from sealing_rig import STREAM, Rig, header_ends, poll

pytestmark = pytest.mark.service
CHILD = Path(__file__).with_name("sealer_child.py")


@pytest.fixture
def rig(kafka_settings: KafkaSettings, tmp_path: Path) -> Rig:
    return Rig(tmp_path / "trail", kafka_settings)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "logs") as workers:
        yield workers


def closes(records: Sequence[bytes]) -> list[SealedRecord]:
    return [one for one in map(SealedRecord.decode, records) if one.close is not None]


def test_it_seals_what_the_local_loop_seals_poison_included(rig: Rig, fleet: Fleet) -> None:
    rig.send_batches(10)
    for partition in range(4):
        rig.send_poison(partition)
    rig.send_batches(5)
    rig.flush()
    fleet.audit("seal", *rig.command("--instance", "a"))
    rig.wait_until_sealed()
    rig.send(None, 0)  # nothing behind it: nobody delivers it, and it is sealed all the same
    rig.send(b"\xff" * 100_000, 1)
    rig.flush()
    rig.wait_until_sealed()
    poll(lambda: all(closes(rig.sealed(partition)) for partition in range(4)), what="a close in every partition")
    assert rig.judge() == 0
    outcomes = [SealHeader.decode(SealedRecord.decode(one).header).outcome for one in rig.sealed(1)]
    assert outcomes.count("quarantined") >= 5
    assert outcomes.count("hole") == 3
    assert fleet.stop("seal") == 0
    assert fleet.deaths == {}


def test_ticks_close_windows_whatever_time_messages_claim(rig: Rig, fleet: Fleet) -> None:
    fleet.audit("seal", *rig.command("--instance", "a"))
    rig.wait_until_sealed()
    rig.send(rig.batch("old/0", 0, 2), 0, timestamp_ms=0)
    rig.send(rig.batch("new/0", 1, 2), 1, timestamp_ms=4_102_444_800_000)
    rig.send(rig.batch("now/0", 2, 2), 2)
    rig.flush()
    began = time.monotonic()
    poll(lambda: all(closes(rig.sealed(partition)) for partition in range(3)), 10, "a close in each of them")
    assert time.monotonic() - began < 6
    rig.wait_until_sealed()
    time.sleep(2.5)  # windows of 1 s: an idle partition gets no tick
    for partition in range(3):
        ticks = [message.value for message in rig.source(partition) if (message.value or b"")[:1] == b"\x02"]
        assert len(ticks) == 2
        control = Control.decode(ticks[-1] or b"")
        assert control.control == ControlType.TICK
        tick = Tick.decode(control.body)
        assert (tick.counter, tick.flush, tick.global_size) == (2, False, 2)
        assert tick.global_root != bytes(32)
        assert len(closes(rig.sealed(partition))) == 1
    assert rig.judge((0, 1, 2, 3)) == 0


def test_told_to_stop_it_closes_the_open_windows(kafka_settings: KafkaSettings, tmp_path: Path, fleet: Fleet) -> None:
    rig = Rig(tmp_path / "trail", kafka_settings, window_seconds=3600)
    rig.send_batches(3)
    rig.flush()
    fleet.audit("seal", *rig.command("--instance", "a"))
    rig.wait_until_sealed()
    assert not closes(rig.sealed(0))
    assert fleet.stop("seal") == 0
    for partition in range(4):
        assert len(closes(rig.sealed(partition))) == 1
    assert rig.judge() == 0


def test_killed_at_any_time_it_goes_on_where_it_was(rig: Rig, fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.audit(name, *rig.command("--instance", name))
    both_at_work(rig, fleet)
    since_ms = time.time() * 1000
    with Load(rig):
        for name in ("a", "b", "a"):
            time.sleep(3)
            fleet.send(name, signal.SIGKILL)
            time.sleep(6)
    rig.wait_until_sealed()
    paused = tell("after kill -9 of a sealer, static membership, restarted after 1 s", pauses(rig, since_ms))
    assert paused <= 8 * SLACK
    print("records twice:", rig.judge())  # noqa: T201 - measured
    assert crashes_alone(fleet)


def test_frozen_past_its_session_another_one_takes_over(rig: Rig, fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.audit(name, *rig.command("--instance", name))
    both_at_work(rig, fleet)
    since_ms = time.time() * 1000
    with Load(rig):
        time.sleep(2)
        fleet.send("a", signal.SIGSTOP)
        time.sleep(13)
        fleet.send("a", signal.SIGCONT)
        time.sleep(8)
        fleet.send("b", signal.SIGTERM)
        time.sleep(5)
    rig.wait_until_sealed()
    paused = tell("after SIGSTOP of 13 s (session 6 s), then SIGTERM of the other", pauses(rig, since_ms))
    assert paused <= 10 * SLACK
    print("records twice:", rig.judge())  # noqa: T201 - measured


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_several_workers_are_started_again_and_never_outlive_their_parent(rig: Rig, fleet: Fleet) -> None:
    words = rig.command("--workers", "2", "--instance", "w", "--session-seconds", "3")
    fleet.audit("parent", *words)
    rig.send_batches(3)
    rig.flush()
    rig.wait_until_sealed()
    parent = fleet.pid("parent")
    first = poll(lambda: children(parent) if len(children(parent)) == 2 else None, what="two workers")
    os.kill(first[0], signal.SIGKILL)
    poll(lambda: len(children(parent)) == 2 and first[0] not in children(parent), what="a new worker")
    rig.send_batches(3)
    rig.flush()
    rig.wait_until_sealed()
    second = children(parent)
    fleet.send("parent", signal.SIGKILL)
    poll(lambda: not any(map(is_alive, second)), 30, "the end of the workers")
    fleet.stop("parent")  # the one that was started instead, if it was by now
    rig.judge()


@pytest.mark.parametrize("where", ["agent", "loop", "send"])
def test_an_agent_that_raises_in_the_middle_loses_nothing(rig: Rig, tmp_path: Path, fleet: Fleet, where: str) -> None:
    """The guard: with plain acknowledgements or ``take()`` the messages around the error would be gone."""
    rig.send_batches(30)
    rig.flush()
    once = tmp_path / "raised"
    fleet.run("seal", sys.executable, CHILD, where, once, *rig.command("--instance", "a", "--session-seconds", "3"))
    rig.wait_until_sealed()
    assert once.exists()
    assert fleet.deaths == {"seal": [CRASHED]}
    rig.send_batches(2)
    rig.flush()
    rig.wait_until_sealed()
    rig.judge()


def test_markers_and_deleted_messages_become_holes(rig: Rig, fleet: Fleet) -> None:
    from confluent_kafka import Producer, TopicPartition

    fleet.audit("seal", *rig.command("--instance", "a", "--session-seconds", "3"))
    rig.wait_until_sealed()
    transactional = Producer({**rig.kafka.producer_config(), "transactional.id": f"{rig.kafka.topic_prefix}x"})
    transactional.init_transactions(30)
    for _ in range(3):  # each ends with a marker that no consumer is ever shown
        transactional.begin_transaction()
        transactional.produce(rig.topic(), value=rig.batch("tx/0", 0, 2), partition=0)
        transactional.commit_transaction(30)
    rig.send_batches(2)
    rig.flush()
    rig.wait_until_sealed()
    assert rig.judge() == 0
    assert fleet.stop("seal") == 0
    before = rig.sealed(1)
    rig.send_batches(3, partitions=(1,))
    rig.flush()
    with PartitionTail(rig.kafka, rig.topic(), 1) as tail:
        end = tail.watermarks()[1]
    client, _ = admin_client(rig.kafka)
    deleted = client.delete_records([TopicPartition(rig.topic(), 1, end - 1)])
    for future in deleted.values():
        future.result(timeout=30)
    fleet.audit("again", *rig.command("--instance", "a", "--session-seconds", "3"))
    rig.wait_until_sealed(timeout_s=20)
    after = rig.sealed(1)
    assert after[: len(before)] == before
    hole = SealHeader.decode(SealedRecord.decode(after[len(before)]).header)
    assert (hole.outcome, hole.offset, hole.end_offset) == ("hole", header_ends(before)[-1], end - 1)
    assert fleet.deaths == {}


def test_a_changed_sealed_topic_stops_one_partition_and_no_other(rig: Rig, fleet: Fleet) -> None:
    fleet.audit("seal", *rig.command("--instance", "a", "--session-seconds", "3"))
    rig.send_batches(3)
    rig.flush()
    rig.wait_until_sealed()
    fleet.stop("seal")
    forged = SealedRecord.decode(rig.sealed(0)[-1])
    topic = sealed_topic(rig.kafka.topic_prefix, STREAM)
    other = SealedRecord(forged.header, bytes(32), forged.entries, None, None, (), forged.value)
    rig.producer.produce(topic, value=other.encode(), partition=0)
    rig.send_batches(3)
    rig.flush()
    count = len(rig.sealed(0))
    fleet.audit("again", *rig.command("--instance", "a", "--session-seconds", "3"))
    rig.wait_until_sealed((1, 2, 3))
    assert rig.judge((1, 2, 3)) == 0
    assert len(rig.sealed(0)) == count
    assert fleet.is_running("again")
    assert "annotations/0 is not sealed" in fleet.words("again", 400)
    assert "fork" in fleet.words("again", 400)


def test_a_million_events_cost_a_restart_nothing(rig: Rig, fleet: Fleet) -> None:
    """Objects hold what is sealed, as they do while the object sink works; then the ledger's size does not matter."""
    for _ in range(500):
        rig.send(rig.batch("big/0", 0, 2000, size=0), 0)
    rig.flush()
    fleet.audit("seal", *rig.command("--instance", "a", "--session-seconds", "3"))
    rig.wait_until_sealed((0,), 120)
    assert fleet.stop("seal") == 0
    _store_windows(rig, 0)
    rig.send_batches(2)
    rig.flush()
    end = rig.sealed_end(0)
    fleet.audit("again", *rig.command("--instance", "a", "--session-seconds", "3"))
    began = time.monotonic()
    poll(lambda: rig.sealed_end(0) > end, 30, "a new record")
    print(f"\nfirst new record {time.monotonic() - began:.2f} s after the start of the process")  # noqa: T201 - measured
    line = next(line for line in fleet.words("again", 400).splitlines() if "taken over in" in line)
    seconds = float(line.rsplit(" ", 2)[1])
    rig.wait_until_sealed((0,))
    print(f"13 partitions, one with a million events, taken over in {seconds} s")  # noqa: T201 - measured
    assert seconds <= 2
    assert rig.judge((0,)) == 0


def _store_windows(rig: Rig, partition: int) -> None:
    """What the object sink does."""
    sealer = rig.sealer(partition)
    store = FolderStore(rig.directory / "objects")
    sink = EvidenceSink(
        sealer.settings,
        objects=store,
        vault=FolderStore(rig.directory / "vault", mode=0o600),
        vault_key=rig.keys.vault_key,
        edge=Edge.empty(),
        version=None,
    )
    state, window = first_state(sealer.settings, rig.source_id()), []
    for message in rig.source(partition):
        state, sealed = seal_all(sealer, state, message)
        for one in sealed:
            window.append(one)
            if one.close is not None:
                assert decode_close(one.record.close or b"", "test").m == state.m
                sink.store(window)
                window = []
