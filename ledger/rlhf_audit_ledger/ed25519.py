"""Strict Ed25519 (RFC 8032), so that every verifier gives the same answer.

RFC 8032 leaves room: libraries differ on points of small order, on encodings
with y >= p and on S >= L. A key of small order signs anything; a signature with
a second valid spelling lets two parties hold different bytes for one statement.
Here all of these are refused before the ordinary check:

1. key and R: y below p = 2**255 - 19, and not one of the eight points of small order;
2. the key is a point of the curve;
3. S below L, the order of the base point;
4. the signature equation, by the ``cryptography`` package (cofactorless).

Signing is a Protocol, so that a key may live in a hardware module; ``SeedSigner``
holds one in memory. No randomness: keys are made at the edge.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rlhf_audit_schemas.errors import ConfigError, TamperError

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_L = 2**252 + 27742317777372353535851937790883648493
_Y_MASK = 2**255 - 1  # the top bit is the sign of x
_Y_OF_ORDER_8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
# y of the eight points whose order divides 8; the sign of x makes eight of these five.
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8})


class SignatureError(TamperError):
    """A signature does not hold, or the key or signature is one that a strict verifier refuses."""


class Signer(Protocol):
    """Something that signs with one Ed25519 key."""

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the public key; MUST NOT change."""

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature; the same message MUST give the same bytes."""


class SeedSigner:
    """A signer that holds its 32-byte seed in memory; its repr shows the public key only."""

    __slots__ = ("_key", "_public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ConfigError(f"an Ed25519 seed is {KEY_BYTES} bytes long, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public_key = self._key.public_key().public_bytes_raw()

    @property
    def public_key(self) -> bytes:
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SeedSigner(public_key={self._public_key.hex()})"


def check_public_key(public_key: bytes) -> None:
    """Raises SignatureError unless this is the canonical encoding of a curve point that is not of small order."""
    _load(bytes(public_key))


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raises SignatureError unless ``signature`` is a strict signature of ``message`` by ``public_key``."""
    key = _load(bytes(public_key))
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError(f"an Ed25519 signature is {SIGNATURE_BYTES} bytes long, not {len(signature)}")
    _check_encoding(signature[:32], "R of the signature")
    if int.from_bytes(signature[32:], "little") >= _L:
        raise SignatureError("S of the signature is not below the group order")
    try:
        key.verify(signature, message)
    except InvalidSignature as error:
        raise SignatureError(f"the signature does not hold under key {public_key.hex()}") from error


@lru_cache(maxsize=1024)
def _load(public_key: bytes) -> Ed25519PublicKey:
    if len(public_key) != KEY_BYTES:
        raise SignatureError(f"an Ed25519 public key is {KEY_BYTES} bytes long, not {len(public_key)}")
    y = _check_encoding(public_key, "public key")
    # x**2 = (y**2 - 1) / (d * y**2 + 1) must be a square; u / v is one exactly if u * v is (Euler's criterion).
    if pow((y * y - 1) * (_D * y * y + 1), (_P - 1) // 2, _P) != 1:
        raise SignatureError(f"public key {public_key.hex()} is not a point of the curve")
    try:
        return Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError as error:
        raise SignatureError(f"public key {public_key.hex()} was refused") from error


def _check_encoding(point: bytes, what: str) -> int:
    """Its y coordinate; raises SignatureError if that is not reduced or belongs to a point of small order."""
    y = int.from_bytes(point, "little") & _Y_MASK
    if y >= _P:
        raise SignatureError(f"{what} is not canonical: {point.hex()}")
    if y in _SMALL_ORDER_Y:
        raise SignatureError(f"{what} is a point of small order: {point.hex()}")
    return y
