"""Lanes: numbers without gaps, batches chained and signed, ends that tell the counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeding import NOW_US, Clock, events_of, seeded_bytes
from rlhf_audit_ledger.batch import MAX_BATCH_BYTES, NO_BATCH, BatchBody, batch_digest, open_envelope, signed_message
from rlhf_audit_ledger.ed25519 import SeedSigner, verify
from rlhf_audit_producers.batches import HEARTBEAT_US, ProducerSession
from rlhf_audit_producers.memory_recorder import MemoryRecorder
from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_schemas.kinds import KINDS

SIGNER = SeedSigner(bytes(32))
ANNOTATION, CORRECTION = KINDS["annotation"], KINDS["correction"]


def session(
    recorder: MemoryRecorder, *, batch_events: int = 10, clock: Clock | None = None, signed: bool = True
) -> ProducerSession:
    return ProducerSession(
        recorder,
        producer="ingest/1",
        epoch=2,
        signer=SIGNER if signed else None,
        batch_events=batch_events,
        now_us=clock or Clock(),
        salt=seeded_bytes(1),
    )


def start(opened: ProducerSession, previous: list[LaneView] | None = None) -> None:
    opened.start(
        software="x 1",
        previous_epoch=1,
        previous_lanes=previous or [],
        input_sha256=bytes(32),
        mapping_sha256=bytes(32),
    )


def check_lanes(recorder: MemoryRecorder, *, signed: bool = True) -> None:
    """Chain, numbers, key and signature of every lane, read from the bytes."""
    for log in recorder.durable.values():
        previous, next_seq = NO_BATCH, 0
        for value in log:
            raw, signature = open_envelope(value)
            body = BatchBody.decode(raw)
            assert body.prev_batch == previous
            assert body.first_seq >= next_seq
            assert (body.open_key is not None) == (body.first_seq == 0 and signed)
            if signed:
                assert signature is not None
                verify(SIGNER.public_key, signed_message(batch_digest(raw)), signature)
            else:
                assert signature is None
            assert body.events or body.final
            assert sum(map(len, body.events)) <= MAX_BATCH_BYTES
            previous, next_seq = batch_digest(raw), body.first_seq + len(body.events)
        assert body.final


puts = st.lists(
    st.tuples(
        st.sampled_from([ANNOTATION, CORRECTION]), st.integers(0, 3), st.lists(st.binary(max_size=5), max_size=25)
    )
)


@given(puts=puts, batch_events=st.integers(1, 12), signed=st.booleans())
def test_what_is_put_in_comes_out_in_order_under_numbers_without_gaps(
    puts: list[tuple[Any, int, list[bytes]]], batch_events: int, signed: bool
) -> None:
    recorder = MemoryRecorder()
    opened = session(recorder, batch_events=batch_events, signed=signed)
    start(opened)
    expected: dict[int, list[tuple[int, bytes]]] = {}
    for kind, partition, events in puts:
        opened.record("annotations", partition, kind, events)
        expected.setdefault(partition, []).extend((kind.number, event) for event in events)
    opened.end(rows=1, bad_rows=0, reason="finished")
    recorder.work()
    check_lanes(recorder, signed=signed)
    for partition, pairs in expected.items():
        bodies = [body for body in recorder.batches() if (body.stream, body.partition) == ("annotations", partition)]
        assert [(body.kind, event) for body in bodies for event in body.events] == pairs
        assert all(len(body.events) <= batch_events for body in bodies)
        assert [body.first_seq for body in bodies] == [
            sum(len(before.events) for before in bodies[:at]) for at in range(len(bodies))
        ]


def test_batches_are_cut_by_bytes_too() -> None:
    recorder = MemoryRecorder()
    opened = session(recorder, batch_events=1000)
    half = MAX_BATCH_BYTES // 2
    events = [bytes(half), bytes(half), b"x", bytes(MAX_BATCH_BYTES), b"y", bytes(half), bytes(half + 1)]
    opened.record("annotations", 0, ANNOTATION, events)
    opened.end(rows=0, bad_rows=0, reason="finished")
    recorder.work()
    bodies = [body for body in recorder.batches() if body.stream == "annotations"]
    assert [len(body.events) for body in bodies] == [2, 1, 1, 2, 1]
    assert [event for body in bodies for event in body.events] == events
    check_lanes(recorder)


def test_the_last_batch_says_final_and_is_empty_only_where_nothing_is_left() -> None:
    recorder = MemoryRecorder()
    opened = session(recorder)
    opened.record("annotations", 0, ANNOTATION, [b"a"])
    opened.record("annotations", 1, ANNOTATION, [b"b"])
    opened.cut()
    opened.record("annotations", 1, ANNOTATION, [b"c"])
    opened.end(rows=0, bad_rows=0, reason="finished")
    recorder.work()
    ends = {body.partition: body for body in recorder.batches() if body.final and body.stream == "annotations"}
    assert (ends[0].events, ends[0].first_seq) == ([], 1)
    assert (ends[1].events, ends[1].first_seq) == ([b"c"], 1)


@pytest.mark.parametrize("reason", ["interrupted", "failed"])
def test_an_end_that_is_no_good_end_leaves_the_lanes_open(reason: Any) -> None:
    recorder = MemoryRecorder()
    opened = session(recorder)
    opened.record("annotations", 0, ANNOTATION, [b"a"])
    opened.end(rows=1, bad_rows=0, reason=reason)
    recorder.work()
    assert not any(body.final for body in recorder.batches())
    (end,) = events_of(recorder, "producer_end")
    assert end["reason"] == reason


def test_data_lanes_are_durable_before_the_end_is_said() -> None:
    recorder = MemoryRecorder()
    opened = session(recorder)
    opened.record("annotations", 0, ANNOTATION, [b"a"])
    opened.end(rows=1, bad_rows=0, reason="finished")
    died = recorder.after_crash()
    assert [(body.stream, body.final) for body in died.batches()] == [("annotations", True)]


def test_the_start_names_key_and_earlier_lanes_and_the_end_all_heads_its_own_included() -> None:
    recorder = MemoryRecorder()
    opened = session(recorder)
    start(opened, [LaneView("annotations", 3, 1, 9, False)])
    opened.record("annotations", 3, ANNOTATION, [b"a"] * 25)
    opened.end(rows=26, bad_rows=1, reason="finished")
    recorder.work()
    (said,) = events_of(recorder, "producer_start")
    assert (said["public_key"], said["previous_epoch"]) == (SIGNER.public_key, 1)
    assert said["previous_lanes"] == [{"stream": "annotations", "partition": 3, "next_seq": 9}]
    (end,) = events_of(recorder, "producer_end")
    assert end["lanes"] == [
        {"stream": "annotations", "partition": 3, "next_seq": 25},
        {"stream": "lifecycle", "partition": 0, "next_seq": 2},
    ]
    assert (end["rows"], end["bad_rows"], end["epoch"]) == (26, 1, 2)
    assert {view.stream: view.next_seq for view in recorder.lanes_of("ingest/1")} == {"annotations": 25, "lifecycle": 2}


def test_a_heartbeat_comes_every_thirty_seconds_and_claims_only_what_is_durable() -> None:
    recorder = MemoryRecorder()
    clock = Clock()
    opened = session(recorder, clock=clock)
    start(opened)
    opened.record("annotations", 1, ANNOTATION, [b"a"] * 3)
    opened.beat_if_due()
    clock.now_us = NOW_US + HEARTBEAT_US
    opened.beat_if_due()
    opened.beat_if_due()
    durable = {body.stream: body for body in recorder.batches()}
    assert len(durable["annotations"].events) == 3
    opened.cut()
    recorder.work()
    (beat,) = events_of(recorder, "heartbeat")
    assert beat["lanes"] == [
        {"stream": "annotations", "partition": 1, "next_seq": 3},
        {"stream": "lifecycle", "partition": 0, "next_seq": 2},
    ]


def test_a_loss_uses_up_its_number_and_declares_it() -> None:
    recorder = MemoryRecorder()
    opened = session(recorder)
    opened.record("annotations", 0, ANNOTATION, [b"a"])
    opened.lose("annotations", 0, reason="oversize", input_sha256=None, input_line=2)
    opened.record("annotations", 0, ANNOTATION, [b"c"])
    opened.lose("annotations", 2, reason="oversize", input_sha256=None, input_line=4)
    opened.end(rows=4, bad_rows=0, reason="finished")
    recorder.work()
    found = [
        (body.partition, body.first_seq, body.events) for body in recorder.batches() if body.stream == "annotations"
    ]
    assert found == [(0, 0, [b"a"]), (0, 2, [b"c"]), (2, 1, [])]
    losses = events_of(recorder, "loss")
    assert [(each["partition"], each["first_seq"], each["count"], each["input_line"]) for each in losses] == [
        (0, 1, 1, 2),
        (2, 0, 1, 4),
    ]
    check_lanes(recorder)


@pytest.mark.parametrize("batch_events", [0, 4097])
def test_a_batch_size_that_no_sealer_accepts_is_refused(batch_events: int) -> None:
    with pytest.raises(ConfigError, match="batch_events"):
        session(MemoryRecorder(), batch_events=batch_events)
