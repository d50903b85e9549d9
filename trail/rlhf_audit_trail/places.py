"""Where a trail's objects and its vault lie: the folders of its directory, or buckets that its settings name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import FolderLock, make_folders_durably
from rlhf_audit_stores.keys import create_keys, load_keys, load_secret, read_private_text, write_public_keys
from rlhf_audit_stores.objects import ObjectStore, open_store
from rlhf_audit_trail.founding import Ledger, existing_ledger, found, new_genesis
from rlhf_audit_trail.settings import Settings, load_settings

if TYPE_CHECKING:
    from rlhf_audit_auditor.evidence import Trail


def open_objects(directory: Path, settings: Settings) -> ObjectStore:
    """``objects_url``, or the trail's own folder."""
    return open_store(directory / "objects", settings.objects_url)


def open_vault(settings: Settings) -> ObjectStore:
    """``vault_url``, or ``vault_dir``."""
    return open_store(settings.vault_dir, settings.vault_url, mode=0o600)


@dataclass(frozen=True, slots=True)
class StoredTrail:
    """A trail to be read: its directory (keys, spools, query copy), and where its objects and payloads lie."""

    directory: Path
    objects: ObjectStore
    vault: ObjectStore
    settings: Settings

    @classmethod
    def of(cls, directory: Path, settings: Settings | None = None) -> Self:
        """As the settings say; None: as those of the trail do."""
        found = load_settings(directory) if settings is None else settings
        return cls(directory, open_objects(directory, found), open_vault(found), found)

    def partition_counts(self) -> Mapping[str, int]:
        """Partitions of each stream as the genesis says. Raises CouldNotCheckError if there is no ledger."""
        if not self.holds_ledger():
            raise CouldNotCheckError(f"{self.directory} holds no ledger")
        return need_ledger(self.directory, self.objects).genesis.partition_counts

    def partitions(self) -> list[tuple[str, int]]:
        """Every partition that the genesis names. Raises CouldNotCheckError if there is no ledger."""
        return [(stream, number) for stream, count in self.partition_counts().items() for number in range(count)]

    def holds_ledger(self) -> bool:
        """Whether a ledger was founded there."""
        return self.objects.exists(GLOBAL_CHECKPOINT)


def evidence_of(
    directory: Path,
    settings: Settings,
    *,
    vkey_file: Path | None = None,
    vault: Path | None = None,
    vault_key_file: Path | None = None,
) -> Trail:
    """The trail to check: the buckets that the settings name, else what lies in ``directory``.

    Raises CouldNotCheckError if there are no objects, ConfigError if a file that was named cannot be used.
    """
    from rlhf_audit_auditor.opening import open_trail

    if vault is None and settings.origins["vault_dir"] != "default":
        vault = settings.vault_dir
    return open_trail(
        directory,
        vkey_file=vkey_file,
        vault=vault,
        vault_key_file=vault_key_file,
        object_store=open_objects(directory, settings) if settings.objects_url else None,
        vault_store=open_vault(settings) if settings.vault_url else None,
    )


def clickhouse_password(directory: Path, settings: Settings) -> str:
    """For the server that the settings name; empty if they name no file. Raises ConfigError if it cannot be used."""
    file = settings.clickhouse_password_file
    return read_private_text(directory / file) if file else ""


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
