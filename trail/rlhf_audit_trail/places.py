"""Where a trail's objects and its vault lie: the folders of its directory, or buckets that its settings name."""

from __future__ import annotations

from pathlib import Path

from rlhf_audit_processors.sequencer import Sequencer
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.objects import ObjectStore, open_store
from rlhf_audit_trail.founding import Ledger, existing_ledger
from rlhf_audit_trail.settings import Settings


def open_objects(directory: Path, settings: Settings) -> ObjectStore:
    """``objects_url``, or the trail's own folder."""
    return open_store(directory / "objects", settings.objects_url)


def open_vault(settings: Settings) -> ObjectStore:
    """``vault_url``, or ``vault_dir``."""
    return open_store(settings.vault_dir, settings.vault_url, mode=0o600)


def need_ledger(directory: Path, objects: ObjectStore) -> Ledger:
    """The ledger that was founded there. Raises CouldNotCheckError if there is none."""
    ledger = existing_ledger(Sequencer(objects, directory / "spool" / "global.stage", RealDisk()))
    if ledger is None:
        raise CouldNotCheckError(f"{directory} holds no ledger yet")
    return ledger
