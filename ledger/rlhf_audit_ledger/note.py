"""C2SP signed notes (c2sp.org/signed-note@v1.0.0) and their Ed25519 keys.

    <text, ends in a newline>
    <empty line>
    — <name> <base64(4-byte key id || signature)>      one or more of these

The signature covers the text with its last newline. A key id is the first four
bytes of SHA-256(name || newline || type || public key). Written keys are
``name+<key id in hex>+<base64(type || key)>`` and, for the secret half,
``PRIVATE+KEY+...`` with the seed. Stricter than the specification where that
costs nothing: one spelling of every note and key, no two signatures by one key.

Only type 0x01 (Ed25519) is verified here; lines of other keys and types are
handed back as they are. What the text means is the business of ``checkpoint``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_audit_ledger import ed25519
from rlhf_audit_ledger.domain import sha256
from rlhf_audit_ledger.ed25519 import SeedSigner, SignatureError, Signer
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError, FormatError

ED25519_TYPE = b"\x01"
KEY_ID_BYTES = 4
MAX_SIGNATURES = 16  # what every verifier must accept; more would only be work for the reader
_PRIVATE_PREFIX = "PRIVATE+KEY+"
_LINE_PREFIX = "\u2014 "  # em dash


class UnknownKeyError(CouldNotCheckError):
    """None of the keys given has signed this note: neither genuine nor forged."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and the Ed25519 key that signs under it; ``key_id`` always follows from both."""

    name: str
    key_id: bytes
    public_key: bytes

    def __post_init__(self) -> None:
        ed25519.check_public_key(self.public_key)
        expected = key_id_of(self.name, self.public_key)
        if self.key_id != expected:
            raise FormatError(f"key id of {self.name}: found {self.key_id.hex()}, computed {expected.hex()}")

    def format(self) -> str:
        """The written form, a vkey."""
        return f"{self.name}+{self.key_id.hex()}+{_base64(ED25519_TYPE + self.public_key)}"


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature line, not verified; ``signature`` is what follows the key id and depends on the key's type."""

    name: str
    key_id: bytes
    signature: bytes

    def format(self) -> str:
        """The line as it stands in a note, with its newline."""
        return f"{_LINE_PREFIX}{self.name} {_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note of which at least one signature was verified."""

    text: str
    verified: tuple[VerifierKey, ...]
    unknown: tuple[SignatureLine, ...]


def key_id_of(name: str, public_key: bytes) -> bytes:
    """Key id of an Ed25519 key under this name; raises FormatError if the name is not allowed."""
    check_name(name)
    return sha256(name.encode(), b"\n", ED25519_TYPE, public_key)[:KEY_ID_BYTES]


def key_for_origin(base_public_key: bytes, origin: str) -> VerifierKey:
    """The log key of one origin: the ledger's log key, named after the origin."""
    return VerifierKey(origin, key_id_of(origin, base_public_key), bytes(base_public_key))


def check_name(name: str) -> None:
    """Raises FormatError unless ``name`` may name a key: not empty, no space, no plus, no control character."""
    if not name:
        raise FormatError("a key name is empty")
    if any(char.isspace() or char < " " or char == "+" for char in name):
        raise FormatError("a key name has a space, a plus sign or a control character")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise FormatError("a key name is not valid Unicode") from error


def parse_verifier_key(vkey: str) -> VerifierKey:
    """Read a vkey; raises FormatError for anything but the one spelling of an Ed25519 key."""
    name, key_id, key = _parse_key(vkey, "verifier key")
    try:
        return VerifierKey(name, key_id, key)
    except SignatureError as error:
        raise FormatError(f"verifier key of {name}: {error}") from error


def parse_private_key(skey: str) -> tuple[str, SeedSigner]:
    """Read ``PRIVATE+KEY+...``: the name and its signer. Raises FormatError, which never holds the key."""
    if not skey.startswith(_PRIVATE_PREFIX):
        raise FormatError(f"a private key must start with {_PRIVATE_PREFIX}")
    name, key_id, seed = _parse_key(skey.removeprefix(_PRIVATE_PREFIX), "private key")
    signer = SeedSigner(seed)
    if key_id != key_id_of(name, signer.public_key):
        raise FormatError(f"private key of {name}: its key id is not {key_id.hex()}")
    return name, signer


def format_private_key(name: str, seed: bytes) -> str:
    """The written form of a secret key."""
    key_id = key_id_of(name, SeedSigner(seed).public_key)
    return f"{_PRIVATE_PREFIX}{name}+{key_id.hex()}+{_base64(ED25519_TYPE + seed)}"


def sign_note(text: str, name: str, signer: Signer) -> bytes:
    """The note with one signature; raises FormatError if ``text`` cannot be the text of a note."""
    _check_text(text)
    line = SignatureLine(name, key_id_of(name, signer.public_key), signer.sign(text.encode()))
    return f"{text}\n{line.format()}".encode()


def split_note(data: bytes) -> tuple[str, tuple[SignatureLine, ...]]:
    """Text and signature lines, nothing verified; raises FormatError for anything that is not exactly a note."""
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"a note is not UTF-8 at byte {error.start}") from error
    text, separator, lines = note.rpartition("\n\n")
    if not separator:
        raise FormatError("a note has no empty line between text and signatures")
    _check_text(text + "\n")
    if not lines.endswith("\n"):
        raise FormatError("a note does not end in a newline")
    written = lines[:-1].split("\n")
    if len(written) > MAX_SIGNATURES:
        raise FormatError(f"a note has {len(written)} signatures, more than {MAX_SIGNATURES}")
    signatures = tuple(_parse_line(line) for line in written)
    if len({(line.name, line.key_id) for line in signatures}) < len(signatures):
        raise FormatError("a note has two signatures by one key")
    return text + "\n", signatures


def open_note(data: bytes, keys: Sequence[VerifierKey]) -> OpenedNote:
    """Read a note and verify every signature whose key is among ``keys``.

    Raises FormatError if it is not a note, SignatureError if one signature of a known key does not hold (even when
    others do), UnknownKeyError if no key given has signed it.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise ConfigError(f"two keys have the name {key.name} and the key id {key.key_id.hex()}")
    text, lines = split_note(data)
    message = text.encode()
    verified, unknown = [], []
    for line in lines:
        signed_by = known.get((line.name, line.key_id))
        if signed_by is None:
            unknown.append(line)
            continue
        try:
            ed25519.verify(signed_by.public_key, message, line.signature)
        except SignatureError as error:
            raise SignatureError(f"note signature by {line.name}+{line.key_id.hex()}: {error}") from error
        verified.append(signed_by)
    if not verified:
        raise UnknownKeyError(f"none of the {len(known)} keys given has signed this note")
    return OpenedNote(text, tuple(verified), tuple(unknown))


def decode_base64(text: str) -> bytes:
    """Standard base64 with padding, in its only canonical spelling; raises FormatError otherwise."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("not base64") from error
    if _base64(value) != text:
        raise FormatError("base64 that is not canonical")
    return value


def _parse_key(text: str, what: str) -> tuple[str, bytes, bytes]:
    """Name, key id and the 32 bytes behind the type byte; the key id is not compared here."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise FormatError(f"a {what} needs a name, a key id and a key, joined by plus signs")
    name, key_id_hex, encoded = parts
    check_name(name)
    if len(key_id_hex) != 2 * KEY_ID_BYTES or not set(key_id_hex) <= set("0123456789abcdef"):
        raise FormatError(f"{what} of {name}: the key id is not eight lower-case hex digits")
    try:
        key = decode_base64(encoded)
    except FormatError:
        raise FormatError(f"{what} of {name}: the key is not canonical base64") from None  # the cause could hold it
    if len(key) != 1 + ed25519.KEY_BYTES or key[:1] != ED25519_TYPE:
        raise FormatError(f"{what} of {name}: not an Ed25519 key (type 01, 32 bytes)")
    return name, bytes.fromhex(key_id_hex), key[1:]


def _parse_line(line: str) -> SignatureLine:
    prefix, name_and_value = line[: len(_LINE_PREFIX)], line[len(_LINE_PREFIX) :]
    name, separator, encoded = name_and_value.partition(" ")
    if prefix != _LINE_PREFIX or not separator:
        raise FormatError("a signature line is not: em dash, space, name, space, base64")
    check_name(name)
    value = decode_base64(encoded)
    if len(value) <= KEY_ID_BYTES:
        raise FormatError(f"signature line of {name}: {len(value)} bytes hold no signature")
    return SignatureLine(name, value[:KEY_ID_BYTES], value[KEY_ID_BYTES:])


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise FormatError("the text of a note does not end in a newline")
    if any(char < " " and char != "\n" for char in text):
        raise FormatError("the text of a note has a control character")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
