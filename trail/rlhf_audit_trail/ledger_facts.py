"""What a recording process needs of its ledger, read without taking the trail's lock; the ledger is begun if need be.

Of several processes that find an empty folder one begins the ledger, the
others wait for it: seconds at most, once in the life of a trail.
"""

from __future__ import annotations

import time
from pathlib import Path

from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import LockedError
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_trail.node_kit import read_node_kit
from rlhf_audit_trail.settings import Settings

_FOUNDING_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.02


def ledger_facts(directory: Path, settings: Settings, disk: Disk | None = None) -> LedgerFacts:
    """Facts of the ledger in ``directory``; it is founded if there is none.

    Raises CouldNotCheckError if another process never finishes founding it, ConfigError if its evidence is kept
    elsewhere: to found one here would be a second ledger under the same keys.
    """
    deadline = time.monotonic() + _FOUNDING_TIMEOUT_S
    while True:
        facts = _read(directory, disk)
        if facts is not None:
            return facts
        if settings.objects_url:
            raise ConfigError(
                f"{directory}: its ledger is kept at {settings.objects_url}: record into a folder made with "
                "`rlhf-audit keys TRAIL --node-kit FOLDER`"
            )
        try:
            _found(directory, settings, disk)
        except LockedError as error:
            if time.monotonic() > deadline:
                raise CouldNotCheckError(f"{directory}: the ledger is not founded yet: {error}") from error
            time.sleep(_LOOK_AGAIN_S)


def known_facts(directory: Path, disk: Disk | None = None) -> LedgerFacts:
    """Facts of a ledger that others founded. Raises CouldNotCheckError if it is not here."""
    facts = _read(directory, disk)
    if facts is None:
        raise CouldNotCheckError(
            f"{directory} holds no ledger yet: a training that records into it brings it, or copy a kit to it that "
            "`rlhf-audit keys TRAIL --node-kit FOLDER` made where the ledger lives"
        )
    return facts


def _read(directory: Path, disk: Disk | None) -> LedgerFacts | None:
    disk = RealDisk() if disk is None else disk
    if not (directory / "objects" / "global" / "checkpoint").exists():
        return read_node_kit(directory, disk)  # nor anything heavy loaded, at the first start of a trail
    from rlhf_audit_processors.sequencer import Sequencer
    from rlhf_audit_stores.objects import FolderStore
    from rlhf_audit_trail.founding import existing_ledger

    ledger = existing_ledger(
        Sequencer(FolderStore(directory / "objects", disk), directory / "spool" / "global.stage", disk)
    )
    if ledger is None:
        return None
    routing_key = load_secret(directory / "keys" / "routing.key")
    return LedgerFacts(ledger.ledger_id, bytes(routing_key), ledger.genesis.partition_counts)


def _found(directory: Path, settings: Settings, disk: Disk | None) -> None:
    from rlhf_audit_trail.local import open_local

    with open_local(directory, settings, disk=disk):
        pass
