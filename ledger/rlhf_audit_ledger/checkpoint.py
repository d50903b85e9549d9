"""Checkpoints: the signed statement that a log of this size has this root.

C2SP tlog-checkpoint as a signed note of exactly three lines::

    <origin>
    <size, decimal>
    <root, base64>

The name of the log's key is the origin. There are no extension lines: witnesses
refuse them. Numbers and base64 have one spelling each, so one statement has one
text. A checkpoint proves what the key holder said; that two of them belong to
one history is proved by ``proofs``, and that everybody sees the same one by
witnesses.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from rlhf_audit_ledger import note
from rlhf_audit_ledger.ed25519 import Signer
from rlhf_audit_ledger.merkle import EMPTY_ROOT, HASH_BYTES
from rlhf_audit_schemas.errors import FormatError, TamperError

MAX_SIZE = 2**63 - 1  # common implementations keep sizes in a signed 64-bit integer
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


class OriginError(TamperError):
    """A checkpoint belongs to another log than the one it was found for."""

    def __init__(self, *, expected: str, found: str) -> None:
        super().__init__(f"checkpoint of another log: expected {expected}, found {found}")
        self.expected, self.found = expected, found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is signed. Raises FormatError for what no log can say."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        note.check_name(self.origin)
        if not 0 <= self.size <= MAX_SIZE:
            raise FormatError(f"checkpoint of {self.origin}: size {self.size} is not in 0 to {MAX_SIZE}")
        if len(self.root) != HASH_BYTES:
            raise FormatError(f"checkpoint of {self.origin}: the root is {len(self.root)} bytes long")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise FormatError(f"checkpoint of {self.origin}: size 0 with a root of some entries")

    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode('ascii')}\n"


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint whose log signature holds; ``others`` are the remaining lines, none of them verified."""

    checkpoint: Checkpoint
    others: tuple[note.SignatureLine, ...]


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint; raises FormatError unless it is exactly what ``Checkpoint.text`` writes."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise FormatError(f"a checkpoint has three lines and no more, this one {len(lines) - 1}")
    origin, size, root = lines[:3]
    if not _DECIMAL.fullmatch(size):
        raise FormatError("the size of a checkpoint is not a canonical decimal")
    return Checkpoint(origin, int(size), note.decode_base64(root))


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The checkpoint as a note with the log's own signature."""
    return note.sign_note(checkpoint.text(), checkpoint.origin, signer)


def open_checkpoint(data: bytes, public_key: bytes, origin: str | None = None) -> OpenedCheckpoint:
    """Read a checkpoint and verify the one signature of the log's key.

    Raises FormatError if it is no checkpoint, OriginError if it is not of ``origin`` (checked before the signature),
    SignatureError if the signature does not hold, UnknownKeyError if this key did not sign it.
    """
    checkpoint = parse_checkpoint(note.split_note(data)[0])
    if origin is not None and checkpoint.origin != origin:
        raise OriginError(expected=origin, found=checkpoint.origin)
    opened = note.open_note(data, [note.key_for_origin(public_key, checkpoint.origin)])
    return OpenedCheckpoint(checkpoint, opened.unknown)
