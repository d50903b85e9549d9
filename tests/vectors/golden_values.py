"""Every golden value of ``docs/format.md``, made by the code from fixed keys, nonces and times.

    PYTHONPATH=tests python -m vectors.golden_values

adds what is new to ``golden.json`` and prints its rows for the document. A name that stands there already is never
written again: other bytes under it would break every ledger already written, so they are an error.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from examples import example
from rlhf_audit_ledger.batch import (
    NO_BATCH,
    BatchBody,
    batch_digest,
    encode_batch,
    enrolment_message,
    event_digest,
    value_digest,
)
from rlhf_audit_ledger.checkpoint import Checkpoint, sign_checkpoint
from rlhf_audit_ledger.control import Control, ControlType, FormatSwitch, SchemaAdd, SourceSwitch, Tick, signed_control
from rlhf_audit_ledger.domain import domain, lp, u16, u32, u64
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.entries import event_entries
from rlhf_audit_ledger.genesis import Genesis, KeyRole, SchemaEntry, StreamSettings, genesis_digest, sign_genesis
from rlhf_audit_ledger.genesis import ledger_id as ledger_id_of
from rlhf_audit_ledger.globallog import genesis_leaf, signature_leaf
from rlhf_audit_ledger.ids import event_id, global_origin, key_id, lane_id, log_origin, partition_of, source_id
from rlhf_audit_ledger.lanes import table_digest
from rlhf_audit_ledger.merkle import leaf_hash, leaf_hashes, root_of
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.note import key_for_origin
from rlhf_audit_ledger.objects import SEGMENT, segment_name, sync_marker, vault_name
from rlhf_audit_ledger.seal import Sealed, Sealer, seal_all
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_ledger.state import first_state, genesis_entry
from rlhf_audit_ledger.vault import VaultRecord, seal_vault, vault_key_id
from rlhf_audit_schemas.codec import schema_sha256
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.kafka.wire import schema_fingerprint, with_header

GOLDEN_FILE = Path(__file__).with_name("golden.json")
FULL_BYTES = 100  # longer values stand in the document as length and SHA-256

T_US = 1_750_000_000_000_000
ROOT, LOG, TICKER, OPERATOR, ENROLMENT, PRODUCER = (SeedSigner(bytes([n]) * 32) for n in range(1, 7))
ROUTING_KEY, QUARANTINE_KEY, VAULT_KEY = (bytes([n]) * 32 for n in range(7, 10))
SOURCE_ID = bytes(range(16))
KAFKA_ID = source_id("MkU3OEVBNTcwNTJENDM2Qg", "3f2c0f2e-9f0e-4b7a-8f6a-2f8a9d1c7b55")
ANNOTATION = 0x0101

GENESIS = Genesis(
    log_name="rlhf-audit.local",
    nonce=bytes(range(32)),
    ts_us=T_US,
    root_key=ROOT.public_key,
    log_key=LOG.public_key,
    signers=(
        KeyRole("ticker", TICKER.public_key),
        KeyRole("operator", OPERATOR.public_key),
        KeyRole("enrolment", ENROLMENT.public_key),
    ),
    streams=(StreamSettings("annotations", 4, 60_000_000), StreamSettings("lifecycle", 1, 60_000_000)),
    schemas=(SchemaEntry(ANNOTATION, 1, schema_sha256("annotation/v1.avsc")),),
)


def golden_values() -> dict[str, bytes]:
    """Name -> bytes, in the order of the document."""
    values = _names() | _events()
    scenario = _Scenario()
    return values | scenario.batches() | scenario.sealed() | scenario.objects()


def _names() -> dict[str, bytes]:
    data = GENESIS.encode()
    ledger = ledger_id_of(data)
    lane = lane_id("ingest/0a1b2c", 0, "annotations", 2)
    return {
        "domain.lane": domain("lane"),
        "number.u16": u16(258),
        "number.u32": u32(258),
        "number.u64": u64(258),
        "lp.abc": lp(b"abc"),
        "genesis": data,
        "genesis.digest": genesis_digest(data),
        "genesis.ledger_id": ledger,
        "genesis.signature": sign_genesis(data, ROOT),
        "origin.partition": log_origin("rlhf-audit.local", ledger, "annotations", 2).encode(),
        "origin.global": global_origin("rlhf-audit.local", ledger).encode(),
        "vkey.base": key_for_origin(LOG.public_key, "rlhf-audit.local").format().encode(),
        "vkey.partition": key_for_origin(
            LOG.public_key, log_origin("rlhf-audit.local", ledger, "annotations", 2)
        ).format().encode(),
        "lane_id": lane,
        "event_id.0": event_id(lane, 0),
        "event_id.4095": event_id(lane, 4095),
        "key_id.ticker": key_id(TICKER.public_key),
        "source_id.kafka": KAFKA_ID,
        "partition.rater1": u32(partition_of(ROUTING_KEY, "rater1", 4)),
        "partition.rater2": u32(partition_of(ROUTING_KEY, "rater2", 4)),
        "partition.empty": u32(partition_of(ROUTING_KEY, "", 4)),
        "partition.rater1.of_1024": u32(partition_of(ROUTING_KEY, "rater1", 1024)),
    }  # fmt: skip


def _events() -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    for kind in KINDS.values():
        body = kind.codec.encode(example(kind.name))
        values[f"event.{kind.name}.v{kind.schema}"] = body
        values[f"event.{kind.name}.v{kind.schema}.digest"] = event_digest(kind.number, kind.schema, body)
    return values


class _Scenario:
    """A source log of ten messages that reaches every outcome and closes one window; an eleventh switches it."""

    def __init__(self) -> None:
        data = GENESIS.encode()
        self.sealer = Sealer(partition_settings(data, "annotations", 2), QUARANTINE_KEY, LOG)
        self.settings = self.sealer.settings
        self.events = [KINDS["annotation"].codec.encode(example("annotation")) for _ in range(2)]
        enrolment = ENROLMENT.sign(self._enrolment_message())
        self.body = BatchBody(
            ledger_id=self.settings.ledger_id,
            producer="ingest/0a1b2c",
            epoch=0,
            stream="annotations",
            partition=2,
            first_seq=0,
            kind=ANNOTATION,
            schema=1,
            prev_batch=NO_BATCH,
            open_key=PRODUCER.public_key,
            enrolment=enrolment,
            final=False,
            events=self.events,
        )
        self.first = encode_batch(self.body, PRODUCER)
        following = replace(self.body, first_seq=2, prev_batch=self.first.digest, open_key=None, enrolment=None)
        self.second = encode_batch(following, PRODUCER)
        self.third = encode_batch(replace(following, first_seq=4, prev_batch=self.second.digest), PRODUCER)
        self.fork = encode_batch(replace(following, first_seq=4, events=[*self.events[:1], b"other"]), PRODUCER)
        self.final = encode_batch(
            replace(following, first_seq=6, prev_batch=self.third.digest, events=(), final=True), None
        )
        self.tick = self._tick(1)
        added = SchemaAdd(self.settings.ledger_id, 0x0102, 1, schema_sha256("correction/v1.avsc"))
        self.schema_add = signed_control(ControlType.SCHEMA_ADD, added.encode(), OPERATOR)
        self.values = [
            self.first.value,
            self.third.value,
            self.second.value,
            self.third.value,
            self.fork.value,
            b"no message of ours",
            None,
            self.schema_add,
            self._tick(7),
            self.tick,
        ]
        state = first_state(self.settings, SOURCE_ID)
        self.link_0 = state.link
        self.records: list[Sealed] = []
        for offset, value in enumerate(self.values):
            state, new = seal_all(self.sealer, state, SourceMessage(offset, T_US + 1000 * offset, value))
            self.records += new
        self.state = state
        switch = SourceSwitch(self.settings.ledger_id, SOURCE_ID, "annotations", 2, KAFKA_ID, 1)
        self.switch = signed_control(ControlType.SOURCE_SWITCH, switch.encode(), OPERATOR)
        later = FormatSwitch(self.settings.ledger_id, SOURCE_ID, "annotations", 2, 2)
        self.format_switch = signed_control(ControlType.FORMAT_SWITCH, later.encode(), OPERATOR)
        _, (self.switched,) = seal_all(self.sealer, state, SourceMessage(10, T_US + 10_000, self.switch))

    def _enrolment_message(self) -> bytes:
        return enrolment_message(self.settings.ledger_id, "ingest/0a1b2c", 0, PRODUCER.public_key)

    def _tick_body(self, counter: int) -> bytes:
        tick = Tick(
            ledger_id=self.settings.ledger_id,
            source_id=SOURCE_ID,
            stream="annotations",
            partition=2,
            counter=counter,
            number=T_US // 60_000_000,
            ts_us=T_US,
            flush=False,
            global_size=2,
            global_root=root_of(leaf_hashes(self.global_leaves())),
        )
        return tick.encode()

    def _tick(self, counter: int) -> bytes:
        return signed_control(ControlType.TICK, self._tick_body(counter), TICKER)

    def global_leaves(self) -> list[bytes]:
        data = GENESIS.encode()
        return [genesis_leaf(data), signature_leaf(sign_genesis(data, ROOT))]

    def batches(self) -> dict[str, bytes]:
        return {
            "enrolment.message": self._enrolment_message(),
            "enrolment.signature": ENROLMENT.sign(self._enrolment_message()),
            "batch.body": self.body.encode(),
            "batch.digest": batch_digest(self.body.encode()),
            "batch.signature": PRODUCER.sign(domain("batch-signature") + self.first.digest),
            "batch.value": self.first.value,
            "batch.value_digest": value_digest(self.first.value),
            "batch.second.digest": self.second.digest,
            "batch.final_unsigned.value": self.final.value,
            "tick.body": self._tick_body(1),
            "tick.value": self.tick,
            "schema_add.value": self.schema_add,
            "format_switch.body": Control.decode(self.format_switch).body,
            "format_switch.value": self.format_switch,
            "source_switch.body": Control.decode(self.switch).body,
            "source_switch.value": self.switch,
            "wire.fingerprint.event_batch": schema_fingerprint("EventBatch"),
            "wire.fingerprint.control": schema_fingerprint("Control"),
            "wire.fingerprint.sealed_record": schema_fingerprint("SealedRecord"),
            "wire.single_object": with_header(self.final.value),
            "wire.confluent": with_header(self.final.value, schema_id=258),
        }

    def sealed(self) -> dict[str, bytes]:
        names = ("partition_genesis", "event", "gap", "gap_filled", "conflict", "quarantine", "source_hole", "control")
        own = [entry for one in self.records for entry in one.record.entries]
        entries = [genesis_entry(self.settings), self.records[0].event_entries[0], *own]
        values = {f"entry.{name}": entry for name, entry in zip(names, entries, strict=True)}
        values["entry.event.leaf_hash"] = leaf_hash(entries[1])
        for stream, kind in (("lifecycle", "heartbeat"),):
            event = KINDS[kind].codec.encode(example(kind))
            values[f"entry.event.{stream}"] = event_entries(stream, KINDS[kind].number, 1, [event])[0]
        values["salt.offset_5"] = self.records[5].salt
        outcomes: dict[str, bytes] = {}
        for one in self.records:
            outcomes.setdefault(f"header.{one.header.outcome}", one.record.header)
        values |= outcomes | {"header.gap": self.records[1].record.header, "link.0": self.link_0}
        values |= {f"link.{m}": one.record.link for m, one in enumerate(self.records, 1)}
        row = next(self.state.lanes.rows())
        close = self.records[-1].record
        assert close.close is not None
        assert close.checkpoint is not None
        return values | {
            "lane.row": row.encode(),
            "lane.table_digest": table_digest(self.state.lanes.rows()),
            "sealed_record.10": close.encode(),
            "close": close.close,
            "checkpoint": close.checkpoint,
            "source_switch.entry": self.switched.record.entries[0],
            "source_switch.close": self.switched.record.close or b"",
        }

    def objects(self) -> dict[str, bytes]:
        checkpoint = self.records[-1].record.checkpoint
        assert checkpoint is not None
        leaves = [*self.global_leaves(), checkpoint]
        head = Checkpoint(global_origin("rlhf-audit.local", self.settings.ledger_id), 3, root_of(leaf_hashes(leaves)))
        segment, vault = segment_name("annotations", 2, 0), "vault/" + vault_name("annotations", 2, 0)
        kept = [VaultRecord(one.salt, one.header.offset, one.record.value) for one in self.records]
        return {
            "global.leaf_0": leaves[0],
            "global.leaf_1": leaves[1],
            "global.checkpoint": sign_checkpoint(head, LOG),
            "sync.segment": sync_marker(segment),
            "segment": SEGMENT.encode(segment, [one.record.encode_for_segment() for one in self.records]),
            "vault.key_id": vault_key_id(VAULT_KEY),
            "vault": seal_vault(vault, kept, VAULT_KEY),
        }


def row_of(name: str, value: bytes) -> str:
    """The row of a value in a table of the document."""
    if len(value) <= FULL_BYTES:
        return f"| `{name}` | {len(value)} | `{value.hex()}` |"
    return f"| `{name}` | {len(value)} | SHA-256 `{hashlib.sha256(value).hexdigest()}` |"


def main() -> None:
    known: dict[str, str] = json.loads(GOLDEN_FILE.read_text(encoding="ascii")) if GOLDEN_FILE.exists() else {}
    made = golden_values()
    changed = [name for name, value in made.items() if known.get(name, value.hex()) != value.hex()]
    if changed or known.keys() - made.keys():
        raise SystemExit(f"golden values changed or vanished: {changed or sorted(known.keys() - made.keys())}")
    for name, value in made.items():
        if name not in known:
            print(row_of(name, value))  # noqa: T201 - a command of its own
    GOLDEN_FILE.write_text(json.dumps({n: v.hex() for n, v in made.items()}, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
