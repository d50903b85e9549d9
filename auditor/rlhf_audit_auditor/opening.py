"""A folder opened as a trail to check: where objects, vault and keys lie in it.

The folder is a whole trail, or holds ``objects/`` and perhaps ``vault/``, or is
``objects/`` itself; objects and vault may lie in buckets instead. Nothing in it is
believed: its ``config.toml`` is not read, and a key that lies in it is the trail's
own word.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_audit_auditor.evidence import Evidence, FolderEvidence, StoreEvidence, Trail
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
from rlhf_audit_stores.keys import PUBLIC_KEYS_FILE, load_secret
from rlhf_audit_stores.objects import ObjectStore


def open_trail(
    directory: Path,
    *,
    vkey_file: Path | None = None,
    vault: Path | None = None,
    vault_key_file: Path | None = None,
    object_store: ObjectStore | None = None,
    vault_store: ObjectStore | None = None,
) -> Trail:
    """The trail in ``directory``; a store that is given counts instead of its folder.

    Raises CouldNotCheckError if there are no objects, ConfigError if a file that was named cannot be used.
    """
    if vault is None and (directory / "vault").is_dir():
        vault = directory / "vault"
    payloads: Evidence | None = None if vault is None else FolderEvidence(vault)
    own_vkey = directory / "keys" / PUBLIC_KEYS_FILE
    own_secret = directory / "keys" / "vault.key"
    if vault_key_file is None and own_secret.is_file():
        vault_key_file = own_secret
    vkey = None
    if vkey_file is not None:
        vkey = _first_line(vkey_file)
    elif own_vkey.is_file():
        vkey = _first_line(own_vkey)
    return Trail(
        objects=_folder(directory) if object_store is None else StoreEvidence(object_store),
        vault=payloads if vault_store is None else StoreEvidence(vault_store),
        vkey=vkey,
        is_key_own=vkey_file is None or vkey_file.resolve().is_relative_to(directory.resolve()),
        vault_key=None if vault_key_file is None else bytes(load_secret(vault_key_file)),
    )


def _folder(directory: Path) -> Evidence:
    objects = directory / "objects"
    if objects.is_dir():
        return FolderEvidence(objects)
    if (directory / "global").is_dir():
        return FolderEvidence(directory)
    raise CouldNotCheckError(
        f"{directory}: no folder objects/ that can be read: there is nothing to check (if they lie in a bucket: "
        "--objects-url s3://bucket/prefix)"
    )


def _first_line(path: Path) -> str:
    """The base line of a file of verifier keys."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a file of verifier keys") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not lines:
        raise ConfigError(f"{path}: no verifier key in it")
    return lines[0]
