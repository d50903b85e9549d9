"""Signed notes, their keys, and checkpoints: known ones byte for byte, and no second spelling of anything."""

from __future__ import annotations

import base64

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlhf_audit_ledger.checkpoint import (
    Checkpoint,
    OriginError,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from rlhf_audit_ledger.domain import sha256
from rlhf_audit_ledger.ed25519 import SeedSigner, SignatureError
from rlhf_audit_ledger.merkle import EMPTY_ROOT, leaf_hash, leaf_hashes, root_of
from rlhf_audit_ledger.note import (
    MAX_SIGNATURES,
    SignatureLine,
    UnknownKeyError,
    VerifierKey,
    check_name,
    decode_base64,
    format_private_key,
    key_for_origin,
    key_id_of,
    open_note,
    parse_private_key,
    parse_verifier_key,
    sign_note,
    split_note,
)
from rlhf_audit_ledger.proofs import consistency_proof
from rlhf_audit_ledger.tiles import Edge, TileReader, grow
from rlhf_audit_schemas.errors import AuditTrailError, ConfigError, CouldNotCheckError, FormatError, TamperError

# The example in the documentation of Go's sumdb/note.
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{SIGNATURE}".encode()
KEY = parse_verifier_key(VKEY)
# The example of the C2SP signed-note specification.
SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# The log of fifteen words that Tessera ships as its test data, by size.
LOG_KEY = "PRIVATE+KEY+example.com/log/testdata+33d7b496+AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg"
LOG_WORDS = (
    b"one two three four five six seven eit nain ten ileven twelf threeten fourten fivten"  # spelled as it is there
).split()
LOG_SIGNATURES = {
    0: "M9e0lhxJACzE1KoUdqKuPa+9p6R7dSW8BlEvrg/noo8FkGg6PbJoRNOcdjqjOq89wVvTA60eubCc4oufo5BvIVEgtQc=",
    1: "M9e0lhr9kuLxGdAtaUrhm84TQffVsLdcy808sN0a3WyniNlfcr9+bywoiIke1YYciCNjJGkCgIlQ8b16jhsmg/SChAM=",
    2: "M9e0llH4NKmlf0u7C8tkJioQOmi7l5ELqljXgKRg6R3G5JJ7vx7emDWo5fpqKuA/Dk/jRrI6il+7QCVirNhyUAWGoAk=",
    8: "M9e0lq1EK37dHtgv9O3UzPxisw5vwIPcJsX9ab0xt4mvVfbdUR1fbMjN6sBFYpBoBEmD4+cWhj/AVgI5MitCO5+mews=",
    15: "M9e0luh4jTG+UMBqOUo9/q+yAEvx1ilBEniMvjf1zfcBOhg+CKubMt53MvIt/uEWP6zdkdIQzd/fmwlM/dlPWF74ewI=",
}
LOG_ROOT_15 = "rKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs="

ALICE, BOB = SeedSigner(b"a" * 32), SeedSigner(b"b" * 32)
ORIGIN = "rlhf-audit.local/00112233445566778899aabbccddeeff/annotations/0"
CHECKPOINT = Checkpoint(ORIGIN, 700, leaf_hash(b"some root"))
SIGNED = sign_checkpoint(CHECKPOINT, ALICE)


def test_the_note_of_sumdb_comes_out_byte_for_byte() -> None:
    name, signer = parse_private_key(PRIVATE)
    assert sign_note(TEXT, name, signer) == NOTE
    opened = open_note(NOTE, [KEY])
    assert (opened.text, opened.verified, opened.unknown) == (TEXT, (KEY,), ())
    assert key_for_origin(signer.public_key, name) == KEY


def test_keys_have_one_written_form() -> None:
    assert KEY.format() == VKEY
    name, _ = parse_private_key(PRIVATE)
    seed = base64.b64decode(PRIVATE.split("+", 4)[4])[1:]
    assert format_private_key(name, seed) == PRIVATE
    assert parse_verifier_key(SPEC_VKEY).format() == SPEC_VKEY
    assert open_note(SPEC_NOTE.encode(), [parse_verifier_key(SPEC_VKEY)]).text == "This is an example message.\n"


def test_any_piece_or_neighbour_of_a_key_is_refused() -> None:
    for good, parse in ((VKEY, parse_verifier_key), (PRIVATE, parse_private_key)):
        pieces = {good[i:j] for i in range(len(good)) for j in range(i + 1, len(good) + 1)} - {good}
        neighbours = {good[:i] + chr(ord(good[i]) + 1) + good[i + 1 :] for i in range(len(good))}
        for bad in pieces | neighbours | {good + "=", good + "A", " " + good, good + "\n"}:
            with pytest.raises(FormatError):
                parse(bad)


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long, key id fits
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # unknown type, key id fits
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "",
        "++",
    ],
)
def test_bad_verifier_keys_are_refused(vkey: str) -> None:
    with pytest.raises(FormatError):
        parse_verifier_key(vkey)


def test_a_key_of_small_order_is_no_verifier_key() -> None:
    neutral = (1).to_bytes(32, "little")
    encoded = base64.b64encode(b"\x01" + neutral).decode()
    with pytest.raises(FormatError, match="small order"):
        parse_verifier_key(f"log+{key_id_of('log', neutral).hex()}+{encoded}")


def test_a_refused_private_key_is_not_in_the_error() -> None:
    name, key_id, encoded = PRIVATE.removeprefix("PRIVATE+KEY+").split("+", 2)
    for bad in (f"{name}+{key_id[:-1]}4+{encoded}", f"{name}+{key_id}+{encoded[:-1]}", f"{name}+{key_id}+{encoded}="):
        with pytest.raises(FormatError) as caught:
            parse_private_key("PRIVATE+KEY+" + bad)
        assert encoded[:8] not in str(caught.value)
        assert encoded[:8] not in str(caught.value.__cause__)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2003b", "a\u0085b", "\x00", "\ud800"])
def test_names_with_spaces_plus_signs_or_controls_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        check_name(name)
    with pytest.raises(FormatError):
        sign_note("text\n", name, ALICE)


@given(data=st.data())
def test_flipping_any_bit_of_a_note_is_noticed(data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(NOTE) - 1))
    forged = bytearray(NOTE)
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises((FormatError, SignatureError, UnknownKeyError)):
        open_note(bytes(forged), [KEY])


def test_dropping_or_doubling_any_byte_of_a_note_is_noticed() -> None:
    for at in range(len(NOTE)):
        for forged in (NOTE[:at] + NOTE[at + 1 :], NOTE[:at] + NOTE[at : at + 1] * 2 + NOTE[at + 1 :]):
            if forged != NOTE:
                with pytest.raises((FormatError, SignatureError, UnknownKeyError)):
                    open_note(forged, [KEY])


BAD_NOTES = {
    "no signature": TEXT,
    "no signature line": TEXT + "\n",
    "no empty line": TEXT + SIGNATURE,
    "no newline at the end": f"{TEXT}\n{SIGNATURE[:-1]}",
    "an empty line at the end": f"{TEXT}\n{SIGNATURE}\n",
    "a line that is no signature": f"{TEXT}\n{SIGNATURE}another line\n",
    "a space in the name": f"{TEXT}\n{SIGNATURE.replace('PeterN', 'Peter N')}",
    "a plus sign in the name": f"{TEXT}\n{SIGNATURE.replace('PeterN', 'Peter+N')}",
    "a hyphen for the dash": f"{TEXT}\n{SIGNATURE.replace('—', '-')}",
    "no space after the dash": f"{TEXT}\n{SIGNATURE.replace('— ', '—')}",
    "two spaces": f"{TEXT}\n{SIGNATURE.replace('Neumann ', 'Neumann  ')}",
    "a carriage return": f"{TEXT}\n{SIGNATURE}".replace("\n", "\r\n"),
    "a tab in the text": f"a\tb\n\n{SIGNATURE}",
    "a zero byte": f"\x00{TEXT}\n{SIGNATURE}",
    "base64 without padding": f"{TEXT}\n{SIGNATURE.replace('=', '')}",
    "base64 with unused bits set": f"{TEXT}\n{SIGNATURE.replace('nAM=', 'nAN=')}",
    "base64 of the url alphabet": f"{TEXT}\n{SIGNATURE.replace('/', '_')}",
    "no signature behind the key id": f"{TEXT}\n— PeterNeumann x08gow==\n",
    "the same signature twice": f"{TEXT}\n{SIGNATURE}{SIGNATURE}",
    "two signatures by an unknown key": f"{TEXT}\n{SIGNATURE}— other AAAAAAAB\n— other AAAAAAAC\n",
}


@pytest.mark.parametrize("written", BAD_NOTES.values(), ids=BAD_NOTES.keys())
def test_what_is_not_exactly_a_note_is_refused(written: str) -> None:
    with pytest.raises(FormatError):
        open_note(written.encode(), [KEY])


def test_bytes_that_are_not_utf8_are_no_note() -> None:
    with pytest.raises(FormatError, match="UTF-8 at byte 0"):
        open_note(b"\xff" + NOTE, [KEY])
    with pytest.raises(FormatError, match="UTF-8"):
        open_note(b"\xed\xa0\x80" + NOTE, [KEY])


@given(data=st.binary(max_size=80), text=st.text(max_size=40))
def test_any_bytes_are_a_note_or_refused(data: bytes, text: str) -> None:
    for candidate in (data, text.encode("utf-8", "replace"), text.encode("utf-8", "replace") + b"\n\n" + data):
        try:
            opened = open_note(candidate, [KEY])
        except AuditTrailError:
            continue
        pytest.fail(f"a note nobody signed was opened: {opened.verified}")


def test_sixteen_signatures_are_accepted_and_no_more() -> None:
    others = [SignatureLine(f"other/{number}", bytes(4), b"signature") for number in range(MAX_SIGNATURES)]
    sixteen = NOTE + "".join(line.format() for line in others[:-1]).encode()
    assert open_note(sixteen, [KEY]).unknown == tuple(others[:-1])
    with pytest.raises(FormatError, match="17 signatures"):
        open_note(sixteen + others[-1].format().encode(), [KEY])


def test_one_bad_signature_of_a_known_key_spoils_the_note() -> None:
    bob = key_for_origin(BOB.public_key, "bob")
    good = SignatureLine("bob", bob.key_id, BOB.sign(TEXT.encode()))
    assert open_note(NOTE + good.format().encode(), [KEY, bob]).verified == (KEY, bob)
    for forged in (BOB.sign(b"other text\n"), bytes(64), good.signature[:-1], good.signature + b"\x00"):
        note = NOTE + SignatureLine("bob", bob.key_id, forged).format().encode()
        with pytest.raises(SignatureError, match="bob"):
            open_note(note, [KEY, bob])
        assert open_note(note, [KEY]).unknown[0].name == "bob"


def test_a_note_by_unknown_keys_only_could_not_be_checked() -> None:
    alice = key_for_origin(ALICE.public_key, "PeterNeumann")
    for keys in ([], [alice], [key_for_origin(KEY.public_key, "AnotherName")]):
        with pytest.raises(UnknownKeyError):
            open_note(NOTE, keys)
    assert issubclass(UnknownKeyError, CouldNotCheckError)
    assert not issubclass(UnknownKeyError, TamperError)


def test_two_keys_with_one_name_and_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_audit_ledger.note.key_id_of", lambda name, public_key: bytes(4))
    one, other = (VerifierKey("log", bytes(4), signer.public_key) for signer in (ALICE, BOB))
    with pytest.raises(ConfigError, match="two keys"):
        open_note(NOTE, [one, other])


def test_a_key_id_that_does_not_follow_from_the_key_is_refused() -> None:
    with pytest.raises(FormatError, match="key id of log"):
        VerifierKey("log", bytes(4), ALICE.public_key)


def test_the_text_may_hold_empty_lines_and_even_look_like_a_note() -> None:
    text = NOTE.decode() + "\nand more\n"
    signed = sign_note(text, "alice", ALICE)
    assert open_note(signed, [key_for_origin(ALICE.public_key, "alice"), KEY]).text == text


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "a\r\n", "\x00\n"])
def test_a_text_that_no_reader_accepts_is_not_signed(text: str) -> None:
    with pytest.raises(FormatError):
        sign_note(text, "alice", ALICE)


@given(
    text=st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=60), name=st.text(min_size=1, max_size=9)
)
def test_whatever_is_signed_is_read_back(text: str, name: str) -> None:
    try:
        check_name(name)
    except FormatError:
        assume(False)
    opened = open_note(sign_note(text + "\n", name, ALICE), [key_for_origin(ALICE.public_key, name)])
    assert opened.text == text + "\n"
    assert opened.unknown == ()


@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AA==\n", " AA==", "AB==", "AAB=", "A===", "-_==", "AA=", "é"])
def test_base64_has_one_spelling(text: str) -> None:
    with pytest.raises(FormatError):
        decode_base64(text)


# ------------------------------------------------------------------ checkpoints


def test_the_record_hash_of_go_is_our_leaf_hash() -> None:
    assert base64.b64encode(leaf_hash(b"hello world")) == b"TszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0="


@pytest.mark.parametrize("size", LOG_SIGNATURES)
def test_the_checkpoints_of_the_shipped_log_come_out_byte_for_byte(size: int) -> None:
    name, signer = parse_private_key(LOG_KEY)
    checkpoint = Checkpoint(name, size, root_of(leaf_hashes(LOG_WORDS[:size])))
    signed = sign_checkpoint(checkpoint, signer)
    assert signed == f"{checkpoint.text()}\n— {name} {LOG_SIGNATURES[size]}\n".encode()
    assert open_checkpoint(signed, signer.public_key, name).checkpoint == checkpoint
    if size == 15:
        assert checkpoint.text() == f"{name}\n15\n{LOG_ROOT_15}\n"


def test_a_checkpoint_is_three_lines() -> None:
    root = base64.b64encode(CHECKPOINT.root).decode()
    assert CHECKPOINT.text() == f"{ORIGIN}\n700\n{root}\n"
    assert parse_checkpoint(CHECKPOINT.text()) == CHECKPOINT


ROOT = base64.b64encode(CHECKPOINT.root).decode()
BAD_TEXTS = {
    "nothing": "",
    "two lines": f"{ORIGIN}\n700\n",
    "an extension line": f"{ORIGIN}\n700\n{ROOT}\nextension\n",
    "an empty extension line": f"{ORIGIN}\n700\n{ROOT}\n\n",
    "no newline at the end": f"{ORIGIN}\n700\n{ROOT}",
    "no origin": f"\n700\n{ROOT}\n",
    "a space in the origin": f"a b\n700\n{ROOT}\n",
    "a plus sign in the origin": f"a+b\n700\n{ROOT}\n",
    "a leading zero": f"{ORIGIN}\n0700\n{ROOT}\n",
    "a sign": f"{ORIGIN}\n+700\n{ROOT}\n",
    "a negative size": f"{ORIGIN}\n-1\n{ROOT}\n",
    "a space before the size": f"{ORIGIN}\n 700\n{ROOT}\n",
    "an underscore": f"{ORIGIN}\n7_00\n{ROOT}\n",
    "other digits": f"{ORIGIN}\n\u0667\u0660\u0660\n{ROOT}\n",
    "no size": f"{ORIGIN}\n\n{ROOT}\n",
    "a hexadecimal size": f"{ORIGIN}\n0x2bc\n{ROOT}\n",
    "a size past 63 bits": f"{ORIGIN}\n{2**63}\n{ROOT}\n",
    "an endless size": f"{ORIGIN}\n{'9' * 5_000}\n{ROOT}\n",
    "a short root": f"{ORIGIN}\n700\n{base64.b64encode(bytes(31)).decode()}\n",
    "a long root": f"{ORIGIN}\n700\n{base64.b64encode(bytes(33)).decode()}\n",
    "a root in hex": f"{ORIGIN}\n700\n{bytes(32).hex()}\n",
    "a root without padding": f"{ORIGIN}\n700\n{ROOT.rstrip('=')}\n",
    "some root at size 0": f"{ORIGIN}\n0\n{ROOT}\n",
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_what_is_not_exactly_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_checkpoint(text)


@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[a-z./]{0,9}\n[0-9]{0,21}\n[A-Za-z0-9+/]{42,44}=?\n?")))
def test_any_text_is_a_checkpoint_or_refused(text: str) -> None:
    try:
        checkpoint = parse_checkpoint(text)
    except FormatError:
        return
    assert checkpoint.text() == text


def test_a_checkpoint_without_entries_has_the_empty_root() -> None:
    assert parse_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text()).root == EMPTY_ROOT
    with pytest.raises(FormatError, match="size 0"):
        Checkpoint(ORIGIN, 0, bytes(32))


def test_flipping_any_bit_of_a_checkpoint_is_noticed() -> None:
    for bit in range(8 * len(SIGNED)):
        forged = bytearray(SIGNED)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, SignatureError, UnknownKeyError, OriginError)):
            open_checkpoint(bytes(forged), ALICE.public_key, ORIGIN)


def test_the_checkpoint_of_another_log_is_named_before_its_signature_is_read() -> None:
    with pytest.raises(OriginError) as caught:
        open_checkpoint(SIGNED, BOB.public_key, ORIGIN + "1")
    assert (caught.value.expected, caught.value.found) == (ORIGIN + "1", ORIGIN)


def test_a_checkpoint_by_another_key_could_not_be_checked() -> None:
    with pytest.raises(UnknownKeyError):
        open_checkpoint(SIGNED, BOB.public_key, ORIGIN)


def test_a_key_of_one_log_does_not_sign_for_another() -> None:
    """The key id depends on the name, so a line moved to another origin is a line of nobody."""
    other = Checkpoint(ORIGIN + "1", CHECKPOINT.size, CHECKPOINT.root)
    line = split_note(SIGNED)[1][0]
    moved = f"{other.text()}\n{line.format()}".encode()
    with pytest.raises(UnknownKeyError):
        open_checkpoint(moved, ALICE.public_key)


def test_other_signature_lines_are_handed_back() -> None:
    cosignature = SignatureLine("witness.example/w1", b"\x01\x02\x03\x04", b"some cosignature")
    opened = open_checkpoint(SIGNED + cosignature.format().encode(), ALICE.public_key, ORIGIN)
    assert opened.checkpoint == CHECKPOINT
    assert opened.others == (cosignature,)


def test_a_second_line_by_the_log_key_is_refused() -> None:
    with pytest.raises(FormatError, match="two signatures"):
        open_checkpoint(SIGNED + split_note(SIGNED)[1][0].format().encode(), ALICE.public_key)


def test_the_checkpoint_that_a_foreign_witness_accepted_comes_out_byte_for_byte() -> None:
    """Torchwood's litewitness v0.9.0 took this note, with these two hashes as proof that it extends size 256."""
    entries = [b"\x01\x01" + sha256(b"event %d" % number) for number in range(700)]
    edge, objects, _ = grow(Edge.empty(), entries, leaf_hashes(entries))
    signer = SeedSigner(bytes(range(32)))
    origin = "example.com/rlhf/global"
    assert key_for_origin(signer.public_key, origin).format() == (
        "example.com/rlhf/global+8b469924+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    )
    assert sign_checkpoint(Checkpoint(origin, 700, edge.root()), signer).decode() == (
        "example.com/rlhf/global\n700\nwZ3QxQ3WLQc+O0MIOu4pDeYbjM0UtzVzLfPMUWyRsY0=\n\n"
        "— example.com/rlhf/global "
        "i0aZJDvGdslp5Ot9BWTi2kjFd7pEC77wxRrSEbITUipL2qYkYdwisvyw2AQUDMmiQysO4YmN5YzPoM6PEFbYU6TisQo=\n"
    )
    proof = consistency_proof(256, 700, TileReader(700, objects.__getitem__).hash_at)
    assert [base64.b64encode(value).decode() for value in proof] == [
        "PgDscKy5ioZvxFlH52tdnniEkWddQqYXP0Ae0VG6etc=",
        "pyGBCoyMgfCjVdskJp5dBxPfcnl2KmPHuqas45+SicU=",
    ]
    assert base64.b64encode(root_of(leaf_hashes(entries[:256]))) == b"0pfXUDEM5C9fxmOMpaSw/oJqStvkKszSbzyaOswlioI="
