"""A second reader of a trail's logs: standard library and ``cryptography``, nothing of ours.

    python tests/oracle/second_reader.py TRAIL [VKEY]

1. Every log under ``objects/``: its checkpoint is signed by the log key under the log's own name;
2. its bundles hash, by RFC 9162, to every hash of every tile and to the root that is signed; no other file lies there;
3. the global log begins with the genesis that names the ledger, and every later entry that is a checkpoint is signed
   and is the root of that partition log at that size;
4. the newest checkpoint of every partition is an entry of the global log.

VKEY (or the first line of ``keys/log.vkey``) holds the public key. It knows nothing of payloads, segments or lanes.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class RefusedError(Exception):
    """The trail is not what its checkpoints say."""


def h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def must(holds: bool, what: str) -> None:
    if not holds:
        raise RefusedError(what)


def unbase64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    must(base64.b64encode(raw).decode() == text, "base64 with a second spelling")
    return raw


def open_checkpoint(note: bytes, key: bytes) -> tuple[str, int, bytes]:
    """Origin, size and root of a signed checkpoint; its key is named like its origin."""
    text, _, signatures = note.decode().rpartition("\n\n")
    origin, size, root = text.split("\n")
    must(size == str(int(size)), f"{origin}: size is not canonical")
    must(signatures[-1:] == "\n", f"{origin}: does not end in a newline")
    for line in signatures[:-1].split("\n"):
        dash, name, value = line.split(" ")
        raw = unbase64(value)
        if dash == "\u2014" and name == origin and raw[:4] == h(name.encode() + b"\n\x01" + key)[:4]:
            Ed25519PublicKey.from_public_bytes(key).verify(raw[4:], (text + "\n").encode())
            return origin, int(size), unbase64(root)
    raise RefusedError(f"{origin}: not signed by this key")


def path_of(kind: str, index: int) -> str:
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03}")
    return f"tile/{kind}/{'/'.join(groups)}"


def root_of(hashes: list[bytes]) -> bytes:
    """Root by pairs; an odd last hash goes up as it is, which is RFC 9162's tree."""
    while len(hashes) > 1:
        odd = hashes[len(hashes) & ~1 :]
        hashes = [h(b"\x01" + hashes[at] + hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)] + odd
    return hashes[0] if hashes else h(b"")


def read_log(folder: Path, key: bytes) -> tuple[str, list[bytes], list[bytes]]:
    """Origin, entries and leaf hashes of one log, every byte of it hashed."""
    origin, size, root = open_checkpoint((folder / "checkpoint").read_bytes(), key)
    entries: list[bytes] = []
    for at in range(0, size, 256):
        count = min(256, size - at)
        rest = (folder / (path_of("entries", at // 256) + (f".p/{count}" if count < 256 else ""))).read_bytes()
        while rest:
            length = int.from_bytes(rest[:2], "big")
            must(len(rest) >= 2 + length, f"{origin}: bundle {at // 256} ends inside an entry")
            entries.append(rest[2 : 2 + length])
            rest = rest[2 + length :]
    must(len(entries) == size, f"{origin}: {len(entries)} entries, signed size {size}")
    hashes = leaves = [h(b"\x00" + entry) for entry in entries]
    tiles = dict(tiles_of("entries", [len(entry).to_bytes(2, "big") + entry for entry in entries]))
    level = 0
    while hashes:
        tiles |= tiles_of(str(level), hashes)
        hashes = [root_of(hashes[at : at + 256]) for at in range(0, len(hashes) // 256 * 256, 256)]
        level += 1
    must(root_of(leaves) == root, f"{origin}: another root was signed")
    for name, items in tiles.items():
        must((folder / (name if len(items) == 256 else f"{name}.p/{len(items)}")).is_file(), f"{origin}: no {name}")
    for path in folder.rglob("*"):  # partial tiles of older sizes may still lie there
        name, _, width = str(path.relative_to(folder)).partition(".p/")
        if path.is_file() and name != "checkpoint":
            items = tiles.get(name, [])[: int(width or 256)]
            must(path.read_bytes() == b"".join(items) and len(items) == int(width or 256), f"{origin}: {name} {width}")
    return origin, entries, leaves


def tiles_of(kind: str, items: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Path without ``.p/`` and the items of each tile or bundle."""
    return ((path_of(kind, at // 256), items[at : at + 256]) for at in range(0, len(items), 256))


def roots_at(leaves: list[bytes], sizes: set[int]) -> Iterator[tuple[int, bytes]]:
    """Roots of the first n leaves for each n, in one pass over a stack of complete subtrees."""
    stack: list[tuple[int, bytes]] = []
    for count, leaf in enumerate(leaves, 1):
        stack.append((1, leaf))
        while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
            (width, left), (_, right) = stack[-2:]
            stack[-2:] = [(2 * width, h(b"\x01" + left + right))]
        if count in sizes:
            root = stack[-1][1]
            for _, left in reversed(stack[:-1]):
                root = h(b"\x01" + left + root)
            yield count, root


def read_trail(trail: Path, vkey: str) -> dict[str, int]:
    """Size of every log by origin, and under ``checkpoints`` how many the global log holds. Raises on any fault."""
    key = unbase64(vkey.strip().split("+", 2)[2])[1:]
    global_origin, entries, _ = read_log(trail / "objects" / "global", key)
    must(
        entries[0][:2] == b"\x01\x80" and entries[1][:2] == b"\x01\x88", "the global log does not begin with a genesis"
    )
    ledger_id = h(b"rlhf-audit/genesis/v1\x00" + entries[0][2:])[:16].hex()
    must(global_origin.split("/")[-2:] == [ledger_id, "global"], "the genesis is not that of this ledger")
    named: dict[str, dict[int, bytes]] = {}
    for entry in entries[2:]:
        if entry[:1].isalnum():
            origin, size, root = open_checkpoint(entry, key)
            must(named.setdefault(origin, {}).setdefault(size, root) == root, f"{origin}: two roots at size {size}")
    sizes = {global_origin: len(entries), "checkpoints": sum(map(len, named.values()))}
    for checkpoint in sorted((trail / "objects" / "logs").glob("*/*/checkpoint")):
        origin, log, leaves = read_log(checkpoint.parent, key)
        must(origin == f"{global_origin[:-7]}/{'/'.join(checkpoint.parts[-3:-1])}", f"{origin} in another log's folder")
        must(checkpoint.read_bytes() in entries, f"{origin}: newest checkpoint is not in the global log")
        wanted = named.pop(origin)
        must(dict(roots_at(leaves, set(wanted))) == wanted, f"{origin}: the global log names another root of it")
        sizes[origin] = len(log)
    must(not named, f"logs that the global log names are gone: {sorted(named)}")
    return sizes


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    vkey_file = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "keys" / "log.vkey"
    for name, count in read_trail(folder, vkey_file.read_text(encoding="utf-8").splitlines()[0]).items():
        print(f"{count:>10}  {name}")  # noqa: T201 - a command of its own
