"""Names and containers of what lies in object storage (``docs/format.md`` section 7).

Names are relative: segments and logs to ``objects/``, vault objects to
``vault/``. In hashes and associated data an object is called by its full
name, ``vault/...`` or ``segments/...``, so that a vault may lie in a bucket
of its own.

A container is an Avro object file with one block, fixed metadata and a sync
marker made from its name: the same records give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_audit_ledger.domain import domain, sha256
from rlhf_audit_schemas.codec import StrictCodec, schema_bytes
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.strict_decoder import StrictDecodeError, read_varint
from rlhf_audit_schemas.strict_encoder import zigzag

GLOBAL_PREFIX = "global"
GLOBAL_CHECKPOINT = f"{GLOBAL_PREFIX}/checkpoint"  # name of the object that everything else hangs on
MAX_WINDOWS = 10**12  # twelve digits in an object's name

_SYNC = domain("sync")
_SEGMENT = re.compile(r"segments/([a-z]+)/(0|[1-9][0-9]*)/([0-9]{12})\.avro")
_VAULT = re.compile(r"([a-z]+)/(0|[1-9][0-9]*)/([0-9]{12})\.(0|[1-9][0-9]*)")


def log_prefix(stream: str, partition: int) -> str:
    """Folder of a partition log below ``objects/``."""
    return f"logs/{stream}/{partition}"


def segment_name(stream: str, partition: int, window: int) -> str:
    """``segments/<stream>/<partition>/<window, 12 digits>.avro``."""
    return f"segments/{stream}/{partition}/{window:012d}.avro"


def vault_name(stream: str, partition: int, window: int, generation: int = 0) -> str:
    """``<stream>/<partition>/<window, 12 digits>.<generation>``, below ``vault/``."""
    return f"{stream}/{partition}/{window:012d}.{generation}"


@dataclass(frozen=True, slots=True)
class WindowRef:
    """A window as an object name says it; ``generation`` is 0 for segments."""

    stream: str
    partition: int
    window: int
    generation: int = 0


def parse_segment_name(name: str) -> WindowRef | None:
    """Inverse of ``segment_name``; None for any other name."""
    match = _SEGMENT.fullmatch(name)
    return None if match is None else WindowRef(match[1], int(match[2]), int(match[3]))


def parse_vault_name(name: str) -> WindowRef | None:
    """Inverse of ``vault_name``; None for any other name."""
    match = _VAULT.fullmatch(name)
    return None if match is None else WindowRef(match[1], int(match[2]), int(match[3]), int(match[4]))


@dataclass(frozen=True, slots=True)
class Container:
    """Codec of one kind of container object."""

    codec: StrictCodec

    def encode(self, name: str, records: Sequence[bytes]) -> bytes:
        """The object called ``name`` that holds these encoded records."""
        sync = sync_marker(name)
        block = b"".join(records)
        return b"".join((self._head(), sync, zigzag(len(records)), zigzag(len(block)), block, sync))

    def decode(self, name: str, data: bytes) -> list[dict[str, Any]]:
        """Records of the object. Raises FormatError on anything ``encode`` would not make."""
        head, sync = self._head(), sync_marker(name)
        start = len(head) + len(sync)
        if data[:start] != head + sync:
            raise FormatError(f"{name}: header of the container is not the one of format 1, or of another object")
        try:
            count, at = read_varint(data, start, 64)
            size, at = read_varint(data, at, 64)
        except StrictDecodeError as error:
            raise FormatError(f"{name}: broken block header") from error
        if count < 1 or size < 0 or at + size + len(sync) != len(data) or data[at + size :] != sync:
            raise FormatError(f"{name}: not one whole block")
        try:
            return self.codec.decode_all(data[at : at + size], count)
        except StrictDecodeError as error:
            raise FormatError(f"{name}: {error}") from error

    def _head(self) -> bytes:
        schema = schema_bytes(self.codec.path)
        metadata = ((b"avro.codec", b"null"), (b"avro.schema", schema))
        parts = [b"Obj\x01", zigzag(len(metadata))]
        for key, value in metadata:
            parts += (zigzag(len(key)), key, zigzag(len(value)), value)
        return b"".join((*parts, b"\x00"))


SEGMENT = Container(StrictCodec("envelope/segment_record.avsc"))
VAULT = Container(StrictCodec("envelope/vault_record.avsc"))


def sync_marker(name: str) -> bytes:
    """First 16 bytes of ``H(D("sync") || object name)``."""
    return sha256(_SYNC, name.encode("utf-8"))[:16]
