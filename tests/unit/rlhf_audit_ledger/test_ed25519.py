"""Strict Ed25519: the RFC's vectors hold, and everything about which verifiers disagree is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_ledger.ed25519 import SeedSigner, SignatureError, Signer, check_public_key, verify
from rlhf_audit_schemas.errors import ConfigError, TamperError

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
SIGNER = SeedSigner(bytes(range(32)))

# RFC 8032 section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# The eight points whose order divides 8, in their canonical encoding, by order.
SMALL_ORDER = {
    "0100000000000000000000000000000000000000000000000000000000000000": 1,
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": 2,
    "0000000000000000000000000000000000000000000000000000000000000000": 4,
    "0000000000000000000000000000000000000000000000000000000000000080": 4,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05": 8,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85": 8,
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": 8,
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa": 8,
}
# Other spellings of points: -0 as x, or y not reduced (p and above).
NON_CANONICAL = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
BAD_POINTS = [bytes.fromhex(point) for point in (*SMALL_ORDER, *NON_CANONICAL)]


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_hold(seed: str, public_key: str, message: str, signature: str) -> None:
    signer: Signer = SeedSigner(bytes.fromhex(seed))
    assert signer.public_key.hex() == public_key
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    verify(bytes.fromhex(public_key), bytes.fromhex(message), bytes.fromhex(signature))
    check_public_key(bytes.fromhex(public_key))


@pytest.mark.parametrize(("point", "order"), SMALL_ORDER.items())
def test_the_listed_points_are_the_eight_of_small_order(point: str, order: int) -> None:
    """Twisted Edwards arithmetic from RFC 8032 section 5.1.4, so that the list is not taken on trust."""
    base = decompress(bytes.fromhex(point))
    current, steps = base, 1
    while current != (0, 1):
        current, steps = add(current, base), steps + 1
    assert steps == order


@pytest.mark.parametrize("point", BAD_POINTS, ids=bytes.hex)
def test_a_key_of_small_order_or_another_spelling_is_refused(point: bytes) -> None:
    with pytest.raises(SignatureError, match=r"small order|not canonical"):
        check_public_key(point)
    with pytest.raises(SignatureError, match=r"small order|not canonical"):
        verify(point, b"message", SIGNER.sign(b"message"))


@pytest.mark.parametrize("point", BAD_POINTS, ids=bytes.hex)
def test_an_r_of_small_order_or_another_spelling_is_refused(point: bytes) -> None:
    with pytest.raises(SignatureError, match="R of the signature"):
        verify(SIGNER.public_key, b"message", point + SIGNER.sign(b"message")[32:])


def test_a_signature_that_anyone_can_make_for_a_key_of_small_order_is_refused() -> None:
    """With A and R the neutral element and S zero the equation holds for every message."""
    neutral = (1).to_bytes(32, "little")
    with pytest.raises(SignatureError, match="small order"):
        verify(neutral, b"any message", neutral + bytes(32))


def test_an_honest_key_cannot_make_a_signature_with_a_neutral_r() -> None:
    """R = 0 * B and S = H(R, A, M) * a: the equation holds, so only the check of R refuses it."""
    seed = bytes(range(32))
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    r = (1).to_bytes(32, "little")
    h = int.from_bytes(hashlib.sha512(r + SIGNER.public_key + b"message").digest(), "little")
    s = h * int.from_bytes(digest, "little") % L
    with pytest.raises(SignatureError, match="R of the signature is a point of small order"):
        verify(SIGNER.public_key, b"message", r + s.to_bytes(32, "little"))


@pytest.mark.parametrize("multiple", range(1, 16))
def test_s_not_below_the_group_order_is_refused(multiple: int) -> None:
    signature = SIGNER.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + multiple * L
    if s >= 2**256:
        pytest.fail("the multiple no longer fits, choose a smaller one")
    with pytest.raises(SignatureError, match="not below the group order"):
        verify(SIGNER.public_key, b"message", signature[:32] + s.to_bytes(32, "little"))


def test_s_equal_to_the_group_order_is_refused() -> None:
    with pytest.raises(SignatureError, match="not below the group order"):
        verify(SIGNER.public_key, b"message", SIGNER.sign(b"message")[:32] + L.to_bytes(32, "little"))


def test_a_key_that_is_no_point_of_the_curve_is_refused() -> None:
    assert not on_curve(2)
    with pytest.raises(SignatureError, match="not a point of the curve"):
        check_public_key((2).to_bytes(32, "little"))


@given(y=st.integers(2, P - 2))
def test_exactly_the_points_of_the_curve_are_keys(y: int) -> None:
    key = y.to_bytes(32, "little")
    if on_curve(y) and key not in BAD_POINTS:
        check_public_key(key)
    else:
        with pytest.raises(SignatureError):
            check_public_key(key)


@given(message=st.binary(max_size=80), bit=st.integers(0, 511))
def test_flipping_any_bit_of_a_signature_breaks_it(message: bytes, bit: int) -> None:
    signature = bytearray(SIGNER.sign(message))
    verify(SIGNER.public_key, message, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify(SIGNER.public_key, message, bytes(signature))


@given(message=st.binary(min_size=1, max_size=80), data=st.data())
def test_flipping_any_bit_of_message_or_key_breaks_the_signature(message: bytes, data: st.DataObject) -> None:
    signature = SIGNER.sign(message)
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    forged = bytearray(message)
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify(SIGNER.public_key, bytes(forged), signature)
    bit = data.draw(st.integers(0, 255))
    key = bytearray(SIGNER.public_key)
    key[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify(bytes(key), message, signature)


@pytest.mark.parametrize("length", [0, 31, 33, 63, 65])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(SignatureError, match="bytes long"):
        check_public_key(bytes(length))
    with pytest.raises(SignatureError, match="bytes long"):
        verify(SIGNER.public_key, b"message", bytes(length))
    with pytest.raises(ConfigError, match="bytes long"):
        SeedSigner(bytes(length))


def test_a_signer_does_not_show_its_seed() -> None:
    seed = bytes(range(100, 132))
    shown = repr(SeedSigner(seed))
    assert seed.hex() not in shown
    assert SeedSigner(seed).public_key.hex() in shown


def test_a_bad_signature_counts_as_tampering() -> None:
    assert issubclass(SignatureError, TamperError)


D = -121665 * pow(121666, -1, P) % P


def on_curve(y: int) -> bool:
    x_squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    return pow(x_squared, (P - 1) // 2, P) in (0, 1)


def decompress(point: bytes) -> tuple[int, int]:
    value = int.from_bytes(point, "little")
    y, sign = value % 2**255, value >> 255
    x_squared = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x_squared, (P + 3) // 8, P)
    if (x * x - x_squared) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - x_squared) % P == 0
    return (P - x if x % 2 != sign else x), y


def add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = one, other
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P
