"""Forgeries, each done to a copy of a trail, as an outsider, an operator or an insider would.

Every function changes the copy it is given and says in words what it did.
What ``verify`` must say of it stands in ``FORGERIES``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from rlhf_audit_ledger.merkle import leaf_hashes
from rlhf_audit_ledger.note import split_note
from rlhf_audit_ledger.objects import SEGMENT, log_prefix, parse_segment_name, vault_name
from rlhf_audit_ledger.tiles import Edge, TileReader, expected_objects, grow
from rlhf_audit_stores.keys import TrailKeys
from rlhf_audit_trail.reseal import NothingToForgeError, Reseal


@dataclass(frozen=True, slots=True)
class Forgery:
    """``caught_alone``: a verifier that never saw the ledger catches it too, not only one that knows a checkpoint."""

    name: str
    does: Callable[[Path, TrailKeys], str]
    caught_alone: bool = True


def change_a_byte(copy: Path, keys: TrailKeys) -> str:
    """Flip one bit in the middle of the largest bundle of entries."""
    path = max(_files(copy, "objects/logs/*/*/tile/entries/**/*"), key=lambda one: (one.stat().st_size, str(one)))
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at] ^= 1
    path.write_bytes(data)
    return f"one bit of byte {at} of {path.relative_to(copy)}"


def drop_a_window(copy: Path, keys: TrailKeys) -> str:
    """Delete a window's public record and its payloads."""
    path = _segments(copy)[0]
    path.unlink()
    ref = parse_segment_name(path.relative_to(copy / "objects").as_posix())
    if ref is not None:
        (copy / "vault" / vault_name(ref.stream, ref.partition, ref.window)).unlink(missing_ok=True)
    return f"{path.relative_to(copy)} and its payloads deleted"


def swap_two(copy: Path, keys: TrailKeys) -> str:
    """Exchange the contents of two objects."""
    found = _segments(copy)
    if len(found) < 2:
        raise NothingToForgeError("the trail has only one window: there are no two to swap")
    first, second = found[0], found[-1]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return f"{first.relative_to(copy)} and {second.relative_to(copy)} exchanged"


def cut_the_end(copy: Path, keys: TrailKeys) -> str:
    """Delete everything of a partition's newest window but the checkpoint that signs it."""
    path = _segments(copy)[-1]
    ref = parse_segment_name(path.relative_to(copy / "objects").as_posix())
    if ref is None:
        raise NothingToForgeError("the trail has no window")
    last = SEGMENT.decode(path.relative_to(copy / "objects").as_posix(), path.read_bytes())[-1]
    size = parse_checkpoint(split_note(last["checkpoint"])[0]).size
    before = 0
    if ref.window:
        earlier = path.with_name(f"{ref.window - 1:012d}.avro")
        name = earlier.relative_to(copy / "objects").as_posix()
        before = parse_checkpoint(split_note(SEGMENT.decode(name, earlier.read_bytes())[-1]["checkpoint"])[0]).size
    path.unlink()
    (copy / "vault" / vault_name(ref.stream, ref.partition, ref.window)).unlink(missing_ok=True)
    kept = set(expected_objects(before))
    log = copy / "objects" / log_prefix(ref.stream, ref.partition)
    for name in expected_objects(size):
        if name not in kept:
            (log / name).unlink(missing_ok=True)
    return f"window {ref.window} of {ref.stream}/{ref.partition} cut off, its checkpoint kept"


def roll_back(copy: Path, keys: TrailKeys) -> str:
    """Put the global log back to the state it had one entry ago, with the checkpoint that was true then."""
    log = copy / "objects" / "global"
    head = parse_checkpoint(split_note((log / "checkpoint").read_bytes())[0])
    if head.size < 4:
        raise NothingToForgeError("the global log names only one window: there is nothing to roll back to")
    reader = TileReader(head.size, lambda path: (log / path).read_bytes() if (log / path).is_file() else None)
    entries = [reader.entry(index) for index in range(head.size - 1)]
    edge, objects, _ = grow(Edge.empty(), entries, leaf_hashes(entries))
    shutil.rmtree(log)
    for path, data in objects.items():
        target = log / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (log / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(head.origin, edge.size, edge.root()), keys.log))
    return f"global log put back from {head.size} entries to {edge.size}, as it was then"


def reseal(copy: Path, keys: TrailKeys) -> str:
    """Edit one event and seal everything again with the real keys."""
    again = copy / "resealed"
    edited = Reseal(copy, again, keys).run()
    for name in ("objects", "vault"):
        shutil.rmtree(copy / name)
        (again / name).rename(copy / name)
    shutil.rmtree(again)
    return f"one bit of {edited}; then all sealed again with the real keys"


FORGERIES = (
    Forgery("change a byte", change_a_byte),
    Forgery("drop a window", drop_a_window),
    Forgery("swap two objects", swap_two),
    Forgery("cut the end", cut_the_end),
    Forgery("roll back", roll_back, caught_alone=False),
    Forgery("re-seal", reseal, caught_alone=False),
)


def _files(copy: Path, pattern: str) -> list[Path]:
    found = sorted(path for path in copy.glob(pattern) if path.is_file())
    if not found:
        raise NothingToForgeError(f"nothing lies at {pattern}")
    return found


def _segments(copy: Path) -> list[Path]:
    return _files(copy, "objects/segments/*/*/*.avro")
