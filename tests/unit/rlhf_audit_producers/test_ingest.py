"""One file into one recorder: once, whole, and resumable wherever it dies."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from feeding import Clock, events_of, feed, recording
from rlhf_audit_ledger.batch import MAX_BATCH_BYTES
from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_producers import records
from rlhf_audit_producers.batches import HEARTBEAT_US
from rlhf_audit_producers.input_file import InputChangedError
from rlhf_audit_producers.memory_recorder import MemoryRecorder
from rlhf_audit_producers.recorder import Epoch


class Crash(BaseException):
    """A dead process: not an Exception, so no handler in the code under test survives it."""


# What of a call's effect is there when the process dies in it; source logs are independent of one another.
Effect = Literal["nothing", "all", "lifecycle only", "annotations only", "half of each log"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)


class DyingRecorder(MemoryRecorder):
    """Dies at the n-th append, work, drain or epoch, with no effect of it, all of it or a part."""

    def die_at(self, call: int, effect: Effect) -> None:
        self._left, self._effect = call, effect

    def _step(self, act: Callable[[], Any], part: Callable[[], None] = lambda: None) -> Any:
        self._left -= 1
        if self._left == 0:
            if self._effect == "all":
                act()
            elif self._effect != "nothing":
                part()
            raise Crash
        return act()

    def _flush_part(self) -> None:
        if self._effect == "half of each log":
            logs: dict[tuple[str, int], list[bytes]] = {}
            for place, value in self._pending:
                logs.setdefault(place, []).append(value)
            self._pending = [(place, value) for place, log in logs.items() for value in log[: (len(log) + 1) // 2]]
        else:
            stream = self._effect.partition(" ")[0]
            self._pending = [(place, value) for place, value in self._pending if place[0] == stream]
        super().work()

    def append(self, stream: str, partition: int, values: Sequence[bytes]) -> None:
        self._step(lambda: super(DyingRecorder, self).append(stream, partition, values))

    def work(self) -> None:
        self._step(lambda: super(DyingRecorder, self).work(), self._flush_part)

    def drain(self) -> None:
        self._left -= 1
        if self._left == 0 and self._effect == "nothing":
            raise Crash
        super().work()
        if self._left == 0:
            raise Crash

    def take_epoch(self, producer: str) -> Epoch:
        return self._step(lambda: super(DyingRecorder, self).take_epoch(producer))  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK_RECORDS", 8)


def write(tmp_path: Path, lines: Iterable[str]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def row(number: int, **more: Any) -> str:
    return json.dumps({"annotator": f"r{number % 5}", "score": number, "item": f"i{number // 5}"} | more)


def mixed_file(tmp_path: Path) -> Path:
    """30 good rows, two bad ones and one that is too large, in between one another."""
    lines = [row(number) for number in range(30)]
    lines.insert(4, '{"annotator": ')
    lines.insert(17, row(99, prompt="x" * MAX_BATCH_BYTES))
    lines.insert(25, "[]")
    return write(tmp_path, lines)


def recorded_lines(recorder: MemoryRecorder) -> Counter[int]:
    """How often each line of the input stands in the recorder, as whatever kind."""
    return Counter(
        event["input_line"] for kind in ("annotation", "fault", "loss") for event in events_of(recorder, kind)
    )


def test_every_row_arrives_once_in_its_annotators_partition_and_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path, (row(number) for number in range(40)))
    report, recorder = feed(path)
    assert recorder.drained
    assert report.rows == report.events["annotation"] == 40
    assert report.annotators == 5
    lines: dict[tuple[str, int], list[int]] = {}
    for body in recorder.batches():
        if body.stream == "annotations":
            decoded = events_of_body(body)
            assert {partition_of(bytes(32), event["annotator"], 4) for event in decoded} <= {body.partition}
            lines.setdefault((body.stream, body.partition), []).extend(event["input_line"] for event in decoded)
    assert all(found == sorted(found) for found in lines.values())
    assert recorded_lines(recorder) == Counter(range(1, 41))


def events_of_body(body: Any) -> list[dict[str, Any]]:
    alone = MemoryRecorder()
    alone.batches = lambda producer=None: [body]  # type: ignore[method-assign]
    return events_of(alone, "annotation")


def test_rows_without_annotator_go_where_the_producer_goes(tmp_path: Path) -> None:
    path = write(tmp_path, ['{"prompt": "p", "score": 1}', '{"prompt": "q", "score": 2}'])
    report, recorder = feed(path)
    assert report.annotators is None
    partitions = {body.partition for body in recorder.batches() if body.stream == "annotations"}
    assert partitions == {partition_of(bytes(32), report.producer, 4)}
    lost = write(tmp_path, [row(0), '{"annotator": "NULL", "score": 3}'])
    assert feed(lost)[0].annotators == 1


def test_the_start_names_file_and_mapping_and_the_end_counts_rows(tmp_path: Path) -> None:
    report, recorder = feed(mixed_file(tmp_path), store_text=True)
    (start,) = events_of(recorder, "producer_start")
    assert (start["input_sha256"].hex(), start["mapping_sha256"].hex()) == (report.input_sha256, report.mapping_sha256)
    assert (start["purpose"], start["software"], start["epoch"]) == ("ingest", "test 1", 0)
    (end,) = events_of(recorder, "producer_end")
    assert (end["rows"], end["bad_rows"], end["reason"]) == (33, 2, "finished")
    assert (report.rows, report.faults, report.losses) == (33, 2, 1)
    assert [fault.line for fault in report.first_faults] == [5, 26]


def test_a_row_too_large_for_any_batch_uses_up_its_number_and_is_declared(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(0, prompt="x" * MAX_BATCH_BYTES), row(0)])
    report, recorder = feed(path, store_text=True)
    (loss,) = events_of(recorder, "loss")
    assert (loss["first_seq"], loss["count"], loss["reason"], loss["input_line"]) == (1, 1, "oversize", 2)
    assert [body.first_seq for body in recorder.batches() if body.stream == "annotations" and body.events] == [0, 2]
    assert report.events["annotation"] == 2
    assert feed(path)[0].losses == 0  # by digest alone it fits


def test_the_same_file_under_the_same_mapping_changes_nothing(tmp_path: Path) -> None:
    path = mixed_file(tmp_path)
    _, recorder = feed(path)
    before = {place: list(log) for place, log in recorder.durable.items()}
    again, _ = feed(path, recorder)
    assert again.outcome == "already ingested"
    assert (recorder.durable, recorder.epochs) == (before, {again.producer: 0})
    other, _ = feed(path, recorder, maps=["annotator=annotator,label=item"])
    assert other.outcome == "ingested"
    assert other.producer != again.producer


def test_an_empty_table_is_ingested_and_recognised_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("annotator,score\n", encoding="utf-8")
    report, recorder = feed(path)
    assert (report.rows, report.outcome) == (0, "ingested")
    assert feed(path, recorder)[0].outcome == "already ingested"


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("batch_events", [2, 64])
def test_dying_at_any_call_and_going_on_records_each_row_once(
    tmp_path: Path, batch_events: int, effect: Effect
) -> None:
    path = mixed_file(tmp_path)
    for call in itertools.count(1):
        recorder = DyingRecorder()
        recorder.die_at(call, effect)
        try:
            feed(path, recorder, store_text=True, process=recording(batch_events=batch_events, seed=1))
        except Crash:
            survivor = recorder.after_crash()
            report, _ = feed(path, survivor, store_text=True, process=recording(batch_events=batch_events, seed=2))
            assert recorded_lines(survivor) == Counter(range(1, 34)), f"died at call {call}"
            assert_well_ended(survivor, report.producer)
            assert feed(path, survivor, store_text=True)[0].outcome == "already ingested"
        else:
            assert call > 10
            return  # past the last call: every point was tried


def assert_well_ended(recorder: MemoryRecorder, producer: str) -> None:
    """The newest epoch ended, counts are over all epochs, and it names the one before it."""
    newest = max(body.epoch for body in recorder.batches(producer))
    ends = events_of(recorder, "producer_end", producer)
    assert (ends[-1]["rows"], ends[-1]["bad_rows"], ends[-1]["epoch"]) == (33, 2, newest)
    starts = {event["epoch"]: event for event in events_of(recorder, "producer_start", producer)}
    if newest:
        assert starts[newest]["previous_epoch"] == newest - 1
        heads = {
            (body.stream, body.partition): body.first_seq + len(body.events)
            for body in recorder.batches(producer)
            if body.epoch == newest - 1
        }
        told = {(each["stream"], each["partition"]): each["next_seq"] for each in starts[newest]["previous_lanes"]}
        assert told == heads or not set(told) - set(heads)


def test_dying_again_and_again_still_records_each_row_once(tmp_path: Path) -> None:
    path = mixed_file(tmp_path)
    survivor = MemoryRecorder()
    for life in itertools.count(1):
        dying = DyingRecorder(durable=survivor.durable, epochs=survivor.epochs)
        dying.die_at(3 + life, EFFECTS[life % len(EFFECTS)])
        try:
            feed(path, dying, store_text=True, process=recording(batch_events=2, seed=life))
        except Crash:
            survivor = dying.after_crash()
        else:
            survivor = dying
            break
    assert recorded_lines(survivor) == Counter(range(1, 34))
    assert life > 3


def test_being_asked_to_stop_keeps_what_was_read_and_goes_on_later(tmp_path: Path) -> None:
    path = mixed_file(tmp_path)
    asked = iter([False, False, True])
    report, recorder = feed(path, stop=lambda: next(asked))
    assert report.outcome == "interrupted"
    assert recorder.drained
    assert 0 < len(recorded_lines(recorder)) < 33
    assert events_of(recorder, "producer_end")[-1]["reason"] == "interrupted"
    again, _ = feed(path, recorder)
    assert (again.outcome, again.epoch, again.continues_epoch) == ("ingested", 1, 0)
    assert again.already_sealed > 0
    assert recorded_lines(recorder) == Counter(range(1, 34))


def test_a_file_that_changes_under_the_reader_stops_it_and_the_end_says_failed(tmp_path: Path) -> None:
    path = write(tmp_path, (row(number) for number in range(40)))
    recorder = MemoryRecorder()

    def change() -> bool:
        with path.open("a", encoding="utf-8") as file:
            file.write(row(41) + "\n")
        return False

    with pytest.raises(InputChangedError, match="changed while it was read"):
        feed(path, recorder, stop=change)
    (end,) = events_of(recorder, "producer_end")
    assert end["reason"] == "failed"
    assert recorder.drained
    assert not any(body.final for body in recorder.batches())


def test_a_gzip_that_breaks_off_keeps_its_rows_and_has_one_fault(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    text = "".join(row(number, prompt=f"{number * 7919 % 1013}") + "\n" for number in range(300)).encode()
    path.write_bytes(gzip.compress(text)[:-40])
    report, recorder = feed(path)
    kept = report.events["annotation"]
    assert 100 < kept < 300
    assert [(fault.line, fault.reason) for fault in report.first_faults] == [
        (kept + 1, "gzip data break off here, the rest of the file is missing")
    ]
    assert recorded_lines(recorder) == Counter(range(1, kept + 2))
    assert feed(path, recorder)[0].outcome == "already ingested"


def test_heartbeats_are_recorded_while_a_long_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, (row(number) for number in range(100)))
    _, recorder = feed(path, process=recording(clock=Clock(step_us=HEARTBEAT_US // 4)))
    beats = events_of(recorder, "heartbeat")
    assert len(beats) > 3
    heads = [sum(head["next_seq"] for head in beat["lanes"]) for beat in beats]
    assert heads == sorted(heads)


def test_salts_are_random_bytes_of_their_own_for_every_event(tmp_path: Path) -> None:
    _, recorder = feed(write(tmp_path, (row(number) for number in range(50))))
    salts = [event["salt"] for event in events_of(recorder, "annotation")]
    assert len(set(salts)) == 50


def test_the_report_is_plain_json_without_texts(tmp_path: Path) -> None:
    path = write(tmp_path, [row(0, prompt="secret"), '{"annotator": "secret"', row(1, prompt="secret")])
    report, _ = feed(path)
    text = json.dumps(report.to_json())
    assert json.loads(text)["faults"] == 1
    assert "secret" not in text
