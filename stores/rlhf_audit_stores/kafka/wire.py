"""The header in front of a Kafka message's value: put on for other readers, dropped before anything is hashed.

``docs/format.md`` section 2, *Source value*. Two headers are known::

    C3 01 | 8 bytes     Avro single-object encoding: CRC-64-AVRO fingerprint of the schema, little-endian
    00    | u32         Confluent wire format: id of the schema in a registry

No header is the third way. A header is dropped only if a value of ours begins
behind it (01 a batch, 02 a control message, or a sealed record); everything
else is kept whole, so that quarantine holds the message as it came. Which
registry id or fingerprint stands there decides nothing: a value names its own
type, and two workers with other registries must seal the same bytes.

No registry here (``registry``), and nothing is decoded beyond what tells a
header apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Final, Literal

from fastavro.schema import fingerprint, to_parsing_canonical_form

from rlhf_audit_ledger.batch import BATCH_TYPE, CONTROL_TYPE
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.errors import FormatError

RecordName = Literal["EventBatch", "Control", "SealedRecord"]

SCHEMA_FILES: Final[Mapping[RecordName, str]] = MappingProxyType(
    {
        "EventBatch": "envelope/event_batch.avsc",
        "Control": "envelope/control.avsc",
        "SealedRecord": "envelope/sealed_record.avsc",
    }
)
SINGLE_OBJECT: Final = b"\xc3\x01"
CONFLUENT: Final = b"\x00"
_SINGLE_OBJECT_BYTES = 10
_CONFLUENT_BYTES = 5
_MAX_HEADER_BYTES = 4096  # a SealHeader holds one producer id of 200 bytes and fixed parts; more is none


def with_header(value: bytes, *, schema_id: int | None = None, record: RecordName | None = None) -> bytes:
    """``value`` behind a Confluent header with ``schema_id``, or without one behind a single-object header.

    A value that is none of ours stays as it is: no schema describes it. Who has just made the value says which
    ``record`` it is and saves looking (30 us for a sealed record).
    """
    if record is None:
        record = record_of(value)
    if record is None:
        return value
    if schema_id is None:
        return SINGLE_OBJECT + schema_fingerprint(record) + value
    return CONFLUENT + schema_id.to_bytes(4, "big") + value


def strip_header(message: bytes) -> bytes:
    """The value in a message: without its header, or the whole message where no header can be told."""
    if message[:1] in (BATCH_TYPE, CONTROL_TYPE):
        return message
    if message[:2] == SINGLE_OBJECT:
        size = _SINGLE_OBJECT_BYTES
    elif message[:1] == CONFLUENT:
        size = _CONFLUENT_BYTES
    else:
        return message
    value = message[size:]
    return message if record_of(value) is None else value


def record_of(value: bytes) -> RecordName | None:
    """Name of the record that a value without header is, as far as its beginning tells; None if it is none of ours."""
    if value[:1] == BATCH_TYPE:
        return "EventBatch"
    if value[:1] == CONTROL_TYPE:
        return "Control"
    return "SealedRecord" if _begins_with_a_seal_header(value) else None


@cache
def schema_fingerprint(record: RecordName) -> bytes:
    """CRC-64-AVRO of the schema's parsing canonical form, little-endian as the header wants it; 8 bytes."""
    schema = json.loads(schema_bytes(SCHEMA_FILES[record]))
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def _begins_with_a_seal_header(value: bytes) -> bool:
    """A sealed record begins with its header as Avro bytes: a length, then what the strict decoder accepts."""
    if len(value) < 2 or value[0] & 1:  # a negative length
        return False
    size, start = value[0] >> 1, 1
    if value[0] & 0x80:
        if value[1] & 0x80:
            return False
        size, start = (value[0] & 0x7F | value[1] << 7) >> 1, 2
    if not 0 < size <= _MAX_HEADER_BYTES or len(value) < start + size:
        return False
    try:
        SealHeader.decode(value[start : start + size])
    except FormatError:
        return False
    return True
