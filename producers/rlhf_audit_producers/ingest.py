"""Reading one file into a ledger: recognise, go on or begin, record, end.

1. The file is hashed and its mapping digested; together they name the producer.
2. If that producer ended here before, nothing is done.
3. A new epoch is taken. If an earlier one was cut short, the rows it delivered
   are skipped: a row's partition and order follow from the file, the mapping and
   the routing key alone, so the first n events of a partition are the ones sealed.
4. Every row becomes one event, one ``fault`` or one ``loss``, in file order.
5. Lanes end and ``producer_end`` tells the counts. Returns when all is sealed.

A file that changes under the reader stops it: what was read from then on belongs
to no digest. The producer then ends with reason ``failed``, its lanes stay open.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import compress

from rlhf_audit_ledger.batch import MAX_BATCH_BYTES
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.ids import partition_of
from rlhf_audit_producers.batches import LIFECYCLE, EndReason, Now, ProducerSession
from rlhf_audit_producers.ingest_report import IngestReport
from rlhf_audit_producers.input_file import InputChangedError, InputFile, OnBytes
from rlhf_audit_producers.layout import Sniffed
from rlhf_audit_producers.mapping import Mapping, check, producer_id
from rlhf_audit_producers.preparing import SALT_BYTES, Prepared, Preparer, PreparingProcess
from rlhf_audit_producers.recorder import EventCounts, LaneView, Recorder
from rlhf_audit_producers.records import RowFault
from rlhf_audit_schemas.codec import Constant
from rlhf_audit_schemas.kinds import KINDS, Kind

logger = logging.getLogger(__name__)

MAX_KNOWN_ROUTES = 100_000  # annotators whose partition is remembered
_OVERSIZE = "oversize"


@dataclass(frozen=True, slots=True)
class Recording:
    """How this process records: what every file of a run shares."""

    signer: Signer | None
    """Key of this process; None records unsigned."""
    batch_events: int
    software: str
    now_us: Now
    salt: Callable[[int], bytes]
    """Random bytes; secure in production."""


def ingest_file(
    source: InputFile,
    sniffed: Sniffed,
    mapping: Mapping,
    recorder: Recorder,
    recording: Recording,
    *,
    on_bytes: OnBytes | None = None,
    stop: Callable[[], bool] = lambda: False,
    reads_in_a_process: bool = False,
) -> IngestReport:
    """Ingest a file whose ``hash`` was taken. ``stop`` is asked between chunks; what was read is kept then.

    ``reads_in_a_process`` leaves reading and encoding to a second core; it pays from some ten thousand rows on.

    Raises ConfigError if the mapping does not fit the file, InputChangedError if the file changes.
    """
    check(mapping, sniffed)
    mapping_sha256 = mapping.digest(sniffed)
    producer = producer_id(source.sha256, mapping_sha256)
    report = IngestReport(str(source.path), producer, source.sha256.hex(), mapping_sha256.hex())
    last_epoch = recorder.last_epoch(producer)
    lanes = recorder.lanes_of(producer) if last_epoch is not None else []
    if has_ended(lanes):
        recorder.drain()  # its end may be sealed and not stored yet, if the process died in between
        report.outcome, report.epoch = "already ingested", last_epoch
        return report
    delivered: EventCounts = recorder.delivered(producer) if last_epoch is not None else {}
    epoch = recorder.take_epoch(producer)
    report.epoch, report.continues_epoch = epoch.number, epoch.previous
    session = ProducerSession(
        recorder,
        producer=producer,
        epoch=epoch.number,
        signer=recording.signer,
        batch_events=recording.batch_events,
        now_us=recording.now_us,
        salt=recording.salt,
    )
    session.start(
        software=recording.software,
        previous_epoch=epoch.previous,
        previous_lanes=[lane for lane in lanes if lane.epoch == epoch.previous],
        input_sha256=source.sha256,
        mapping_sha256=mapping_sha256,
    )
    preparer: Preparer | PreparingProcess
    if reads_in_a_process:
        preparer = PreparingProcess(source, sniffed, mapping)
    else:
        preparer = Preparer(source, sniffed, mapping, salt=recording.salt, now_us=recording.now_us)
    writer = _RowWriter(session, recorder, recording, KINDS[mapping.kind], producer, source.sha256, delivered, report)
    reason: EndReason = "finished"
    changed: InputChangedError | None = None
    try:
        with closing(preparer.chunks(on_bytes)) as chunks:
            for chunk in chunks:
                if stop():
                    reason, report.outcome = "interrupted", "interrupted"
                    break
                writer.write(chunk)
                session.beat_if_due()
                recorder.work()
    except InputChangedError as error:
        reason, changed = "failed", error
    session.end(rows=report.rows, bad_rows=report.faults, reason=reason)
    recorder.drain()
    if changed is not None:
        raise changed
    if reason == "finished":
        summary = preparer.summary()
        report.warnings, report.owner = summary.warnings, summary.owner
    report.annotators = len(writer.annotators) if mapping.has("annotator") else None
    logger.info("ingest %s: producer=%s rows=%d faults=%d", report.outcome, producer, report.rows, report.faults)
    return report


def has_ended(lanes: Sequence[LaneView]) -> bool:
    """Whether the newest epoch said its end. Its lifecycle lane ends last of all, after everything else was durable."""
    newest = max((lane.epoch for lane in lanes), default=0)
    return any(lane.stream == LIFECYCLE and lane.ended and lane.epoch == newest for lane in lanes)


class _RowWriter:
    """Puts mapped chunks into lanes, less what earlier epochs delivered."""

    def __init__(
        self,
        session: ProducerSession,
        recorder: Recorder,
        recording: Recording,
        kind: Kind,
        producer: str,
        input_sha256: bytes,
        delivered: EventCounts,
        report: IngestReport,
    ) -> None:
        self._session, self._recording, self._report = session, recording, report
        self._kind, self._producer, self._input_sha256 = kind, producer, input_sha256
        self._routing_key = recorder.routing_key
        self._partitions = recorder.partitions[self._kind.stream]
        self._own = partition_of(self._routing_key, producer, self._partitions)
        self._routes: dict[str | None, int] = {None: self._own}
        self.annotators: set[str | None] = set()
        self._skip = {
            partition: delivered.get((self._kind.stream, partition, self._kind.name), 0)
            for partition in range(self._partitions)
        }
        self._skip_faults = sum(n for (_, _, kind), n in delivered.items() if kind == "fault")
        self._skip_losses = sum(n for (_, _, kind), n in delivered.items() if kind == "loss")

    def write(self, chunk: Prepared) -> None:
        """Record every row of a chunk once."""
        report = self._report
        report.rows += chunk.rows
        report.add_faults(chunk.faults)
        self._write_faults(chunk.faults)
        if not chunk.events:
            return
        if max(map(len, chunk.events)) > MAX_BATCH_BYTES:
            self._write_one_by_one(chunk)
            return
        report.events[self._kind.name] += len(chunk.events)
        for partition, mine in self._by_partition(chunk):
            known = min(self._skip[partition], len(mine))
            self._skip[partition] -= known
            report.already_sealed += known
            if known < len(mine):
                self._session.record(self._kind.stream, partition, self._kind, mine[known:] if known else mine)

    def _by_partition(self, chunk: Prepared) -> Iterator[tuple[int, list[bytes]]]:
        if chunk.annotators is None:
            yield self._own, chunk.events
            return
        routes = self._routes_of(chunk.annotators)
        partitions = [routes[annotator] for annotator in chunk.annotators]
        for partition in sorted(set(partitions)):
            yield partition, list(compress(chunk.events, [each == partition for each in partitions]))

    def _write_one_by_one(self, chunk: Prepared) -> None:
        """The slow way, for a chunk that holds an event too large for any batch."""
        routes = self._routes_of(chunk.annotators or [])
        stream, report = self._kind.stream, self._report
        for at, event in enumerate(chunk.events):
            partition = self._own if chunk.annotators is None else routes[chunk.annotators[at]]
            if len(event) > MAX_BATCH_BYTES:
                report.losses += 1
                if self._skip_losses:
                    self._skip_losses -= 1
                    continue
                self._session.lose(
                    stream, partition, reason=_OVERSIZE, input_sha256=self._input_sha256, input_line=chunk.lines[at]
                )
                continue
            report.events[self._kind.name] += 1
            if self._skip[partition]:
                self._skip[partition] -= 1
                report.already_sealed += 1
            else:
                self._session.record(stream, partition, self._kind, [event])

    def _routes_of(self, annotators: Sequence[str | None]) -> dict[str | None, int]:
        distinct = set(annotators)
        if len(self.annotators) < MAX_KNOWN_ROUTES:
            self.annotators |= distinct - {None}
        if len(self._routes) > MAX_KNOWN_ROUTES:
            self._routes = {None: self._own}
        for annotator in distinct:
            if annotator is not None and annotator not in self._routes:
                self._routes[annotator] = partition_of(self._routing_key, annotator, self._partitions)
        return self._routes

    def _write_faults(self, faults: Sequence[RowFault]) -> None:
        known = min(self._skip_faults, len(faults))
        self._skip_faults -= known
        fresh = faults[known:]
        if not fresh:
            return
        kind, count = KINDS["fault"], len(fresh)
        salts = self._recording.salt(SALT_BYTES * count)
        events = kind.codec.encode_columns(
            {
                "salt": [salts[at : at + SALT_BYTES] for at in range(0, len(salts), SALT_BYTES)],
                "ts_us": Constant(self._recording.now_us()),
                "producer": Constant(self._producer),
                "input_sha256": Constant(self._input_sha256),
                "input_line": [fault.line for fault in fresh],
                "reason": [fault.reason for fault in fresh],
                "row_sha256": [fault.row_sha256 for fault in fresh],
                "row_bytes": [fault.row_bytes for fault in fresh],
            },
            count,
        )
        self._session.record_lifecycle(kind, events)
