"""Small ledgers for tests: fixed keys, a genesis, producers that cut batches, ticks, whole source logs.

Pure: no file, no clock, no randomness, so the same call gives the same bytes. Events are opaque to the seal step and
stay short byte strings here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from rlhf_audit_ledger.batch import NO_BATCH, BatchBody, EncodedBatch, encode_batch
from rlhf_audit_ledger.control import ControlType, FormatSwitch, SchemaAdd, SourceSwitch, Tick, signed_control
from rlhf_audit_ledger.ed25519 import SeedSigner, Signer
from rlhf_audit_ledger.genesis import (
    MAX_WINDOW_ENTRIES,
    MAX_WINDOW_MESSAGES,
    Genesis,
    KeyRole,
    SchemaEntry,
    StreamSettings,
)
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer, seal_all
from rlhf_audit_ledger.settings import PartitionSettings, partition_settings
from rlhf_audit_ledger.state import SealState, first_state, genesis_entry

ROOT, LOG, TICKER, OPERATOR, ENROLMENT, PRODUCER, STRANGER = (SeedSigner(bytes([n]) * 32) for n in range(1, 8))
SOURCE_ID = bytes(range(16))
OTHER_SOURCE_ID = bytes(range(16, 32))
QUARANTINE_KEY = bytes(range(32))
START_US = 1_750_000_000_000_000
WINDOW_US = 60_000_000
ANNOTATION = 0x0101
PRODUCER_START = 0x0301


def make_genesis(
    *,
    mode: str = "off",
    max_entries: int = MAX_WINDOW_ENTRIES,
    max_messages: int = MAX_WINDOW_MESSAGES,
    enrolled: bool = False,
    operated: bool = True,
) -> Genesis:
    """A genesis with the streams annotations and lifecycle.

    ``enrolled``: only enrolled producers may open lanes; ``operated``: it names an operator.
    """
    signers = [KeyRole("ticker", TICKER.public_key)]
    if operated:
        signers.append(KeyRole("operator", OPERATOR.public_key))
    if enrolled:
        signers.append(KeyRole("enrolment", ENROLMENT.public_key))
    return Genesis(
        log_name="rlhf-audit.test",
        nonce=bytes(32),
        ts_us=START_US,
        root_key=ROOT.public_key,
        log_key=LOG.public_key,
        signers=tuple(signers),
        streams=(
            StreamSettings("annotations", 4, WINDOW_US, max_entries, max_messages, mode),
            StreamSettings("lifecycle", 1, WINDOW_US, max_entries, max_messages, mode),
        ),
        schemas=(SchemaEntry(ANNOTATION, 1, bytes(32)), SchemaEntry(PRODUCER_START, 1, bytes(32))),
    )


def make_sealer(genesis: Genesis | None = None, stream: str = "annotations", partition: int = 2) -> Sealer:
    """The sealer of one partition."""
    data = (genesis or make_genesis()).encode()
    return Sealer(partition_settings(data, stream, partition), QUARANTINE_KEY, LOG)


class Lane:
    """One lane of a producer: cuts batches one after another, each naming the one before it."""

    def __init__(
        self,
        settings: PartitionSettings,
        producer: str = "ingest/aa",
        epoch: int = 1,
        *,
        signer: Signer | None = PRODUCER,
        enrolment: bytes | None = None,
    ) -> None:
        self._signer = signer
        self._enrolment = enrolment
        self.next_body = BatchBody(
            ledger_id=settings.ledger_id,
            producer=producer,
            epoch=epoch,
            stream=settings.stream.stream,
            partition=settings.partition,
            first_seq=0,
            kind=ANNOTATION if settings.stream.stream == "annotations" else PRODUCER_START,
            schema=1,
            prev_batch=NO_BATCH,
            open_key=None,
            enrolment=None,
            final=False,
            events=(),
        )

    def body(self, count: int = 1, **changes: Any) -> BatchBody:
        """The body that ``cut`` would sign now, some fields changed; the lane stays where it is."""
        body = self.next_body
        first = body.first_seq
        events = tuple(b"%s event %d" % (body.producer.encode(), first + n) for n in range(count))
        if first == 0 and self._signer is not None:
            body = replace(body, open_key=self._signer.public_key, enrolment=self._enrolment)
        return replace(replace(body, events=events), **changes)

    def cut(self, count: int = 1, **changes: Any) -> EncodedBatch:
        """The next batch of the lane."""
        body = self.body(count, **changes)
        batch = encode_batch(body, self._signer)
        self.next_body = replace(self.next_body, first_seq=body.first_seq + len(body.events), prev_batch=batch.digest)
        return batch

    def other(self, count: int = 1, *, signer: Signer | None = None, **changes: Any) -> EncodedBatch:
        """A batch of this lane that the lane itself does not remember."""
        return encode_batch(self.body(count, **changes), signer or self._signer)


def tick_of(settings: PartitionSettings, counter: int, ts_us: int, **changes: Any) -> Tick:
    """The tick that fits counter and time, some fields changed."""
    tick = Tick(
        ledger_id=settings.ledger_id,
        source_id=SOURCE_ID,
        stream=settings.stream.stream,
        partition=settings.partition,
        counter=counter,
        number=ts_us // settings.stream.window_us,
        ts_us=ts_us,
        flush=False,
        global_size=2,
        global_root=bytes(32),
    )
    return replace(tick, **changes)


def tick_value(settings: PartitionSettings, counter: int, ts_us: int = START_US, **changes: Any) -> bytes:
    """The same as a signed source value."""
    return signed_control(ControlType.TICK, tick_of(settings, counter, ts_us, **changes).encode(), TICKER)


def schema_value(settings: PartitionSettings, schema: int, kind: int = ANNOTATION, signer: Signer = OPERATOR) -> bytes:
    """A signed SchemaAdd as a source value."""
    added = SchemaAdd(settings.ledger_id, kind, schema, bytes(32))
    return signed_control(ControlType.SCHEMA_ADD, added.encode(), signer)


def switch_of(settings: PartitionSettings, **changes: Any) -> SourceSwitch:
    """A switch away from SOURCE_ID, some fields changed."""
    switch = SourceSwitch(
        ledger_id=settings.ledger_id,
        source_id=SOURCE_ID,
        stream=settings.stream.stream,
        partition=settings.partition,
        new_source_id=OTHER_SOURCE_ID,
        next_offset=1,
    )
    return replace(switch, **changes)


def switch_value(settings: PartitionSettings, signer: Signer = OPERATOR, **changes: Any) -> bytes:
    """The same as a signed source value."""
    return signed_control(ControlType.SOURCE_SWITCH, switch_of(settings, **changes).encode(), signer)


def format_value(settings: PartitionSettings, signer: Signer = OPERATOR, **changes: Any) -> bytes:
    """A signed switch to format 2 as a source value, some fields changed."""
    switch = FormatSwitch(settings.ledger_id, SOURCE_ID, settings.stream.stream, settings.partition, 2)
    return signed_control(ControlType.FORMAT_SWITCH, replace(switch, **changes).encode(), signer)


def messages(values: Iterable[bytes | None], first_offset: int = 0) -> list[SourceMessage]:
    """A source log that holds these values, one millisecond apart."""
    return [
        SourceMessage(offset, START_US + 1_000 * offset, value) for offset, value in enumerate(values, first_offset)
    ]


def sealed_from(
    sealer: Sealer, source: Iterable[SourceMessage], state: SealState | None = None
) -> tuple[SealState, list[Sealed]]:
    """Seal a source log from its beginning, or from ``state`` on."""
    state = first_state(sealer.settings, SOURCE_ID) if state is None else state
    records: list[Sealed] = []
    for message in source:
        state, new = seal_all(sealer, state, message)
        records += new
    return state, records


def seal_values(sealer: Sealer, values: Iterable[bytes | None]) -> tuple[SealState, list[Sealed]]:
    """Seal a source log that holds these values."""
    return sealed_from(sealer, messages(values))


def log_of(settings: PartitionSettings, records: Sequence[Sealed]) -> list[bytes]:
    """All entries of the partition log, leaf 0 and closes included."""
    entries = [genesis_entry(settings)]
    for one in records:
        entries += [*one.record.entries, *one.event_entries]
        if one.record.close is not None:
            entries.append(one.record.close)
    return entries


def taker(entries: Sequence[bytes]) -> Callable[[int], list[bytes]]:
    """A function that hands out the next n of these entries."""
    rest = iter(entries)

    def take(count: int) -> list[bytes]:
        return [entry for _, entry in zip(range(count), rest, strict=False)]

    return take
