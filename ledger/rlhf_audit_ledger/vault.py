"""Vault objects: source values, encrypted and deletable (``docs/format.md`` section 7).

``u8 suite || key id (8) || H(D("vault-plain") || plaintext) || AES-256-GCM``
with a key per object and plaintext: HKDF-SHA-256 of the vault key over object
name and plaintext hash. One key ever encrypts one plaintext, so the zero
nonce is safe and a retry writes the same bytes. Every record begins with a
secret salt, so the plaintext hash in the clear helps nobody to guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rlhf_audit_ledger.domain import domain, sha256
from rlhf_audit_ledger.objects import VAULT
from rlhf_audit_schemas.errors import FormatError, TamperError

SUITE = 1
_HEAD_BYTES = 1 + 8 + 32
_NONCE = bytes(12)
_PLAIN = domain("vault-plain")
_KEY = domain("vault-key")
_KEY_ID = domain("vault-key-id")


class VaultError(TamperError):
    """A vault object does not decrypt or does not re-hash under its key."""


class OtherVaultKeyError(FormatError):
    """A vault object names another suite or key; whether it is sound cannot be told with this one."""


@dataclass(frozen=True, slots=True)
class VaultRecord:
    """One source message as the vault keeps it. ``value`` is None for a hole; ``erased`` holds the raw record of a
    batch some of whose events were erased."""

    salt: bytes
    offset: int
    value: bytes | None
    erased: dict[str, object] | None = None


def vault_key_id(vault_key: bytes) -> bytes:
    """First 8 bytes of ``H(D("vault-key-id") || vault key)``."""
    return sha256(_KEY_ID, vault_key)[:8]


def seal_vault(name: str, records: Sequence[VaultRecord], vault_key: bytes) -> bytes:
    """The object called ``name`` (``vault/...``). Same records and key, same bytes."""
    encode = VAULT.codec.encode
    encoded = [encode({"salt": one.salt, "offset": one.offset, "value": one.value}) for one in records]
    plaintext = VAULT.encode(name, encoded)
    digest = sha256(_PLAIN, plaintext)
    head = bytes((SUITE,)) + vault_key_id(vault_key) + digest
    return head + AESGCM(_object_key(vault_key, name, digest)).encrypt(_NONCE, plaintext, _associated(name, head))


def open_vault(name: str, data: bytes, vault_key: bytes) -> list[VaultRecord]:
    """Records of the object called ``name``.

    Raises OtherVaultKeyError if it names another suite or key, VaultError if it does not decrypt or re-hash,
    FormatError if the plaintext is no vault container.
    """
    head = data[:_HEAD_BYTES]
    if len(head) < _HEAD_BYTES or head[0] != SUITE or head[1:9] != vault_key_id(vault_key):
        raise OtherVaultKeyError(f"{name}: encrypted under another suite or key")
    digest = head[9:]
    try:
        plaintext = AESGCM(_object_key(vault_key, name, digest)).decrypt(
            _NONCE, data[_HEAD_BYTES:], _associated(name, head)
        )
    except InvalidTag as error:
        raise VaultError(f"{name}: does not decrypt") from error
    if sha256(_PLAIN, plaintext) != digest:
        raise VaultError(f"{name}: plaintext does not hash to what its head says")
    records = []
    for raw in VAULT.decode(name, plaintext):
        value = raw["value"]
        erased = value if isinstance(value, dict) else None
        records.append(VaultRecord(raw["salt"], raw["offset"], None if erased else value, erased))
    return records


def _object_key(vault_key: bytes, name: str, digest: bytes) -> bytes:
    info = _KEY + name.encode("utf-8") + digest
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(vault_key)


def _associated(name: str, head: bytes) -> bytes:
    return name.encode("utf-8") + head
