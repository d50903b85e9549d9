"""The table of event kinds: name, number, stream, schema versions (``docs/format.md`` section 2).

Only appended to. The high byte of a number is that of its stream, so the
class byte of a log entry (``0x10 + stream``) says nothing more about an event
than its stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rlhf_audit_schemas.codec import AvroCodec, schema_sha256

STREAM_NUMBERS = {"annotations": 1, "gradients": 2, "lifecycle": 3, "released": 4}


@dataclass(frozen=True)
class Kind:
    """One kind of event and the newest version of its schema."""

    name: str
    number: int
    stream: str
    versions: tuple[int, ...] = (1,)

    @property
    def schema(self) -> int:
        """Version that is written today; older ones stay readable."""
        return self.versions[-1]

    def path(self, version: int) -> str:
        """Schema file of a version, below ``avro/``."""
        return f"{self.name}/v{version}.avsc"

    @cached_property
    def codec(self) -> AvroCodec:
        """Codec of the newest version."""
        return AvroCodec(self.path(self.schema))


_TABLE = (
    Kind("annotation", 0x0101, "annotations"),
    Kind("correction", 0x0102, "annotations"),
    Kind("withdrawal", 0x0103, "annotations"),
    Kind("rollout", 0x0104, "annotations"),
    Kind("gradient_stats", 0x0201, "gradients"),
    Kind("tensor_table", 0x0202, "gradients"),
    Kind("producer_start", 0x0301, "lifecycle"),
    Kind("heartbeat", 0x0302, "lifecycle"),
    Kind("producer_end", 0x0303, "lifecycle"),
    Kind("producer_lost", 0x0304, "lifecycle"),
    Kind("loss", 0x0305, "lifecycle"),
    Kind("fault", 0x0306, "lifecycle"),
    Kind("run_start", 0x0307, "lifecycle"),
    Kind("run_end", 0x0308, "lifecycle"),
    Kind("policy_update", 0x0309, "lifecycle"),
    Kind("checkpoint", 0x030A, "lifecycle"),
)

KINDS = {kind.name: kind for kind in _TABLE}
KINDS_BY_NUMBER = {kind.number: kind for kind in _TABLE}


def stream_of_kind(number: int) -> str | None:
    """Stream that a kind number belongs to by its high byte, known kind or not; None for no stream."""
    return next((stream for stream, high in STREAM_NUMBERS.items() if number >> 8 == high), None)


def shipped_schemas() -> list[tuple[int, int, bytes]]:
    """(kind, schema, SHA-256 of the schema file) of everything this version can write, for the genesis."""
    return [(kind.number, version, schema_sha256(kind.path(version))) for kind in _TABLE for version in kind.versions]
