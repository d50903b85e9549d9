"""Where a trail's objects and its vault lie: the folders of its directory, or buckets that its settings name."""

from __future__ import annotations

import time
from pathlib import Path

from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import FolderLock, make_folders_durably
from rlhf_audit_stores.keys import create_keys, load_keys, load_secret, write_public_keys
from rlhf_audit_stores.objects import ObjectStore, open_store
from rlhf_audit_trail.founding import Ledger, existing_ledger, found, new_genesis
from rlhf_audit_trail.settings import Settings


def open_objects(directory: Path, settings: Settings) -> ObjectStore:
    """``objects_url``, or the trail's own folder."""
    return open_store(directory / "objects", settings.objects_url)


def open_vault(settings: Settings) -> ObjectStore:
    """``vault_url``, or ``vault_dir``."""
    return open_store(settings.vault_dir, settings.vault_url, mode=0o600)


def found_in_store(directory: Path, objects: ObjectStore, settings: Settings) -> Ledger:
    """The ledger whose objects lie in a bucket, begun there if there is none; its keys stand in ``directory``.

    Raises LockedError if another process is at work in ``directory``.
    """
    disk, spool, keys_folder = RealDisk(), directory / "spool", directory / "keys"
    sequencer = Sequencer(objects, spool / "global.stage", disk)
    if sequencer.first_entries(2) is not None:
        return need_ledger(directory, objects)
    make_folders_durably(disk, spool)
    lock = FolderLock(spool)
    lock.acquire()
    try:
        ledger = existing_ledger(sequencer)  # a founding that was cut short is brought to its end
        keys = load_keys(keys_folder) if ledger is not None else create_keys(keys_folder, disk)
        if ledger is not None:
            sequencer.open(ledger.genesis.log_key, ledger.global_origin)
        else:
            genesis = new_genesis(
                log_name=settings.log_name,
                window_seconds=settings.window_seconds,
                now_us=time.time_ns() // 1000,
                root=keys.root.public_key,
                log=keys.log.public_key,
                ticker=keys.ticker.public_key,
                partitions=settings.partitions,
            )
            ledger = found(sequencer, genesis, root=keys.root, log=keys.log)
        write_public_keys(keys_folder, ledger.public_key_lines(), disk)
    finally:
        lock.release()
    return ledger


def need_ledger(directory: Path, objects: ObjectStore) -> Ledger:
    """The ledger that was founded there. Raises CouldNotCheckError if there is none."""
    ledger = existing_ledger(Sequencer(objects, directory / "spool" / "global.stage", RealDisk()))
    if ledger is None:
        raise CouldNotCheckError(f"{directory} holds no ledger yet")
    return ledger


def facts_in(directory: Path, objects: ObjectStore) -> LedgerFacts:
    """What a recording process needs of the ledger whose evidence lies in ``objects``; its keys are in ``directory``.

    Raises CouldNotCheckError if there is no ledger.
    """
    ledger = need_ledger(directory, objects)
    routing_key = load_secret(directory / "keys" / "routing.key")
    return LedgerFacts(ledger.ledger_id, bytes(routing_key), ledger.genesis.partition_counts)
