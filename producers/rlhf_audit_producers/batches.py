"""Lanes and batches of one recording process (``docs/format.md`` sections 1 and 2).

A lane numbers its events from 0 without gaps and cuts them into batches of one
kind; each batch names the digest of the one before it, the first one carries
the key that signs them all, the last one says ``final``. A batch is cut once:
its bytes go to the recorder and are never made again.

An event that is too large for any batch uses up its number and is declared by
a ``loss`` event, so that the hole in the numbers explains itself. Nothing here
knows what an event says or where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rlhf_audit_ledger.batch import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, NO_BATCH, BatchBody, encode_batch
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_producers.recorder import LaneView, Recorder
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_schemas.kinds import KINDS, Kind

HEARTBEAT_US = 30_000_000  # format section 2: a heartbeat every 30 s
LIFECYCLE = "lifecycle"

EndReason = Literal["finished", "interrupted", "failed"]
Now = Callable[[], int]


class Lane:
    """One lane; keeps at most one batch of events back, so that the last batch can say ``final``."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        producer: str,
        epoch: int,
        stream: str,
        partition: int,
        signer: Signer | None,
        batch_events: int,
    ) -> None:
        self._recorder, self._signer, self._limit = recorder, signer, batch_events
        self.producer, self.epoch, self.stream, self.partition = producer, epoch, stream, partition
        self._next_seq = 0
        self._previous = NO_BATCH
        self._kind: Kind | None = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._gaps, self._gap_open, self._written = 0, False, 0

    @property
    def head(self) -> int:
        """Number of the next event that is put in."""
        return self._next_seq + len(self._waiting)

    @property
    def written(self) -> int:
        """Number after the last event that went into a batch."""
        return self._written

    def put(self, kind: Kind, events: Sequence[bytes]) -> None:
        """Number these events, in order. None of them may be larger than ``MAX_BATCH_BYTES``."""
        if self._kind is not kind:
            self.cut()
            self._kind = kind
        self._waiting.extend(events)
        self._waiting_bytes += sum(map(len, events))
        while len(self._waiting) > self._limit or self._waiting_bytes > MAX_BATCH_BYTES:
            self._cut_one(final=False)

    def skip_number(self) -> int:
        """Use up one number for an event that is dropped on purpose, and return it."""
        return self.skip(1)

    def skip(self, count: int) -> int:
        """Use up the next ``count`` numbers for events that are dropped on purpose, and return the first."""
        self.cut()
        self._next_seq += count
        self._gap_open = True
        return self._next_seq - count

    def drop_waiting(self) -> tuple[int, int]:
        """Drop what waits and use up its numbers: (first, count)."""
        first, count = self._next_seq, len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._next_seq += count
        self._gap_open = self._gap_open or count > 0
        return first, count

    @property
    def waiting(self) -> int:
        """Events that are numbered and not yet in a batch."""
        return len(self._waiting)

    @property
    def gaps(self) -> int:
        """Runs of numbers that were used up, each a gap in the sealed lane."""
        return self._gaps + self._gap_open

    def cut(self) -> None:
        """Hand everything to the recorder."""
        while self._waiting:
            self._cut_one(final=False)

    def finish(self) -> None:
        """Hand over the rest and end the lane, with an empty batch if nothing waits."""
        while self._batch_size() < len(self._waiting):
            self._cut_one(final=False)
        self._cut_one(final=True)

    def _batch_size(self) -> int:
        if len(self._waiting) <= self._limit and self._waiting_bytes <= MAX_BATCH_BYTES:
            return len(self._waiting)
        total = 0
        for count, event in enumerate(self._waiting[: self._limit]):
            total += len(event)
            if total > MAX_BATCH_BYTES:
                return count
        return self._limit

    def _cut_one(self, *, final: bool) -> None:
        size = self._batch_size()
        events = self._waiting[:size]
        kind = self._kind or KINDS["annotation"]
        opens = self._next_seq == 0 and self._signer is not None  # behind lost numbers producer_start tells the key
        body = BatchBody(
            ledger_id=self._recorder.ledger_id,
            producer=self.producer,
            epoch=self.epoch,
            stream=self.stream,
            partition=self.partition,
            first_seq=self._next_seq,
            kind=kind.number,
            schema=kind.schema,
            prev_batch=self._previous,
            open_key=self._signer.public_key if opens and self._signer is not None else None,
            enrolment=None,
            final=final,
            events=events,
        )
        encoded = encode_batch(body, self._signer)
        self._recorder.append(self.stream, self.partition, [encoded.value])
        self._previous = encoded.digest
        self._gaps, self._gap_open = self.gaps, False
        self._next_seq += size
        self._written = self._next_seq
        del self._waiting[:size]
        self._waiting_bytes -= sum(map(len, events))


class ProducerSession:
    """All lanes of one producer in one epoch, from ``producer_start`` to ``producer_end``."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        producer: str,
        epoch: int,
        signer: Signer | None,
        batch_events: int,
        now_us: Now,
        salt: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not 1 <= batch_events <= MAX_BATCH_EVENTS:
            raise ConfigError(f"batch_events: expected 1 to {MAX_BATCH_EVENTS}, found {batch_events}")
        self.producer, self.epoch = producer, epoch
        self._recorder, self._signer, self._batch_events = recorder, signer, batch_events
        self._now_us, self._salt = now_us, salt
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._lifecycle = self._lane(
            LIFECYCLE, partition_of(recorder.routing_key, producer, recorder.partitions[LIFECYCLE])
        )
        self._last_beat_us = now_us()

    def start(
        self,
        *,
        software: str,
        previous_epoch: int | None,
        previous_lanes: Sequence[LaneView],
        input_sha256: bytes | None = None,
        mapping_sha256: bytes | None = None,
        purpose: str = "ingest",
        run_id: str | None = None,
    ) -> None:
        """Say who records from here on, under which key, and what this producer had said before."""
        self._say(
            "producer_start",
            public_key=None if self._signer is None else self._signer.public_key,
            software=software,
            purpose=purpose,
            run_id=run_id,
            previous_epoch=previous_epoch,
            previous_lanes=[_head(view.stream, view.partition, view.next_seq) for view in previous_lanes],
            input_sha256=input_sha256,
            mapping_sha256=mapping_sha256,
        )

    def record(self, stream: str, partition: int, kind: Kind, events: Sequence[bytes]) -> None:
        """Put events of at most ``MAX_BATCH_BYTES`` into their lane."""
        self._lane(stream, partition).put(kind, events)

    def record_lifecycle(self, kind: Kind, events: Sequence[bytes]) -> None:
        """Put events into the producer's own lifecycle lane."""
        self._lifecycle.put(kind, events)

    def lose(
        self, stream: str, partition: int, *, reason: str, input_sha256: bytes | None, input_line: int | None
    ) -> None:
        """Use up one number of a lane and declare it."""
        first = self._lane(stream, partition).skip_number()
        self.declare_loss(stream, partition, first, 1, reason, input_sha256=input_sha256, input_line=input_line)

    def declare_loss(
        self,
        stream: str,
        partition: int,
        first_seq: int,
        count: int,
        reason: str,
        *,
        input_sha256: bytes | None = None,
        input_line: int | None = None,
    ) -> None:
        """Say that these numbers of a lane were used up by events that are gone."""
        self._say(
            "loss",
            stream=stream,
            partition=partition,
            first_seq=first_seq,
            count=count,
            reason=reason,
            input_sha256=input_sha256,
            input_line=input_line,
        )

    def say(self, kind: str, **fields: Any) -> None:
        """Record an event of the producer's own, in its lifecycle lane."""
        self._say(kind, **fields)

    def lane(self, stream: str, partition: int) -> Lane:
        """A lane of this producer, made if it is new."""
        return self._lane(stream, partition)

    @property
    def lanes(self) -> Mapping[tuple[str, int], Lane]:
        """All lanes so far, by stream and partition."""
        return self._lanes

    @property
    def lifecycle(self) -> Lane:
        """The producer's own lane, in which it speaks about itself."""
        return self._lifecycle

    def beat_if_due(self) -> None:
        """Every 30 s say how far each lane has come; only what is durable by then is claimed."""
        now = self._now_us()
        if now - self._last_beat_us < HEARTBEAT_US:
            return
        self._last_beat_us = now
        self.cut()
        self._recorder.work()
        self._say("heartbeat", lanes=self._heads())

    def cut(self) -> None:
        """Hand everything that waits to the recorder."""
        for lane in self._lanes.values():
            lane.cut()

    def end(self, *, rows: int, bad_rows: int, reason: EndReason, is_final: bool | None = None) -> None:
        """Say how far every lane has come, last of all and in the producer's own lane.

        Lanes end (``final``) when finished, or as ``is_final`` says; otherwise
        they stay open for the next epoch to supersede. Data lanes are durable before the end is
        said: a lifecycle lane that has ended proves that nothing is missing.
        """
        ends = reason == "finished" if is_final is None else is_final
        others = [lane for lane in self._lanes.values() if lane is not self._lifecycle]
        for lane in others:
            if ends:
                lane.finish()
            else:
                lane.cut()
        self._recorder.work()
        self._say("producer_end", lanes=self._heads(), rows=rows, bad_rows=bad_rows, reason=reason)
        if ends:
            self._lifecycle.finish()
        else:
            self._lifecycle.cut()

    def _heads(self) -> list[Mapping[str, object]]:
        """Heads of all lanes; the own one counts the event that is about to be said."""
        return [
            _head(lane.stream, lane.partition, lane.head + (lane is self._lifecycle))
            for _, lane in sorted(self._lanes.items())
        ]

    def _say(self, kind: str, **fields: Any) -> None:
        record = {"salt": self._salt(16), "ts_us": self._now_us(), "producer": self.producer, "epoch": self.epoch}
        self._lifecycle.put(KINDS[kind], [KINDS[kind].codec.encode(record | fields)])

    def _lane(self, stream: str, partition: int) -> Lane:
        lane = self._lanes.get((stream, partition))
        if lane is None:
            lane = self._lanes[stream, partition] = Lane(
                self._recorder,
                producer=self.producer,
                epoch=self.epoch,
                stream=stream,
                partition=partition,
                signer=self._signer,
                batch_events=self._batch_events,
            )
        return lane


def _head(stream: str, partition: int, next_seq: int) -> Mapping[str, object]:
    return {"stream": stream, "partition": partition, "next_seq": next_seq}
