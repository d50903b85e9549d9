"""Single-byte changes, stratified over every class of object and every field of a checkpoint."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_ledger.tiles import TILE_WIDTH, parse_path


@dataclass(frozen=True)
class Flip:
    """One byte of one file, to be replaced by its old value xor ``mask``."""

    stratum: str
    path: Path
    at: int
    mask: int

    def __str__(self) -> str:
        return f"{self.stratum}: byte {self.at} of {self.path.name} xor {self.mask:02x}"


def stratum_of(trail: Path, path: Path) -> str:
    """Which class of object a file is."""
    parts = path.relative_to(trail).parts
    if parts[0] == "vault":
        return "vault"
    if parts[1] == "segments":
        return "segment"
    owner = "global" if parts[1] == "global" else "partition"
    inside = "/".join(parts[2:] if owner == "global" else parts[4:])
    if inside == "checkpoint":
        return f"{owner} checkpoint"
    ref = parse_path(inside)
    assert ref is not None, path
    form = "full" if ref.width == TILE_WIDTH else "partial"
    return f"{owner} {form} {'bundle' if ref.level is None else f'tile of level {ref.level}'}"


def checkpoint_fields(data: bytes) -> dict[str, range]:
    """Positions of the fields of a checkpoint with one signature."""
    text, _, signature = data.partition(b"\n\n")
    lines = text.split(b"\n")
    starts = [0, len(lines[0]) + 1, len(lines[0]) + len(lines[1]) + 2]
    line = len(text) + 2
    name = line + len("— ".encode())
    encoded = data.index(b" ", name) + 1
    return {
        "origin": range(len(lines[0])),
        "size": range(starts[1], starts[1] + len(lines[1])),
        "root": range(starts[2], starts[2] + len(lines[2])),
        "signature name": range(name, encoded - 1),
        "key id": range(encoded, encoded + 5),
        "signature": range(encoded + 6, line + len(signature) - 1),
        "layout": range(line - 2, name),
    }


def strata(trail: Path) -> dict[str, list[tuple[Path, range]]]:
    """Everything that may be changed, by class; fields of checkpoints are classes of their own."""
    found: dict[str, list[tuple[Path, range]]] = defaultdict(list)
    for folder in ("objects", "vault"):
        for path in sorted((trail / folder).rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            name = stratum_of(trail, path)
            if name.endswith("checkpoint"):
                for field, where in checkpoint_fields(path.read_bytes()).items():
                    found[f"{name}, {field}"].append((path, where))
            else:
                found[name].append((path, range(path.stat().st_size)))
    return found


def flips(trail: Path, count: int, seed: int) -> Iterator[Flip]:
    """``count`` changes, the classes in turn, the rest by a fixed seed."""
    chooser = random.Random(seed)  # noqa: S311 - has to repeat
    by_class = strata(trail)
    names = sorted(by_class)
    for number in range(count):
        name = names[number % len(names)]
        path, where = chooser.choice(by_class[name])
        yield Flip(name, path, chooser.choice(where), chooser.randrange(1, 256))
