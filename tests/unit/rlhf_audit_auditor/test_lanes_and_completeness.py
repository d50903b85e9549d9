"""What lanes show: gaps, resends, late openings, producers' own words; a producer spoils his lanes, not the ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import PRODUCER, ROOT, START_US, STRANGER, Lane
from evidence_world import Partition, World
from rlhf_audit_auditor.completeness import _MISSING, _UNSURE, Completeness, _said
from rlhf_audit_auditor.report import Report
from rlhf_audit_ledger.batch import encode_batch
from rlhf_audit_schemas.kinds import KINDS


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def passed(world: World) -> Completeness:
    """Completeness of a trail in which nothing contradicts."""
    report = world.verify()
    assert report.findings == []
    assert report.exit_code == 0
    assert report.completeness is not None
    return report.completeness


def say(part: Partition, lane: Lane, kind: str, **fields: Any) -> None:
    """One lifecycle event of the lane's producer."""
    body = lane.next_body
    record = {"salt": bytes(16), "ts_us": START_US, "producer": body.producer, "epoch": body.epoch, **fields}
    number = KINDS[kind].number
    part.take(lane.cut(events=(KINDS[kind].codec.encode(record),), kind=number).value)


def head(stream: str, partition: int, next_seq: int) -> dict[str, Any]:
    return {"stream": stream, "partition": partition, "next_seq": next_seq}


def end_of(*heads: dict[str, Any]) -> dict[str, Any]:
    return {"lanes": list(heads), "rows": 0, "bad_rows": 0, "reason": "interrupted"}


def test_an_ended_lane_is_complete(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    part.take(lane.cut(3).value, lane.cut(2, final=True).value)
    part.close()
    assert passed(world).verdict == "yes"


def test_a_lane_without_an_end_is_unknown(world: World) -> None:
    part = world.partition()
    part.take(part.lane().cut(3).value)
    part.close()
    found = passed(world)
    assert (found.verdict, found.counts["open_lanes"]) == ("unknown", 1)


def test_an_open_gap_is_incomplete_and_a_filled_one_is_not(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    batches = [lane.cut(2).value, lane.cut(3).value, lane.cut(1, final=True).value]
    part.take(batches[0], batches[2])
    part.close()
    found = passed(world)
    assert (found.verdict, found.counts["gap_numbers"]) == ("no", 3)
    part.take(batches[1])
    part.close()
    assert passed(world).verdict == "yes"


def test_batches_that_do_not_name_one_another_across_a_filled_gap_are_a_broken_lane(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    first, second, third = lane.cut(2), lane.body(3), lane.cut(3)
    last = lane.cut(1, final=True)
    part.take(first.value, last.value)
    other = encode_batch(replace(second, prev_batch=bytes(32)), PRODUCER)
    assert other.digest != third.digest
    part.take(encode_batch(replace(second, prev_batch=bytes(32)), ROOT).value)
    part.close()
    found = passed(world)
    assert (found.verdict, found.counts["broken_lanes"]) == ("no", 2)


def test_a_resent_batch_is_fine_and_other_bytes_under_its_numbers_are_a_conflict(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    forked = lane.other(3, events=(b"x", b"y", b"z"))
    first, second = lane.cut(3), lane.cut(2, final=True)
    part.take(first.value, second.value)
    part.close()
    part.take(first.value, second.value)
    part.close()
    assert passed(world).verdict == "yes"
    part.take(forked.value)
    part.close()
    found = passed(world)
    assert (found.verdict, found.counts["conflicts"]) == ("no", 1)
    assert any(first.digest.hex() in text and forked.digest.hex() in text for text in found.examples)


def test_a_conflict_with_the_newest_batch_names_both_digests(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    forked = lane.other(3, events=(b"x", b"y", b"z"))
    part.take(lane.cut(3).value, forked.value, lane.cut(1, final=True).value)
    part.close()
    found = passed(world)
    assert found.counts["conflicts"] == 1
    assert any(forked.digest.hex() in text for text in found.examples)


def test_a_batch_that_comes_after_its_epoch_was_replaced_is_late(world: World) -> None:
    part = world.partition()
    old, new = part.lane(epoch=0), part.lane(epoch=1)
    part.take(new.cut(2, final=True).value, old.cut(4, final=True).value)
    part.close()
    found = passed(world)
    assert (found.verdict, found.counts["late"]) == ("no", 1)


def late_opening(part: Partition, early: bytes, opening: bytes) -> Report:
    part.take(early, opening)
    part.close()
    return part.world.verify()


def test_a_lane_whose_opening_comes_late_must_have_signed_what_came_before(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    opening, second = lane.cut(2), lane.cut(2, final=True)
    report = late_opening(part, second.value, opening.value)
    assert report.exit_code == 0
    assert report.completeness is not None
    assert report.completeness.verdict == "yes"


@pytest.mark.parametrize("signer", [None, STRANGER])
def test_a_batch_before_the_opening_that_the_lanes_key_did_not_sign_is_a_finding(world: World, signer: Any) -> None:
    part = world.partition()
    lane = part.lane()
    opening, second = lane.cut(2), lane.body(2, final=True)
    report = late_opening(part, encode_batch(second, signer).value, opening.value)
    assert [finding.code for finding in report.findings] == ["lane"]
    assert report.findings[0].place == "annotations/0, window 0"


def test_a_producers_end_accounts_for_its_open_lanes(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    lane, own = part.lane(), life.lane()
    part.take(lane.cut(3).value)
    part.close()
    say(life, own, "producer_end", **end_of(head("annotations", 0, 3), head("lifecycle", 0, 1)))
    life.close()
    assert passed(world).verdict == "yes"


def test_numbers_announced_and_not_sealed_are_missing(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    lane, own = part.lane(), life.lane()
    part.take(lane.cut(3).value)
    part.close()
    heads = (head("annotations", 0, 5), head("annotations", 1, 7), head("lifecycle", 0, 1))
    say(life, own, "producer_end", **end_of(*heads))
    life.close()
    found = passed(world)
    assert (found.verdict, found.counts["announced_unsealed"]) == ("no", 9)


def test_a_lane_that_goes_on_after_its_announced_end_is_unknown(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    lane, own = part.lane(), life.lane()
    part.take(lane.cut(3).value)
    part.close()
    say(life, own, "producer_end", **end_of(head("annotations", 0, 2), head("lifecycle", 0, 1)))
    life.close()
    found = passed(world)
    assert (found.verdict, found.counts["contradicted"]) == ("unknown", 1)


def test_a_statement_about_somebody_elses_lanes_holds_nothing(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    part.take(part.lane("ingest/victim").cut(3).value)
    part.close()
    own = life.lane("ingest/other")
    say(life, own, "producer_end", producer="ingest/victim", **end_of(head("annotations", 0, 3)))
    life.take(own.cut(0, final=True).value)
    life.close()
    found = passed(world)
    assert (found.verdict, found.counts["open_lanes"], found.counts["foreign_statements"]) == ("unknown", 1, 1)


def test_a_declared_loss_explains_its_gap_and_is_still_a_loss(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    lane, own = part.lane(), life.lane()
    part.take(lane.cut(2).value)
    lane.next_body = replace(lane.next_body, first_seq=3)
    part.take(lane.cut(1, final=True).value)
    part.close()
    lost = {"stream": "annotations", "partition": 0, "first_seq": 2, "count": 1, "reason": "oversize"}
    say(life, own, "loss", **lost, input_sha256=None, input_line=None)
    life.take(own.cut(0, final=True).value)
    life.close()
    found = passed(world)
    assert (found.counts["gap_numbers"], found.counts["loss_numbers"], found.verdict) == (0, 1, "no")


def test_a_producer_found_dead_makes_completeness_unknown(world: World) -> None:
    life = world.partition("lifecycle")
    own = life.lane()
    dead = {"producer": "ingest/dead", "epoch": 0, "lanes": [], "found_by": "ingest/aa", "reason": "lock was free"}
    say(life, own, "producer_lost", **dead)
    life.take(own.cut(0, final=True).value)
    life.close()
    found = passed(world)
    assert (found.verdict, found.counts["producers_lost"]) == ("unknown", 1)


def test_the_epoch_that_takes_over_accounts_for_the_one_before(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    part.take(part.lane(epoch=0).cut(3).value)
    part.close()
    new, own = part.lane(epoch=1), life.lane(epoch=1)
    start(life, own, ROOT.public_key, previous_epoch=0, previous_lanes=[head("annotations", 0, 3)])
    life.take(own.cut(0, final=True).value)
    life.close()
    part.take(new.cut(1, final=True).value)
    part.close()
    assert passed(world).verdict == "yes"


def start(part: Partition, lane: Lane, key: bytes, **fields: Any) -> None:
    """A producer_start."""
    ordinary: dict[str, Any] = {
        "software": "test",
        "purpose": "ingest",
        "run_id": None,
        "previous_epoch": None,
        "previous_lanes": [],
        "input_sha256": None,
        "mapping_sha256": None,
    }
    say(part, lane, "producer_start", public_key=key, **(ordinary | fields))


def test_a_lane_under_a_key_that_its_producer_did_not_announce_is_unknown(world: World) -> None:
    part, life = world.partition(), world.partition("lifecycle")
    own = life.lane()
    start(life, own, ROOT.public_key)
    life.take(own.cut(0, final=True).value)
    life.close()
    assert passed(world).verdict == "yes"
    part.take(part.lane(signer=STRANGER).cut(1, final=True).value)
    part.close()
    found = passed(world)
    assert (found.verdict, found.counts["other_keys"]) == ("unknown", 1)


def test_a_quarantined_message_is_counted_with_its_reason(world: World) -> None:
    part = world.partition()
    part.take(b"garbage", part.lane().cut(1, final=True).value)
    part.close()
    report = world.verify()
    assert report.exit_code == 0
    assert report.completeness is not None
    assert report.completeness.counts["quarantined"] == 1
    assert report.partitions[0].reasons == {"undecodable": 1}


def test_holes_and_junk_of_every_sort_do_not_stop_the_check(world: World) -> None:
    part = world.partition()
    lane = part.lane()
    part.take(None, b"", b"\x01", b"\x02", lane.cut(2).value, None, lane.cut(1, final=True).value)
    part.close()
    report = world.verify()
    assert report.exit_code == 0
    assert report.payloads.rehashed == report.payloads.messages == 6


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [
        ("{} batch[es] sent", "1 batch sent", "2 batches sent"),
        ("{} key[s]", "1 key", "2 keys"),
    ],
)
def test_one_of_a_thing_is_told_in_the_singular(text: str, one: str, two: str) -> None:
    assert (_said(text, 1), _said(text, 2)) == (one, two)


def test_every_reason_is_a_sentence_for_one_and_for_many() -> None:
    for text in (*_MISSING.values(), *_UNSURE.values()):
        assert "[" not in _said(text, 1) + _said(text, 2)
        assert _said(text, 1).removeprefix("1") != _said(text, 2).removeprefix("2")
