"""Trails for tests of the query copy, and the engine where it is installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_ledger.batch import NO_BATCH, BatchBody, encode_batch
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.partition import SealedWindow


def require_chdb() -> None:
    """Skip on a laptop without the embedded engine, fail where services are required."""
    missing = [name for name in ("chdb", "clickhouse_connect", "pyarrow") if find_spec(name) is None]
    if not missing:
        return
    message = f"the query copy needs {', '.join(missing)}: pip install 'rlhf-audit-trail[sinks]'"
    if os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(message)
    pytest.skip(message)


# ``rlhf-audit`` where the embedded engine is not installed.
WITHOUT_ENGINE = (
    sys.executable,
    "-c",
    "import sys; sys.modules['chdb'] = None; import importlib.util as u; f = u.find_spec\n"
    "u.find_spec = lambda name, *a: None if name == 'chdb' else f(name, *a)\n"
    "from rlhf_audit_trail.cli import main; raise SystemExit(main(sys.argv[1:]))",
)


def copy_processes(directory: Path) -> list[int]:
    """Ids of the processes that feed the query copy of this trail, whoever started them."""
    name, place = b"rlhf_audit_trail.query_copy_process", os.fsencode(directory.absolute())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has just ended
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if name in words and place in words:
                    found.append(int(entry.name))
    return sorted(found)


class Collector:
    """A window sink that keeps what it gets."""

    def __init__(self) -> None:
        self.windows: list[Sequence[Sealed]] = []

    def store(self, window: SealedWindow) -> None:
        self.windows.append(window.sealed)


def annotation(number: int, **fields: Any) -> bytes:
    """Body of an annotation; every field that is not given is null or empty."""
    codec = KINDS["annotation"].codec
    record: dict[str, Any] = dict.fromkeys(codec.fields)
    for name in ("ranking_sha256", "ranking_texts", "axis_names", "axis_values", "axis_labels"):
        record[name] = []
    record |= {
        "salt": number.to_bytes(16, "big"),
        "ts_us": 1_760_000_000_000_000 + number,
        "annotator": f"annotator {number % 3}",
        "annotation_id": f"a{number}",
        "score": number / 2,
    }
    return codec.encode(record | fields)


def batch(
    trail: LocalTrail, events: Sequence[bytes], *, producer: str, kind: str = "annotation", partition: int = 0
) -> bytes:
    """Source value of a whole lane in one unsigned batch, whatever its events hold."""
    known = KINDS[kind]
    body = BatchBody(
        ledger_id=trail.ledger_id,
        producer=producer,
        epoch=0,
        stream=known.stream,
        partition=partition,
        first_seq=0,
        kind=known.number,
        schema=1,
        prev_batch=NO_BATCH,
        open_key=None,
        enrolment=None,
        final=True,
        events=list(events),
    )
    return encode_batch(body, None).value


def write_trail(folder: Path, lanes: Sequence[Sequence[bytes]], *, drain_each: bool = False) -> list[Sequence[Sealed]]:
    """A trail whose producers ``p0``, ``p1``, ... recorded these events; returns its windows."""
    windows = Collector()
    with LocalTrail(folder, sinks=[windows]) as trail:
        for number, events in enumerate(lanes):
            trail.append("annotations", number % 4, [batch(trail, events, producer=f"p{number}", partition=number % 4)])
            if drain_each:
                trail.drain()
        trail.drain()
    return windows.windows
