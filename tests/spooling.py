"""Recording into spools in tests, draining them in this process, and reading back what a trail holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.objects import SEGMENT, parse_segment_name
from rlhf_audit_ledger.vault import open_vault
from rlhf_audit_producers.spool_files import producers, unpack_spool_record
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_producers.spool_queue import SpoolQueue, Submission
from rlhf_audit_producers.spool_routes import Router
from rlhf_audit_producers.spool_writer import SpoolSettings, SpoolWriter
from rlhf_audit_schemas.kinds import KINDS, KINDS_BY_NUMBER
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.following import RecordFollower
from rlhf_audit_stores.keys import load_keys
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.runtime import Runtime

FACTS = LedgerFacts(bytes(16), bytes(32), {"annotations": 4, "gradients": 4, "lifecycle": 1, "released": 4})
NOW_US = 1_760_000_000_000_000


def settings(directory: Path, disk: Disk | None = None, *, facts: LedgerFacts = FACTS, **options: Any) -> SpoolSettings:
    """Settings of a rank that records into ``directory``."""
    return SpoolSettings(
        directory=directory,
        facts=facts,
        base_producer=options.pop("producer", "run/0"),
        run_id="run",
        software="test",
        disk=RealDisk() if disk is None else disk,
        now_us=options.pop("now_us", lambda: NOW_US),
        **options,
    )


def writer(directory: Path, disk: Disk | None = None, **options: Any) -> tuple[SpoolWriter, SpoolQueue]:
    """A writer on no thread: the test takes the turns."""
    how = settings(directory, disk, **options)
    router = Router(how.facts, how.base_producer)
    queue = SpoolQueue(max_events=how.max_queue_events, max_bytes=how.max_queue_bytes, places=router.places)
    return SpoolWriter(how, queue, router), queue


def withdrawals(first: int, count: int, *, padding: int = 0) -> Submission:
    """Annotation events that are small and easy to tell apart: withdrawals ``w<n>``."""
    kind = KINDS["withdrawal"]

    def encode() -> list[bytes]:
        return [
            kind.codec.encode(
                {
                    "salt": bytes(16),
                    "ts_us": NOW_US,
                    "annotation_id": f"w{number}",
                    "annotator": None,
                    "withdrawn_at_us": None,
                    "reason": "x" * padding,
                    "input_sha256": None,
                    "input_line": None,
                }
            )
            for number in range(first, first + count)
        ]

    return Submission(kind, count, encode, bytes_held=count * (64 + padding))


def heartbeats(count: int) -> Submission:
    """Lifecycle events."""
    kind = KINDS["heartbeat"]
    event = {"salt": bytes(16), "ts_us": NOW_US, "producer": "run/0", "epoch": 0, "lanes": []}
    return Submission(kind, count, lambda: [kind.codec.encode(event)] * count, bytes_held=64 * count)


def spooled(directory: Path) -> list[tuple[str, BatchBody]]:
    """Every batch that lies in the spools, producer by producer in the order of its log."""
    disk = RealDisk()
    found = []
    for _, refs in producers(disk, directory / "spool"):
        for ref in refs:
            for _, record in RecordFollower(ref.folder, disk).read(1 << 40):
                stream, _, value = unpack_spool_record(record)
                found.append((stream, BatchBody.decode(open_envelope(value)[0])))
    return found


def spooled_events(directory: Path, kind: str) -> list[dict[str, Any]]:
    """Decoded events of one kind in the spools."""
    return [
        KINDS[kind].codec.decode(event)
        for _, body in spooled(directory)
        if body.kind == KINDS[kind].number
        for event in body.events
    ]


def drain(trail: Path, disk: Disk | None = None, *, wait: Callable[[], None] = lambda: time.sleep(0.001)) -> None:
    """Take every spool to its end, seal, store: what the runtime does, in this process."""
    with LocalTrail(trail, disk=disk) as opened:
        runtime = Runtime(opened, disk)
        while runtime.turn():
            wait()
        runtime.drain()


def sealed(trail: Path) -> Iterator[tuple[SealHeader, BatchBody | None]]:
    """Every sealed message that is no tick, with its batch, from objects and vault."""
    keys = load_keys(trail / "keys")
    objects, vault = FolderStore(trail / "objects"), FolderStore(trail / "vault")
    for info in objects.list("segments/"):
        ref = parse_segment_name(info.name)
        assert ref is not None
        name = f"{ref.stream}/{ref.partition}/{ref.window:012d}.0"
        records = SEGMENT.decode(info.name, objects.get(info.name))
        payloads = open_vault(f"vault/{name}", vault.get(name), keys.vault_key)
        for record, payload in zip(records, payloads, strict=True):
            header = SealHeader.decode(record["header"])
            if header.outcome == "control":
                continue
            body = None
            if header.batch is not None and payload.value is not None:
                body = BatchBody.decode(open_envelope(payload.value)[0])
            yield header, body


def sealed_events(trail: Path, kind: str) -> list[dict[str, Any]]:
    """Decoded events of one kind, those of duplicates and refused messages left out."""
    return [
        KINDS_BY_NUMBER[body.kind].codec.decode(event)
        for header, body in sealed(trail)
        if body is not None and header.outcome in ("accepted", "gap_filled") and body.kind == KINDS[kind].number
        for event in body.events
    ]


def outcomes(trail: Path) -> set[str]:
    """What became of the messages of a trail."""
    return {header.outcome for header, _ in sealed(trail)}
