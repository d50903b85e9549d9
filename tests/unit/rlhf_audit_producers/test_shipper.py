"""From spools to topics: every batch, in order, deleted only when acknowledged; and what the shipper says itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_ledger.batch import BatchBody, batch_head, encode_batch, open_envelope
from rlhf_audit_producers import spool_log
from rlhf_audit_producers.refused_batches import REFUSED_FOLDER
from rlhf_audit_producers.shipper import MAX_UNDERWAY
from rlhf_audit_producers.shipper_positions import SHIPPED_FILE, read_positions
from rlhf_audit_producers.spool_files import SpoolRef, pack_spool_record, producers, read_heads, write_name
from rlhf_audit_producers.spool_lock import acquire_drain, is_drained_by_somebody
from rlhf_audit_producers.spool_notices import say_lost, write_notice
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.epochs import producer_folder_name
from rlhf_audit_stores.kafka.wire import strip_header
from rlhf_audit_stores.recordlog import RecordLog
from shipping import Answer, Brokers, Clock, ship_all, shipper
from spooling import FACTS, NOW_US, spooled, withdrawals, writer


def record(trail: Path, producer: str = "run/0", *, turns: int = 4, end: bool = True, **options: Any) -> list[str]:
    """A rank that ends, or is killed. Returns the ids that it recorded."""
    spool, queue = writer(trail, producer=producer, **options)
    spool.open()
    for turn in range(turns):
        queue.put(withdrawals(5 * turn, 5))
        spool.turn()
    if end:
        spool.close("finished")
    else:
        spool.abandon()
    return [f"w{number}" for number in range(5 * turns)]


def ids(brokers: Brokers) -> list[str]:
    return [event["annotation_id"] for event in brokers.events("withdrawal")]


def files(trail: Path) -> list[Path]:
    return sorted((trail / "spool" / "producers").glob("*/*/*.log"))


def test_every_batch_reaches_its_partition_byte_for_byte_and_the_spool_is_deleted(tmp_path: Path) -> None:
    wanted = record(tmp_path)
    batches = [(body.stream, body.partition, body.first_seq, body.kind) for _, body in spooled(tmp_path)]
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    found = [
        (stream, partition, body.first_seq, body.kind)
        for (topic, partition), log in sorted(brokers.topics.items())
        for stream in [topic.removeprefix("audit.")]
        for body in [BatchBody.decode(open_envelope(strip_header(value))[0]) for value in log]
        if (body.stream, body.partition) == (stream, partition)
    ]
    assert sorted(found) == sorted(batches)
    assert ids(brokers) == wanted
    assert files(tmp_path) == []
    assert read_positions(RealDisk(), tmp_path / "spool") == {}
    assert brokers.events("producer_lost") == []
    assert ship_all(tmp_path, brokers).left() == [], "nothing is left to a second one"
    assert ids(brokers) == wanted


def test_nothing_is_deleted_before_it_is_acknowledged(tmp_path: Path) -> None:
    record(tmp_path)
    before = files(tmp_path)
    clock = Clock()
    one = shipper(tmp_path, Brokers(lambda *_: "refuse"), clock=clock)
    for _ in range(50):
        assert one.turn()
        clock.now += 1.0
    one.close()
    assert files(tmp_path) == before
    assert {left.producer for left in one.left()} == {"run/0"}


def test_segments_go_one_by_one_as_what_stands_in_them_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_log, "SEGMENT_BYTES", 1500)
    wanted = record(tmp_path, turns=20)
    before, batches = files(tmp_path), [body for _, body in spooled(tmp_path)]
    budget = [len(batches) // 2]

    def some(*_: object) -> Answer:
        budget[0] -= 1
        return "ok" if budget[0] >= 0 else "refuse"

    brokers, clock = Brokers(some), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    for _ in range(60):
        one.turn()
        clock.now += 0.3
    one.close()
    assert 1 < len(files(tmp_path)) < len(before)
    shipped = brokers.bodies()
    assert all(body in shipped or body in [kept for _, kept in spooled(tmp_path)] for body in batches)
    brokers.answer = lambda *_: "ok"
    ship_all(tmp_path, brokers)
    assert ids(brokers) == wanted
    assert files(tmp_path) == []


@pytest.mark.parametrize("answer", ["lose", "silent but stored", "refuse"])
def test_the_next_shipper_goes_on_where_acknowledgements_ended(answer: Answer, tmp_path: Path) -> None:
    wanted = record(tmp_path, turns=10)
    budget = [7]

    def some(*_: object) -> Answer:
        budget[0] -= 1
        return "ok" if budget[0] >= 0 else answer

    brokers, clock = Brokers(some), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    for _ in range(40):
        one.turn()
        clock.now += 0.1
    one.close()
    (shipped,) = read_positions(RealDisk(), tmp_path / "spool").values()
    assert shipped.offset > 0
    brokers.answer = lambda *_: "ok"
    ship_all(tmp_path, brokers)
    assert ids(brokers) == wanted
    assert len(brokers.values) < 40, "it did not begin at the beginning"
    assert brokers.events("producer_lost") == []


def test_a_dead_rank_is_called_lost_once_with_the_heads_of_its_lanes(tmp_path: Path) -> None:
    wanted = record(tmp_path, end=False)
    heads = {(body.stream, body.partition): body.first_seq + len(body.events) for _, body in spooled(tmp_path)}
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    (lost,) = brokers.events("producer_lost")
    assert (lost["producer"], lost["epoch"]) == ("run/0", 0)
    assert {(row["stream"], row["partition"]): row["next_seq"] for row in lost["lanes"]} == heads
    assert lost["found_by"].startswith("shipper/")
    last = brokers.bodies()[-1]
    assert (last.producer, last.final) == (lost["found_by"], True), "its own lane ends"
    assert ids(brokers) == wanted
    ship_all(tmp_path, brokers)
    assert len(brokers.events("producer_lost")) == 1
    assert files(tmp_path) == []


def test_lane_heads_survive_the_deletion_of_the_segments_they_stood_in(tmp_path: Path) -> None:
    record(tmp_path, end=False)
    heads = {(body.stream, body.partition): body.first_seq + len(body.events) for _, body in spooled(tmp_path)}
    brokers, clock = Brokers(), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    (_, refs), *_ = producers(RealDisk(), tmp_path / "spool")
    one._finish = lambda folder, refs: None  # type: ignore[method-assign]  # a shipper that dies before it is done
    for _ in range(30):
        one.turn()
        clock.now += 0.3
    (shipped,) = read_positions(RealDisk(), tmp_path / "spool").values()
    assert {place: view.next_seq for place, view in shipped.lanes.items()} == heads
    assert shipped.offset == len(spooled(tmp_path))
    ship_all(tmp_path, brokers)
    (lost,) = brokers.events("producer_lost")
    assert {(row["stream"], row["partition"]): row["next_seq"] for row in lost["lanes"]} == heads
    assert refs[0].producer == lost["producer"]


def test_epochs_of_a_producer_go_out_in_ascending_order(tmp_path: Path) -> None:
    for _ in range(3):
        record(tmp_path, end=False)
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    for log in brokers.topics.values():
        epochs = [
            body.epoch
            for value in log
            for body in [BatchBody.decode(open_envelope(strip_header(value))[0])]
            if body.producer == "run/0"
        ]
        assert epochs == sorted(epochs)
    assert sorted(lost["epoch"] for lost in brokers.events("producer_lost")) == [0, 1, 2]


def test_a_living_rank_is_shipped_and_never_called_lost(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    brokers, clock = Brokers(), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    for turn in range(3):
        queue.put(withdrawals(5 * turn, 5))
        spool.turn()
        for _ in range(20):
            assert one.turn(), "somebody still records"
            clock.now += 0.1
    assert len(ids(brokers)) == 15
    assert one.left() == []
    spool.close("finished")
    while one.turn():
        clock.now += 0.1
    one.close()
    assert brokers.events("producer_lost") == []
    assert files(tmp_path) == []


def test_a_rank_that_dies_behind_a_full_queue_is_read_to_its_end_first(tmp_path: Path) -> None:
    """Not having looked is not having found nothing."""
    spool, queue = writer(tmp_path)
    spool.open()
    brokers, clock = Brokers(lambda *_: "refuse"), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    for _ in range(10):
        one.turn()
    one.queue._max_records = 1
    queue.put(withdrawals(0, 5))
    spool.turn()
    spool.abandon()
    for _ in range(10):
        one.turn()
    one.queue._max_records = 1000
    brokers.answer = lambda *_: "ok"
    while one.turn():
        clock.now += 1.0
    one.close()
    assert ids(brokers) == [f"w{n}" for n in range(5)]


def test_a_rank_that_dies_while_the_shipper_drains_keeps_what_was_not_read(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    brokers, clock = Brokers(), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    one.begin_drain()
    while not one.is_drained:
        one.turn()
        clock.now += 0.1
    queue.put(withdrawals(0, 5))
    spool.turn()
    spool.abandon()
    for _ in range(10):
        one.turn()
        clock.now += 0.3
    one.close()
    assert ids(brokers) == []
    ship_all(tmp_path, brokers)
    assert ids(brokers) == [f"w{n}" for n in range(5)]


def test_a_drain_ends_at_what_was_there(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    record(tmp_path, "run/1", end=False)
    brokers, clock = Brokers(), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    one.begin_drain()
    for turn in range(200):
        queue.put(withdrawals(turn, 1))
        spool.turn()
        one.turn()
        clock.now += 0.1
        if one.is_drained:
            break
    else:
        pytest.fail("a rank that records on keeps the shipper")
    assert one.left() == []
    assert [lost["producer"] for lost in brokers.events("producer_lost")] == ["run/1"]
    spool.abandon()


@pytest.mark.parametrize("first", range(2))
def test_a_drain_does_not_end_before_it_has_called_the_dead_lost(first: int, tmp_path: Path) -> None:
    """Also if positions were saved after the last acknowledgement, and before a look found the end."""
    record(tmp_path, end=False)
    brokers, clock = Brokers(), Clock()
    one = shipper(tmp_path, brokers, clock=clock)
    one.begin_drain()
    for turn in range(200):
        one.turn()
        clock.now += 0.3 * (turn % 2 == first)
        if one.is_drained:
            break
    one.close()
    assert one.left() == []
    assert len(brokers.events("producer_lost")) == 1
    assert files(tmp_path) == []


def test_a_record_without_a_partition_goes_to_quarantine_as_it_lies(tmp_path: Path) -> None:
    spool, _ = writer(tmp_path)
    spool.open()
    odd = [b"\x09nonsense", pack_spool_record("annotations", 99, b"\x01x"), pack_spool_record("else", 0, b"")]
    assert spool._log is not None
    spool._log._log.append(odd)
    spool._log._log.sync()
    spool.abandon()
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    log = brokers.topics["audit.lifecycle", 0]
    assert [value for value in log if value in odd] == odd


def test_a_batch_no_broker_takes_is_kept_aside_and_declared_and_the_lane_goes_on(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    for first, padding in ((0, 0), (1, 5000), (2, 0)):
        queue.put(withdrawals(first, 1, padding=padding))
        spool.turn()
    spool.close("finished")
    (large,) = [body for _, body in spooled(tmp_path) if any(len(event) > 5000 for event in body.events)]
    brokers = Brokers(lambda topic, partition, value: "too large" if len(value) > 4000 else "ok")
    ship_all(tmp_path, brokers)
    assert ids(brokers) == ["w0", "w2"]
    (kept,) = (tmp_path / "spool" / REFUSED_FOLDER).iterdir()
    assert BatchBody.decode(open_envelope(kept.read_bytes())[0]) == large
    (fault,) = brokers.events("fault")
    assert (fault["producer"], fault["row_bytes"]) == ("run/0", kept.stat().st_size)
    assert files(tmp_path) == []


def test_the_heads_of_an_epoch_reach_as_far_as_the_brokers_have_it(tmp_path: Path) -> None:
    spool, queue = writer(tmp_path)
    spool.open()
    queue.put(withdrawals(0, 1, padding=5000))
    spool.turn()
    spool.close("finished")
    brokers = Brokers(lambda topic, partition, value: "too large" if topic == "audit.annotations" else "ok")
    ship_all(tmp_path, brokers)
    heads = read_heads(RealDisk(), tmp_path / "spool" / "producers" / producer_folder_name("run/0"), 0)
    assert [(head.stream, head.ended) for head in heads] == [("lifecycle", True)]


def test_a_statement_is_said_once_even_if_its_spool_was_shipped_and_deleted_meanwhile(tmp_path: Path) -> None:
    def say() -> bool:
        lost = SpoolRef("run/0", 0, tmp_path)
        return write_notice(
            RealDisk(),
            tmp_path / "spool",
            FACTS,
            "shipper/x",
            lambda session: say_lost(session, lost, [], "gone"),
            software="test",
            now_us=lambda: NOW_US,
        )

    assert [say(), say()] == [True, False]
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    assert files(tmp_path) == []
    assert not say()
    assert len(brokers.events("producer_lost")) == 1


def test_only_one_drains_a_directory(tmp_path: Path) -> None:
    lock = acquire_drain(tmp_path)
    assert lock is not None
    assert acquire_drain(tmp_path) is None
    assert is_drained_by_somebody(tmp_path)
    lock.release()
    second = acquire_drain(tmp_path)
    assert second is not None
    second.release()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"version": 2, "spools": {}}', '{"version": 1, "spools": {"00": {"offset": -1}}}']
)
def test_positions_that_cannot_be_read_cost_repeats_and_no_loss(text: str, tmp_path: Path) -> None:
    wanted = record(tmp_path)
    (tmp_path / "spool" / SHIPPED_FILE).write_text(text)
    with pytest.raises(FormatError):
        read_positions(RealDisk(), tmp_path / "spool")
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    assert ids(brokers) == wanted
    assert json.loads((tmp_path / "spool" / SHIPPED_FILE).read_text())["spools"] == {}


def test_a_position_behind_the_end_of_a_spool_that_lost_its_tail_does_no_harm(tmp_path: Path) -> None:
    """Records are read before they are durable; a power cut may take them from a spool whose topics hold them."""
    folder = tmp_path / "spool" / "producers" / ("0" * 32)
    ref = SpoolRef("run/0", 0, folder / "0000000000")
    log = RecordLog.open(ref.folder)
    write_name(RealDisk(), folder, "run/0")
    log.close()
    row = {"offset": 5, "lanes": [["lifecycle", 0, 0, 9, True]]}
    (tmp_path / "spool" / SHIPPED_FILE).write_text(json.dumps({"version": 1, "spools": {ref.spool_id.hex(): row}}))
    brokers = Brokers()
    ship_all(tmp_path, brokers)
    assert brokers.values == []
    assert files(tmp_path) == []


def test_the_head_of_a_batch_is_what_the_whole_batch_says(tmp_path: Path) -> None:
    record(tmp_path)
    for _, body in spooled(tmp_path):
        head = batch_head(encode_batch(body, None).value)
        assert (head.producer, head.epoch, head.stream, head.partition) == (
            body.producer,
            body.epoch,
            body.stream,
            body.partition,
        )
        assert (head.first_seq, head.count, head.final) == (body.first_seq, len(body.events), body.final)
    for nonsense in (b"", b"\x01", b"\x02", b"\x01\x05", b"\x01" + bytes(20)):
        with pytest.raises(FormatError):
            batch_head(nonsense)


def test_what_is_remembered_of_a_spool_is_bounded() -> None:
    assert MAX_UNDERWAY * 200 < 64 << 20
