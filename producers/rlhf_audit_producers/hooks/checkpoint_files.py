"""Digests of a checkpoint folder: SHA-256 per file, and a Merkle root over the tensors of safetensors files.

Files are opened at once and read later: a checkpoint that the trainer deletes
meanwhile can still be digested, and what is digested is what was there. Pickles
(``.pt``, ``.pth``, ``.bin``) are digested and never loaded.

    files digest = H(D("checkpoint-files") || for each file, by name: lp(name) || u64 size || SHA-256)
    tensor leaf  = 0x00-leaf of (D("tensor") || lp(name) || lp(dtype) || u32 rank || u64 dimensions || SHA-256 of data)

Ranks write files of their own into the same folder (random states, shards). A
file that names a rank belongs to that rank's event, the rest to the rank that
saves, so no rank has to wait for another.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlhf_audit_ledger.domain import domain, lp, sha256, u32, u64
from rlhf_audit_ledger.merkle import leaf_hash, root_of

_FILES = domain("checkpoint-files")
_TENSOR = domain("tensor")
_OF_RANK = re.compile(r"(?:rng_state_|__)(\d+)(?:\.pth|_\d+\.distcp)$")
_MAX_OPEN = 512  # more than that are opened when their turn comes
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_READ_BYTES = 1 << 20

_Leaves = tuple[list[tuple[bytes, bytes]], bool]  # (name, leaf hash) of each tensor; whether all could be read


@dataclass(slots=True)
class OpenedFile:
    """``file`` is None if it is still to be opened."""

    name: str
    path: Path
    file: BinaryIO | None


@dataclass(frozen=True, slots=True)
class Digests:
    """What the ``checkpoint`` event says of the files."""

    names: list[str]
    sizes: list[int]
    sha256: list[bytes]
    files_sha256: bytes
    tensor_root: bytes | None
    tensor_count: int | None
    is_complete: bool

    @property
    def event(self) -> dict[str, Any]:
        """Fields of the event."""
        return {
            "file_names": self.names,
            "file_sizes": self.sizes,
            "file_sha256": self.sha256,
            "files_sha256": self.files_sha256,
            "tensor_root": self.tensor_root,
            "tensor_count": self.tensor_count,
            "is_complete": self.is_complete,
        }


def open_files(folder: Path, *, rank: int, saves: bool) -> list[OpenedFile]:
    """The files of ``folder`` that this rank answers for, by name."""
    opened: list[OpenedFile] = []
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        name = path.relative_to(folder).as_posix()
        owner = _OF_RANK.search(name)
        if saves if owner is None else int(owner[1]) == rank:
            file = None
            if len(opened) < _MAX_OPEN:
                with suppress(OSError):
                    file = path.open("rb")
            opened.append(OpenedFile(name, path, file))
    return opened


def digest_files(files: Sequence[OpenedFile]) -> Digests:
    """Read everything; whole files and tensors on two threads, because one SHA-256 thread reads at 1.5 GB/s."""
    tensors: list[_Leaves] = []
    beside = threading.Thread(
        target=lambda: tensors.append(_tensor_leaves(files)), name="rlhf-audit-tensors", daemon=True
    )
    try:
        beside.start()
    except RuntimeError:  # the interpreter is shutting down and starts no more threads
        beside.run()
    whole = [_digest_file(one) for one in files]
    if beside.ident is not None:
        beside.join()
    close_files(files)
    found = [(one.name, *digest) for one, digest in zip(files, whole, strict=True) if digest is not None]
    leaves, is_readable = tensors[0] if tensors else ([], False)
    return Digests(
        names=[name for name, _, _ in found],
        sizes=[size for _, size, _ in found],
        sha256=[digest for _, _, digest in found],
        files_sha256=sha256(
            _FILES, *(lp(name.encode("utf-8", "surrogateescape")) + u64(size) + digest for name, size, digest in found)
        ),
        tensor_root=root_of([leaf for _, leaf in sorted(leaves)]) if leaves else None,
        tensor_count=len(leaves) or None,
        is_complete=is_readable and len(found) == len(files),
    )


def close_files(files: Sequence[OpenedFile]) -> None:
    """Let the files go."""
    for one in files:
        if one.file is not None:
            one.file.close()


def _digest_file(one: OpenedFile) -> tuple[int, bytes] | None:
    """Size and digest; None if the file has gone or changes while it is read."""
    try:
        descriptor = os.dup(one.file.fileno()) if one.file is not None else os.open(one.path, os.O_RDONLY)
    except OSError:
        return None
    try:
        before = os.fstat(descriptor)
        digest, buffer, at = hashlib.sha256(), bytearray(_READ_BYTES), 0
        while count := os.preadv(descriptor, [buffer], at):  # no shared position: another thread reads the same file
            digest.update(memoryview(buffer)[:count])
            at += count
        after = os.fstat(descriptor)
        is_same = at == after.st_size and before.st_mtime_ns == after.st_mtime_ns
        return (at, digest.digest()) if is_same else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _tensor_leaves(files: Sequence[OpenedFile]) -> _Leaves:
    leaves: list[tuple[bytes, bytes]] = []
    is_readable = True
    for one in files:
        if one.name.endswith(".safetensors"):
            try:
                leaves += _with_map(one, tensor_leaves)
            except (OSError, ValueError, KeyError, TypeError, OverflowError, struct.error):
                is_readable = False
    return leaves, is_readable


def _with_map(one: OpenedFile, use: Callable[[memoryview], list[tuple[bytes, bytes]]]) -> list[tuple[bytes, bytes]]:
    file = one.file if one.file is not None else one.path.open("rb")
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            return use(view)
    finally:
        if file is not one.file:
            file.close()


def tensor_leaves(data: memoryview) -> list[tuple[bytes, bytes]]:
    """Leaf of every tensor in the bytes of a safetensors file. Raises ValueError on bytes that are none."""
    (header_bytes,) = struct.unpack_from("<Q", data, 0)
    if header_bytes > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("safetensors header: longer than the file")
    header = json.loads(bytes(data[8 : 8 + header_bytes]))
    begin = 8 + header_bytes
    leaves = []
    for name, about in header.items():
        if name == "__metadata__":
            continue
        first, end = about["data_offsets"]
        if not 0 <= first <= end <= len(data) - begin:
            raise ValueError("safetensors header: a tensor lies outside the file")
        with data[begin + first : begin + end] as values:
            leaves.append(
                (name.encode("utf-8", "surrogateescape"), tensor_leaf(name, about["dtype"], about["shape"], values))
            )
    return leaves


def tensor_leaf(name: str, dtype: str, shape: Sequence[int], data: bytes | memoryview) -> bytes:
    """Leaf hash of one tensor, its data as safetensors writes it."""
    dimensions = u32(len(shape)) + b"".join(u64(one) for one in shape)
    named = lp(name.encode("utf-8", "surrogateescape")) + lp(dtype.encode("ascii"))
    return leaf_hash(_TENSOR + named + dimensions + hashlib.sha256(data).digest())
