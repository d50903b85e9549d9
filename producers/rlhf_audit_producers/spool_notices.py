"""What whoever drains spools has to say itself: a producer is lost, a batch was refused.

Each statement has a producer of its own, named after what it is about, so
that nothing is ever said twice. Through a spool it is also said whole or not
at all: the records are written beside the spools, synced, and then moved to
their place by one rename. A process that dies in between leaves nothing that
anybody has read, so the next one says it anew, under the same name and epoch.

The one-process runtime says the same words straight into its source logs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rlhf_audit_ledger.batch import MAX_BATCH_EVENTS
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.batches import ProducerSession
from rlhf_audit_producers.recorder import LaneView, Recorder
from rlhf_audit_producers.spool_files import SPOOLS_FOLDER, SpoolRef, done_epoch, epoch_folder, write_name
from rlhf_audit_producers.spool_log import LedgerFacts, SpoolLog
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_stores.epochs import producer_folder_name

_BUILDING: Final = "building"
_QUOTA_BYTES: Final = 1 << 30  # a statement is said whatever the spools hold; the disk alone may refuse
_EPOCH: Final = 0  # the only one: the name is used once


def speaker(recorder: Recorder, producer: str, epoch: int, now_us: Callable[[], int]) -> ProducerSession:
    """A session for a statement or two."""
    return ProducerSession(
        recorder,
        producer=producer,
        epoch=epoch,
        signer=SeedSigner(os.urandom(32)),
        batch_events=MAX_BATCH_EVENTS,
        now_us=now_us,
    )


def say_lost(session: ProducerSession, ref: SpoolRef, lanes: Sequence[LaneView], reason: str) -> None:
    """``producer_lost``: it ends no lane, it tells why completeness is unknown (``docs/format.md`` section 4)."""
    heads = [{"stream": view.stream, "partition": view.partition, "next_seq": view.next_seq} for view in lanes]
    session.say(
        "producer_lost",
        producer=ref.producer,
        epoch=ref.epoch,
        lanes=heads,
        found_by=session.producer,
        reason=reason,
    )


def write_notice(
    disk: Disk,
    spool: Path,
    facts: LedgerFacts,
    producer: str,
    say: Callable[[ProducerSession], None],
    *,
    software: str,
    now_us: Callable[[], int],
) -> bool:
    """Say something once, through a spool of its own. Returns whether it was said now; False: it had been before.

    The caller holds the right to drain. Durable when it returns.
    """
    folder = spool / SPOOLS_FOLDER / producer_folder_name(producer)
    target = epoch_folder(folder, _EPOCH)
    if disk.exists(target) or (disk.exists(folder) and done_epoch(disk, folder) >= _EPOCH):
        return False
    make_folders_durably(disk, folder)
    building = folder / _BUILDING
    _clear(disk, building)
    log = SpoolLog(facts, building, disk, quota_bytes=_QUOTA_BYTES)
    try:
        session = speaker(log, producer, _EPOCH, now_us)
        session.start(software=software, previous_epoch=None, previous_lanes=[], purpose="ship")
        say(session)
        session.end(rows=0, bad_rows=0, reason="finished")
        log.work()
    finally:
        log.close()
    write_name(disk, folder, producer)
    disk.rename(building, target)
    disk.sync_dir(folder)
    return True


def _clear(disk: Disk, building: Path) -> None:
    """What a process left that died while it wrote."""
    if disk.exists(building):
        for entry in disk.list_dir(building):
            disk.unlink(building / entry.name)
        disk.sync_dir(building)
