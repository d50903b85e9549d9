"""Alarm records: what a sink found that must never be, kept in a file until a person looks at it.

``DIR/alarms/<sink>-<topic>-<partition>-<topic offset>-<what>.json``, made once
and never overwritten: a sink that is started again and finds the same writes
nothing new, and one that finds something else at the same place writes another
(``<what>`` is a digest of the kind and of the message that was read, or of what
is said where there was none, and then the offset may be -1). It names places
and digests and holds no payload.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf_audit_schemas.errors import TamperError
from rlhf_audit_sinks.sealed_windows import ForkError
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import AlreadyStoredError, create_file_durably


@dataclass(frozen=True, slots=True)
class Alarm:
    """Where it was found, and what. ``record_sha256`` is that of the message that was read, if it was one message."""

    sink: str
    topic: str
    partition: int
    topic_offset: int
    kind: str
    message: str
    record_sha256: str | None
    expected_sha256: str | None
    found_at_us: int

    @classmethod
    def of(
        cls,
        error: TamperError,
        sink: str,
        topic: str,
        partition: int,
        topic_offset: int,
        data: bytes | None,
        found_at_us: int,
    ) -> Alarm:
        """The alarm for an error raised while the message ``data`` was taken, or its window stored (None)."""
        expected = error.expected if isinstance(error, ForkError) else None
        return cls(
            sink=sink,
            topic=topic,
            partition=partition,
            topic_offset=topic_offset,
            kind=type(error).__name__,
            message=str(error),
            record_sha256=None if data is None else hashlib.sha256(data).hexdigest(),
            expected_sha256=None if expected is None else expected.hex(),
            found_at_us=found_at_us,
        )


def write_alarm(folder: Path, alarm: Alarm, disk: Disk | None = None) -> Path:
    """Keep the alarm durably; one that stands there already is left as it is."""
    found = json.dumps([alarm.kind, alarm.record_sha256 or alarm.message]).encode()
    what = hashlib.sha256(found).hexdigest()[:8]
    path = folder / f"{alarm.sink}-{alarm.topic}-{alarm.partition}-{alarm.topic_offset}-{what}.json"
    data = json.dumps(asdict(alarm), indent=2).encode() + b"\n"
    with suppress(AlreadyStoredError):
        create_file_durably(RealDisk() if disk is None else disk, path, data)
    return path
