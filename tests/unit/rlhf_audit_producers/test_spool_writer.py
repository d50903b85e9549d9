"""The writer of a spool: numbers without gaps, or with gaps that are declared, whatever the disk does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from crash.fake_disk import FullDisk, PassingDisk
from rlhf_audit_ledger.batch import MAX_BATCH_BYTES, BatchBody
from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_producers.spool_files import is_alive
from rlhf_audit_producers.spool_queue import Submission
from rlhf_audit_producers.spool_writer import MAX_LANE_GAPS, MAX_LANE_SKIP
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import Handle, RealDisk
from spooling import FACTS, heartbeats, spooled, spooled_events, withdrawals, writer

OWN = partition_of(FACTS.routing_key, "run/0", 4)


def gradients(count: int, size: int = 1000) -> Submission:
    """Events of the lowest class."""
    kind = KINDS["gradient_stats"]
    return Submission(kind, count, lambda: [bytes(size)] * count, bytes_held=count * size)


def numbers(directory: Path, stream: str, epoch: int | None = None) -> list[int]:
    """Numbers of the events of a stream that lie in the spools."""
    return [
        body.first_seq + at
        for name, body in spooled(directory)
        if name == stream and (epoch is None or body.epoch == epoch)
        for at in range(len(body.events))
    ]


def declared(directory: Path, stream: str) -> list[int]:
    """Numbers of a stream that ``loss`` events name."""
    return [
        event["first_seq"] + at
        for event in spooled_events(directory, "loss")
        if event["stream"] == stream
        for at in range(event["count"])
    ]


def test_events_are_numbered_in_order_in_batches_that_name_one_another(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    for turn in range(3):
        queue.put(withdrawals(10 * turn, 10))
        spool.turn()
    spool.close("finished")
    bodies = [body for stream, body in spooled(tmp_path) if stream == "annotations"]
    assert numbers(tmp_path, "annotations") == list(range(30))
    assert [event["annotation_id"] for event in spooled_events(tmp_path, "withdrawal")] == [f"w{n}" for n in range(30)]
    assert [body.final for body in bodies] == [False, False, False, True]
    assert [body.open_key is not None for body in bodies] == [True, False, False, False]
    start, end = spooled_events(tmp_path, "producer_start"), spooled_events(tmp_path, "producer_end")
    assert start[0]["public_key"] == bodies[0].open_key
    assert {(lane["stream"], lane["next_seq"]) for lane in end[0]["lanes"]} == {("annotations", 30), ("lifecycle", 2)}


def test_what_a_turn_recorded_is_there_before_the_next(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    queue.put(withdrawals(0, 5))
    spool.turn()
    assert numbers(tmp_path, "annotations") == list(range(5))
    spool.close("finished")


def test_a_name_that_is_held_gets_a_number_and_a_free_one_a_new_epoch(tmp_path: Path) -> None:
    first, _ = writer(tmp_path)
    second, _ = writer(tmp_path)
    first.open()
    second.open()
    assert (first.producer, second.producer) == ("run/0", "run/0/1")
    first.close("finished")
    third, _ = writer(tmp_path)
    third.open()
    assert third.producer == "run/0"
    assert third.session.epoch == 1
    for spool in (second, third):
        spool.close("finished")


def test_the_lock_shows_who_lives(tmp_path: Path) -> None:
    spool, _ = writer(tmp_path)
    spool.open()
    (folder,) = (tmp_path / "spool" / "producers").iterdir()
    assert is_alive(folder)
    spool.close("finished")
    assert not is_alive(folder)


def test_values_that_cannot_be_encoded_use_up_their_numbers(tmp_path: Path) -> None:
    def broken() -> list[bytes]:
        raise RuntimeError("what a caller's object may raise")

    spool, queue = writer(tmp_path)
    spool.open()
    queue.put(withdrawals(0, 2))
    queue.put(Submission(KINDS["withdrawal"], 3, broken))
    queue.put(withdrawals(2, 2))
    spool.close("finished")
    assert numbers(tmp_path, "annotations") == [0, 1, 5, 6]
    assert declared(tmp_path, "annotations") == [2, 3, 4]
    assert {event["reason"] for event in spooled_events(tmp_path, "loss")} == {"encode_failed"}


def test_events_that_are_no_bytes_cost_their_submission(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    queue.put(Submission(KINDS["withdrawal"], 2, lambda: [b"a", None]))  # type: ignore[list-item]  # wrong on purpose
    queue.put(withdrawals(0, 1))
    spool.close("finished")
    assert numbers(tmp_path, "annotations") == [2]
    assert declared(tmp_path, "annotations") == [0, 1]


def test_a_route_is_that_of_the_name_under_which_is_recorded(tmp_path: Path) -> None:
    first, _ = writer(tmp_path)
    first.open()
    second, queue = writer(tmp_path, max_queue_events=1)
    queue.put(withdrawals(0, 2))  # no room: routed before the second has its name
    second.open()
    queue.put(withdrawals(2, 1))
    second.close("finished")
    first.close("finished")
    (body,) = (body for stream, body in spooled(tmp_path) if stream == "annotations" and body.events)
    assert (body.producer, body.partition) == ("run/0/1", partition_of(FACTS.routing_key, "run/0/1", 4))


def test_an_event_that_is_too_large_is_declared_and_the_others_are_kept(tmp_path: Path) -> None:
    kind = KINDS["withdrawal"]
    spool, queue = writer(tmp_path)
    spool.open()
    queue.put(Submission(kind, 3, lambda: [b"a", bytes(MAX_BATCH_BYTES + 1), b"b"]))
    spool.close("finished")
    assert numbers(tmp_path, "annotations") == [0, 1]
    assert declared(tmp_path, "annotations") == [2]
    assert spooled_events(tmp_path, "loss")[0]["reason"] == "oversize"


def test_a_full_queue_is_declared(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path, max_queue_events=10)
    spool.open()
    for turn in range(4):
        queue.put(withdrawals(4 * turn, 4))
    spool.close("finished")
    assert numbers(tmp_path, "annotations") == list(range(8))
    assert declared(tmp_path, "annotations") == list(range(8, 16))
    assert spooled_events(tmp_path, "loss")[0]["reason"] == "queue_full"
    assert spooled_events(tmp_path, "producer_end")[0]["bad_rows"] == 8


def everything_once(directory: Path, stream: str, count: int) -> None:
    assert sorted(numbers(directory, stream) + declared(directory, stream)) == list(range(count))


def test_a_used_up_quota_drops_gradients_first_and_declares_them(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path, quota_bytes=200_000)
    spool.open()
    for turn in range(40):
        queue.put(gradients(10))
        queue.put(withdrawals(turn, 1))
        spool.turn()
    spool.close("finished")
    everything_once(tmp_path, "gradients", 400)
    assert len(declared(tmp_path, "gradients")) > 100
    assert numbers(tmp_path, "annotations") == list(range(40))
    assert {event["reason"] for event in spooled_events(tmp_path, "loss")} == {"spool_full"}


@pytest.mark.parametrize("kibibytes", range(280, 640, 40))
def test_a_full_disk_declares_what_it_lost_and_takes_the_end(kibibytes: int, tmp_path: Path) -> None:
    full = FullDisk(RealDisk(), after_bytes=kibibytes * 1024)
    spool, queue = writer(tmp_path, full, max_queue_events=50)
    spool.open()
    for turn in range(60):
        queue.put(gradients(10))
        queue.put(withdrawals(turn, 1, padding=4000))
        spool.turn()
    assert spool.is_full
    assert declared(tmp_path, "gradients"), "the loss has to be declared while the disk is full"
    spool.close("finished")
    everything_once(tmp_path, "gradients", 600)
    everything_once(tmp_path, "annotations", 60)
    assert len(spooled_events(tmp_path, "producer_end")) == 1


def test_recording_goes_on_when_there_is_space_again(tmp_path: Path) -> None:
    full = FullDisk(RealDisk(), after_bytes=400 * 1024)
    spool, queue = writer(tmp_path, full)
    spool.open()
    for turn in range(60):
        queue.put(withdrawals(turn, 1, padding=20_000))
        spool.turn()
    assert spool.is_full
    full.free(1 << 30)
    spool.turn()
    is_full: bool = spool.is_full
    assert not is_full
    spool.close("finished")
    assert numbers(tmp_path, "annotations") == list(range(60))
    assert declared(tmp_path, "annotations") == []


class FailingSync(PassingDisk):
    """Syncs of logs fail for a while, as a dying disk's do."""

    failing = False

    def sync(self, handle: Handle) -> None:
        if self.failing and handle.path.suffix == ".log":
            raise OSError(5, "input/output error")
        super().sync(handle)


def test_after_a_failed_sync_the_same_bytes_stand_under_the_same_offsets(tmp_path: Path) -> None:
    disk = FailingSync(RealDisk())
    spool, queue = writer(tmp_path, disk)
    spool.open()
    queue.put(withdrawals(0, 3))
    spool.turn()
    seen = spooled(tmp_path)
    disk.failing = True
    queue.put(withdrawals(3, 3))
    spool.turn()
    assert spool.is_full
    disk.failing = False
    queue.put(withdrawals(6, 3))
    spool.turn()
    is_full: bool = spool.is_full
    assert not is_full
    spool.close("finished")
    assert spooled(tmp_path)[: len(seen)] == seen
    assert numbers(tmp_path, "annotations") == list(range(9))


def test_a_lane_with_many_gaps_is_left_for_a_new_epoch(tmp_path: Path) -> None:
    def broken() -> list[bytes]:
        raise ValueError

    spool, queue = writer(tmp_path)
    spool.open()
    for turn in range(2 * MAX_LANE_GAPS):
        queue.put(withdrawals(turn, 1))
        queue.put(Submission(KINDS["withdrawal"], 1, broken))
        spool.turn()
    spool.close("finished")
    ids = [event["annotation_id"] for event in spooled_events(tmp_path, "withdrawal")]
    assert ids == [f"w{n}" for n in range(2 * MAX_LANE_GAPS)]
    epochs = {body.epoch for _, body in spooled(tmp_path)}
    assert epochs == {0, 1} or epochs == {0, 1, 2}
    for epoch in epochs:
        held = numbers(tmp_path, "annotations", epoch)
        assert sum(b - a > 1 for a, b in pairwise(held)) <= MAX_LANE_GAPS


def test_a_lane_never_jumps_further_than_a_sealer_follows(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path, max_queue_events=10)
    spool.open()
    queue.put(withdrawals(0, 1))
    queue.put(Submission(KINDS["withdrawal"], 3 * MAX_LANE_SKIP, list))
    spool.turn()
    queue.put(withdrawals(1, 1))
    spool.close("finished")
    total = sum(event["count"] for event in spooled_events(tmp_path, "loss"))
    assert total == 3 * MAX_LANE_SKIP
    assert len(spooled_events(tmp_path, "withdrawal")) == 2
    by_epoch: dict[int, list[BatchBody]] = {}
    for stream, body in spooled(tmp_path):
        if stream == "annotations":
            by_epoch.setdefault(body.epoch, []).append(body)
    for bodies in by_epoch.values():
        at = 0
        for body in bodies:
            assert body.first_seq - at <= MAX_LANE_SKIP
            at = body.first_seq + len(body.events)


def test_heartbeats_name_the_heads_of_all_lanes(tmp_path: Path) -> None:
    now = [1_760_000_000_000_000]
    spool, queue = writer(tmp_path, now_us=lambda: now[0])
    spool.open()
    queue.put(withdrawals(0, 3))
    spool.turn()
    now[0] += 31_000_000
    spool.turn()
    heads = spooled_events(tmp_path, "heartbeat")[0]["lanes"]
    assert {(lane["stream"], lane["next_seq"]) for lane in heads} == {("annotations", 3), ("lifecycle", 2)}
    spool.close("finished")


def test_rows_that_another_rank_claimed_are_not_recorded(tmp_path: Path) -> None:
    from rlhf_audit_producers.spool_claims import Claims, rows_digest

    claims = [Claims(tmp_path / "spool", "run", rank) for rank in range(2)]
    one, other = rows_digest([b"a", b"b"]), rows_digest([b"ab"])
    assert [rank.take(one) for rank in claims] == [True, False]
    assert [rank.take(other) for rank in reversed(claims)] == [True, False]
    again = Claims(tmp_path / "spool", "run", 0)
    assert again.take(one), "a rank's own claim must not stop it after a restart"
    assert not again.take(other)


def test_lifecycle_events_wait_for_space_and_are_kept(tmp_path: Path) -> None:
    full = FullDisk(RealDisk(), after_bytes=300 * 1024)
    spool, queue = writer(tmp_path, full)
    spool.open()
    for turn in range(30):
        queue.put(withdrawals(turn, 1, padding=20_000))
        queue.put(heartbeats(1))
        spool.turn()
    full.free(1 << 30)
    spool.close("finished")
    assert len(spooled_events(tmp_path, "heartbeat")) == 30
    assert len(spooled_events(tmp_path, "withdrawal")) == 30
