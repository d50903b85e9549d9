"""The secrets of a trail, in its ``keys/`` folder.

==================  ==========================================================
``root.key``        Ed25519; signs the genesis; may be moved offline afterwards
``log.key``         Ed25519; signs checkpoints
``ticker.key``      Ed25519; signs ticks
``routing.key``     32 bytes; which partition an annotator belongs to
``quarantine.key``  32 bytes; salts of quarantined messages and vault records
``vault.key``       32 bytes; encrypts the vault
``log.vkey``        public: the verifier keys, base line first
``secrets.check``   8 bytes of a digest of each 32-byte key, so that a wrong
                    file is refused before anything is sealed with it
==================  ==========================================================

Signing keys are written as in C2SP notes (``PRIVATE+KEY+name+id+base64``),
the others as 64 hex digits; one line each, 0600, folder 0700. A file that
others may read is refused: a key that leaked cannot be called back.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.note import format_private_key, parse_private_key
from rlhf_audit_schemas.errors import ConfigError, FormatError
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import AlreadyStoredError, create_file_durably, make_folders_durably, write_file_durably

KEY_BYTES = 32
PUBLIC_KEYS_FILE = "log.vkey"
CHECK_FILE = "secrets.check"
_CHECK_DOMAIN, _CHECK_BYTES = b"rlhf-audit/secret-check/", 8
_ROOT = "root"
_SIGNING = (_ROOT, "log", "ticker")
_SYMMETRIC = ("routing", "quarantine", "vault")
_NAME_PREFIX = "rlhf-audit-"  # a key file's name inside the file, so that two swapped files are noticed


class Secret(bytes):
    """Bytes that no message, log or traceback shows."""

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


@dataclass(frozen=True, slots=True)
class TrailKeys:
    """All keys of a trail. Signers show their public keys only, secrets nothing."""

    folder: Path
    log: Signer
    ticker: Signer
    routing_key: Secret
    quarantine_key: Secret
    vault_key: Secret
    offline_root: Signer | None

    @property
    def root(self) -> Signer:
        """The root key. Raises ConfigError if it is kept elsewhere."""
        if self.offline_root is None:
            raise ConfigError(f"{_path(self.folder, _ROOT)} is not here: bring it back for as long as it has to sign")
        return self.offline_root


@dataclass(frozen=True, slots=True)
class SealingKeys:
    """What a sealer needs, and no more."""

    log: Signer
    ticker: Signer
    quarantine_key: Secret


def load_sealing_keys(folder: Path) -> SealingKeys:
    """Read ``log``, ``ticker`` and ``quarantine``; the other files need not be here. Raises ConfigError."""
    return SealingKeys(
        _load_signer(folder, "log"), _load_signer(folder, "ticker"), load_secret(_path(folder, "quarantine"))
    )


def load_log_key(folder: Path) -> Signer:
    """Read ``log`` alone, for whoever publishes. Raises ConfigError."""
    return _load_signer(folder, "log")


def create_keys(folder: Path, disk: Disk | None = None) -> TrailKeys:
    """Make every key that is missing, durably, and load all of them.

    Only for a trail without a genesis: later a new key would not be the one that the genesis names.
    """
    disk = RealDisk() if disk is None else disk
    make_folders_durably(disk, folder)
    for name in (*_SIGNING, *_SYMMETRIC):
        path = _path(folder, name)
        if not disk.exists(path):
            seed = secrets.token_bytes(KEY_BYTES)
            line = format_private_key(_NAME_PREFIX + name, seed) if name in _SIGNING else seed.hex()
            with suppress(AlreadyStoredError):  # another process was first: its key counts
                create_file_durably(disk, path, line.encode("ascii") + b"\n")
    _write_check(folder, disk)
    disk.sync_dir(folder)  # a key that an earlier process linked and did not live to sync must not be lost again
    return load_keys(folder)


def load_keys(folder: Path) -> TrailKeys:
    """Read the keys; only ``root.key`` may be missing. Raises ConfigError, naming the file and what to do."""
    return TrailKeys(
        folder=folder,
        log=_load_signer(folder, "log"),
        ticker=_load_signer(folder, "ticker"),
        routing_key=load_secret(_path(folder, "routing")),
        quarantine_key=load_secret(_path(folder, "quarantine")),
        vault_key=load_secret(_path(folder, "vault")),
        offline_root=_load_signer(folder, _ROOT) if _path(folder, _ROOT).exists() else None,
    )


def load_secret(path: Path) -> Secret:
    """Read one file of 64 hex digits, such as a vault key given on its own. Raises ConfigError as ``load_keys``."""
    line = _line_of(path)  # what it is comes before who may read it: a public key is no file to hide
    try:
        value = bytes.fromhex(line)
    except ValueError:
        value = b""
    if len(value) != KEY_BYTES:
        what = "holds a public key, which opens nothing" if _is_public_key(line) else "is the wrong file"
        raise ConfigError(f"{path} {what}: expected is a key of {2 * KEY_BYTES} hex digits, as in keys/vault.key")
    _refuse_shared(path)
    expected = _checks(path.parent).get(path.stem)
    if expected is not None and expected != _check_of(path.stem, value):
        raise ConfigError(f"{path} is not the key that this trail was begun with: put the right file back")
    return Secret(value)


def write_public_keys(folder: Path, lines: Sequence[str], disk: Disk | None = None) -> None:
    """Write ``log.vkey``, one verifier key per line, the base line first; unchanged contents are left alone."""
    disk = RealDisk() if disk is None else disk
    path = folder / PUBLIC_KEYS_FILE
    data = "".join(f"{line}\n" for line in lines).encode()
    if not disk.exists(path) or disk.read(path) != data:
        write_file_durably(disk, path, data, mode=0o644)


def _write_check(folder: Path, disk: Disk) -> None:
    """Once, when a trail is begun; an older trail has none, and its keys are taken as they are."""
    if not disk.exists(folder / CHECK_FILE):
        secret = {name: load_secret(_path(folder, name)) for name in _SYMMETRIC}
        lines = "".join(f"{name} {_check_of(name, value)}\n" for name, value in secret.items())
        with suppress(AlreadyStoredError):
            create_file_durably(disk, folder / CHECK_FILE, lines.encode("ascii"))


def _check_of(name: str, value: bytes) -> str:
    return hashlib.sha256(_CHECK_DOMAIN + name.encode() + b"\0" + value).hexdigest()[: 2 * _CHECK_BYTES]


def _checks(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / CHECK_FILE).read_text(encoding="ascii").splitlines()
        return dict(line.split(" ", 1) for line in lines)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / CHECK_FILE} cannot be read: put the right file back, or delete it") from error


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.key"


def _load_signer(folder: Path, name: str) -> Signer:
    path = _path(folder, name)
    try:
        written_name, signer = parse_private_key(read_private_text(path))
    except FormatError as error:
        raise ConfigError(f"{path} is not a signing key ({error}): put the right file back") from None
    if written_name != _NAME_PREFIX + name:
        raise ConfigError(
            f"{path} holds the key {written_name!r}, not {_NAME_PREFIX + name!r}: put the right file back"
        )
    return signer


def read_private_text(path: Path) -> str:
    """The text of a file of secrets without its last newline. Raises ConfigError if others may read it."""
    with suppress(OSError):
        _refuse_shared(path)
    return _line_of(path)


def _refuse_shared(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): run chmod 600 {path}")


def _is_public_key(text: str) -> bool:
    """Whether it begins like a line of ``log.vkey``: name+id+base64."""
    return re.match(r"[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+(?:\n|$)", text) is not None


def _line_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii").removesuffix("\n")
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: put it back from your copy of the keys") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file: put the right file back") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
