"""Keys are made once, kept private, and refused when anything about them is wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crash.fake_disk import CountingDisk
from rlhf_audit_ledger import ed25519
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.keys import Secret, create_keys, load_keys, load_secret, write_public_keys

NAMES = ["root", "log", "ticker", "routing", "quarantine", "vault"]
SIGNING = NAMES[:3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_every_key_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_keys(tmp_path / "keys")
    finally:
        os.umask(before)
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == sorted(
        [*(f"{name}.key" for name in NAMES), "secrets.check"]
    )
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_loaded_keys_are_those_that_were_made_and_all_differ(tmp_path: Path) -> None:
    made, loaded = create_keys(tmp_path / "keys"), load_keys(tmp_path / "keys")
    again = create_keys(tmp_path / "keys")
    other = create_keys(tmp_path / "other")
    for keys in (loaded, again):
        assert keys.root.public_key == made.root.public_key
        assert keys.log.public_key == made.log.public_key
        assert keys.ticker.public_key == made.ticker.public_key
        assert (keys.routing_key, keys.quarantine_key, keys.vault_key) == (
            made.routing_key,
            made.quarantine_key,
            made.vault_key,
        )
    everything = [
        key
        for keys in (made, other)
        for key in (
            keys.root.public_key,
            keys.log.public_key,
            keys.ticker.public_key,
            keys.routing_key,
            keys.quarantine_key,
            keys.vault_key,
        )
    ]
    assert len(set(everything)) == 12
    assert {len(key) for key in everything} == {32}


def test_the_signers_sign(folder: Path) -> None:
    keys = load_keys(folder)
    for signer in (keys.root, keys.log, keys.ticker):
        ed25519.verify(signer.public_key, b"message", signer.sign(b"message"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_read_is_refused_with_the_command_that_mends_it(
    folder: Path, name: str, mode: int
) -> None:
    path = folder / f"{name}.key"
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_keys(folder)
    assert f"chmod 600 {path}" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_key_is_named_and_only_the_root_key_may_be_elsewhere(folder: Path, name: str) -> None:
    (folder / f"{name}.key").unlink()
    if name == "root":
        keys = load_keys(folder)
        with pytest.raises(ConfigError, match=r"root\.key is not here"):
            _ = keys.root
    else:
        with pytest.raises(ConfigError, match=rf"{name}\.key is missing"):
            load_keys(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "contents", [b"", b"\n", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64, b"PRIVATE+KEY+a+b+c\n"]
)
def test_anything_but_a_key_is_refused_without_showing_it(folder: Path, name: str, contents: bytes) -> None:
    path = folder / f"{name}.key"
    path.write_bytes(contents)
    with pytest.raises(ConfigError, match=rf"{name}\.key") as caught:
        load_keys(folder)
    assert not contents.strip() or repr(contents.strip())[2:-1] not in str(caught.value)


def test_two_exchanged_signing_keys_are_noticed(folder: Path) -> None:
    log, ticker = (folder / "log.key").read_bytes(), (folder / "ticker.key").read_bytes()
    (folder / "log.key").write_bytes(ticker)
    (folder / "ticker.key").write_bytes(log)
    with pytest.raises(ConfigError, match=r"log\.key holds the key 'rlhf-audit-ticker'"):
        load_keys(folder)


def test_no_message_shows_a_secret(folder: Path) -> None:
    keys = load_keys(folder)
    raw = [(folder / f"{name}.key").read_text().strip() for name in NAMES]
    shown = [
        repr(keys),
        str(keys),
        f"{keys}",
        f"{keys.vault_key}",
        f"{keys.vault_key!r:>20}",
        f"{keys.vault_key!s}",
    ]
    for text in shown:
        assert "Secret(hidden)" in text
        for secret in raw:
            assert secret not in text
            assert secret[-20:] not in text
    assert repr(bytes(keys.vault_key)) not in repr(keys)


def test_a_secret_is_the_bytes_it_hides() -> None:
    assert Secret(b"value") == b"value"
    assert bytes(Secret(b"value")) + b"s" == b"values"


def test_a_vault_key_can_be_read_on_its_own(folder: Path) -> None:
    assert load_secret(folder / "vault.key") == load_keys(folder).vault_key


def test_public_keys_are_for_everybody_base_line_first_and_written_only_when_they_change(folder: Path) -> None:
    disk = CountingDisk(RealDisk())
    write_public_keys(folder, ["base", "one"], disk)
    assert (folder / "log.vkey").read_bytes() == b"base\none\n"
    assert stat.S_IMODE((folder / "log.vkey").stat().st_mode) == 0o644
    disk.calls.clear()
    write_public_keys(folder, ["base", "one"], disk)
    assert disk.calls == []
    write_public_keys(folder, ["base", "one", "two"], disk)
    assert (folder / "log.vkey").read_bytes() == b"base\none\ntwo\n"
    assert "rename" in disk.names


def test_a_public_key_given_as_a_vault_key_is_called_the_wrong_file_and_not_to_be_hidden(tmp_path: Path) -> None:
    path = tmp_path / "log.vkey"
    write_public_keys(tmp_path, ["rlhf-audit.local/0/global+0a1b2c3d+AUb1"])
    with pytest.raises(ConfigError, match="holds a public key") as caught:
        load_secret(path)
    assert "chmod" not in str(caught.value)
    path.write_text("something else\n")
    with pytest.raises(ConfigError, match="is the wrong file") as caught:
        load_secret(path)
    assert "chmod" not in str(caught.value)
    assert "something" not in str(caught.value)


@pytest.mark.parametrize("name", ["routing", "quarantine", "vault"])
def test_a_secret_that_is_not_the_one_of_this_trail_is_refused_before_anything_is_sealed_with_it(
    folder: Path, name: str
) -> None:
    path = folder / f"{name}.key"
    line = path.read_text()
    path.write_text(("0" if line[0] != "0" else "1") + line[1:])
    with pytest.raises(ConfigError, match=f"{name}.key is not the key that this trail was begun with"):
        load_keys(folder)
    path.write_text(line)
    load_keys(folder)
    (folder / "secrets.check").unlink()  # a trail of an older version
    load_keys(folder)


def test_two_exchanged_secrets_are_noticed(folder: Path) -> None:
    vault, routing = folder / "vault.key", folder / "routing.key"
    lines = vault.read_text(), routing.read_text()
    vault.write_text(lines[1])
    routing.write_text(lines[0])
    with pytest.raises(ConfigError, match="put the right file back"):
        load_keys(folder)
