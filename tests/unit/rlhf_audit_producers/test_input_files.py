"""Files as they come: compressed or not, damaged, changed while they are read, or no files at all."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_producers.input_file import BLOCK_BYTES, DamagedInputError, InputChangedError, InputFile
from rlhf_audit_schemas.errors import ConfigError


def contents(path: Path) -> bytes:
    with InputFile(path) as source:
        source.hash()
        return b"".join(source.blocks())


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.gz", "rows"])
def test_gzip_is_known_by_its_bytes_and_not_by_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert contents(path) == b"one\ntwo\n"
    path.write_bytes(b"one\ntwo\n")
    assert contents(path) == b"one\ntwo\n"


def test_members_behind_one_another_and_zero_padding_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(b"one\n") + bytes(7) + gzip.compress(b"two\n") + bytes(512))
    assert contents(path) == b"one\ntwo\n"


def test_the_digest_is_that_of_the_file_as_it_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(b"one\n"))
    with InputFile(path) as source:
        assert source.hash() == hashlib.sha256(path.read_bytes()).digest()


def test_a_file_larger_than_a_block_comes_out_whole_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    data = os.urandom(2 * BLOCK_BYTES + 17)
    path.write_bytes(data)
    seen: list[int] = []
    with InputFile(path) as source:
        assert source.hash(seen.append) == hashlib.sha256(data).digest()
        assert b"".join(source.blocks(seen.append)) == data
    assert sum(seen) == 2 * len(data)


@given(cut=st.integers(min_value=3, max_value=200))
def test_gzip_that_breaks_off_gives_what_came_before_and_then_says_so(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.gz"
    text = b"".join(b"row %d\n" % (number * 7919) for number in range(400))
    packed = gzip.compress(text)
    path.write_bytes(packed[:-cut])
    got = bytearray()
    with InputFile(path) as source:
        source.hash()
        with pytest.raises(DamagedInputError):
            got.extend(byte for block in source.blocks() for byte in block)
    assert text.startswith(bytes(got))


@pytest.mark.parametrize("tail", [b"garbage", b"\0\0x"])
def test_bytes_behind_gzip_data_are_damage(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(b"one\n") + tail)
    with pytest.raises(DamagedInputError):
        contents(path)


def test_a_flipped_bit_in_gzip_data_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows.gz"
    packed = bytearray(gzip.compress(b"one\n" * 50))
    packed[-6] ^= 1  # in the checksum: all text comes out before it shows
    path.write_bytes(packed)
    with pytest.raises(DamagedInputError):
        contents(path)


@pytest.mark.parametrize("lines", [50, 300_000])
def test_a_wrong_checksum_loses_nothing_that_was_packed(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "rows.gz"
    text = b"".join(b"line %d\n" % number for number in range(lines))
    packed = bytearray(gzip.compress(text))
    packed[-6] ^= 1
    path.write_bytes(packed)
    found: list[bytes] = []
    with InputFile(path) as source, pytest.raises(DamagedInputError):
        found.extend(source.blocks())
    assert b"".join(found) == text


@pytest.mark.parametrize("change", [b"one\ntwo\nthree\n", b"ONE\n"])
def test_a_file_that_changes_between_the_readings_is_noticed(tmp_path: Path, change: bytes) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"one\n")
    with InputFile(path) as source:
        source.hash()
        path.write_bytes(change)
        with pytest.raises(InputChangedError):
            list(source.blocks())
        os.utime(path, ns=(1, 1))
        with pytest.raises(InputChangedError):
            source.check_unchanged()


def test_a_file_that_is_replaced_is_read_as_it_was_opened(tmp_path: Path) -> None:
    path, other = tmp_path / "rows", tmp_path / "other"
    path.write_bytes(b"one\n")
    other.write_bytes(b"two\n")
    with InputFile(path) as source:
        source.hash()
        other.replace(path)
        assert b"".join(source.blocks()) == b"one\n"
        source.check_unchanged()


@pytest.mark.parametrize("name", ["missing", "missing/deeper", "-", "."])
def test_what_is_no_regular_file_is_refused_in_plain_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such file|not a regular file"):
        InputFile(Path("-") if name == "-" else tmp_path / name)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipes"):
        InputFile(tmp_path / "pipe")


@pytest.mark.parametrize("magic", [b"PAR1", b"PK\x03\x04", b"BZh9", b"\x28\xb5\x2f\xfd", b"\xff\xfea\x00"])
def test_other_formats_are_named(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(magic + bytes(40))
    with InputFile(path) as source, pytest.raises(ConfigError, match="expected JSON lines, CSV or TSV"):
        source.sample(1000)
