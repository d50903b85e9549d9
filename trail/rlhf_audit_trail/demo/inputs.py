"""What the demo trains on and ingests: files of the user, or a small set made here.

A file is read under the same mapping flags as ``rlhf-audit ingest`` takes; for
the demo they carry the file's name in front: ``--pairs-map``, ``--annotations-scores``.
Texts of pairs are read for the training only; the trail records their digests.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_schemas.errors import ConfigError

if TYPE_CHECKING:
    from rlhf_audit_producers.mapping import Mapping

_REPEATED = {"map": "FIELD=COLUMN", "scores": "RULES", "one_hot": "FIELD=COLUMNS", "null": "VALUE"}
_FIRST_S = 1_760_000_000  # a fixed day in 2025
_SEED = 11
_ODD_SHARE = 0.1
_SUBJECTS = ("Tides", "Compilers", "Bread", "Glaciers", "Bees", "Bridges", "Auctions", "Lenses", "Maps", "Sleep")
_ASKS = ("Explain {} in one sentence.", "Say what matters most about {}.", "Tell a child about {}.")
_GOOD = (
    " {} follow a rule that anyone can check, and here it is.",
    " In short, {} depend on what surrounds them, as measurements show.",
)
_BAD = (" {} are {}, obviously, as everybody knows.", " Nobody can say anything about {}, so do not ask again.")
_RATERS = ("rater-a", "rater-b", "rater-c", "rater-d")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file and the flags under which ``rlhf-audit ingest`` reads it."""

    path: Path
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """Pairs to train on, judgements to ingest beside them, and words for both."""

    pairs: InputFile
    annotations: InputFile | None
    words: str

    @property
    def files(self) -> list[InputFile]:
        return [self.pairs] if self.annotations is None else [self.pairs, self.annotations]


def add_flags(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """``--NAME FILE`` and its mapping flags."""
    group = parser.add_argument_group(f"{name}: what `rlhf-audit ingest` takes for this file")
    group.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    group.add_argument(f"--{name}-map-file", type=Path, metavar="FILE", help="as --map-file of ingest")
    for flag, metavar in _REPEATED.items():
        dashed = flag.replace("_", "-")
        group.add_argument(
            f"--{name}-{dashed}", action="append", default=[], metavar=metavar, help=f"as --{dashed} of ingest"
        )


def check_flags(args: argparse.Namespace) -> None:
    """Before anything is written: raises ConfigError if a file is not there, or flags have no file."""
    for name in ("pairs", "annotations"):
        _given(args, name)


def inputs_of(args: argparse.Namespace, out: Path) -> Inputs:
    """The user's files, or sets made here and written into ``out``."""
    from rlhf_audit_trail.demo_data import judgements

    pairs, annotations = _given(args, "pairs"), _given(args, "annotations")
    words = []
    if pairs is None:
        pairs = InputFile(out / "pairs.jsonl")
        text = made_up_pairs()
        pairs.path.write_text(text, encoding="utf-8")
        words.append(f"{text.count(chr(10)):,} made-up pairs")
    else:
        words.append(f"the pairs of {pairs.path.name}")
    if annotations is None and args.pairs is None:
        annotations = InputFile(out / "judgements.jsonl")
        text = judgements()
        annotations.path.write_text(text, encoding="utf-8")
        words.append(f"{text.count(chr(10)):,} made-up rows, two of them broken on purpose")
    elif annotations is not None:
        words.append(f"the judgements of {annotations.path.name}")
    return Inputs(pairs, annotations, " and ".join(words))


def _given(args: argparse.Namespace, name: str) -> InputFile | None:
    given = vars(args)
    path: Path | None = given[name]
    flags: list[str] = []
    if given[f"{name}_map_file"] is not None:
        flags += ["--map-file", str(given[f"{name}_map_file"])]
    for flag in _REPEATED:
        for value in given[f"{name}_{flag}"]:
            flags += [f"--{flag.replace('_', '-')}", value]
    if path is None:
        if flags:
            raise ConfigError(f"{flags[0]} for --{name}, and no --{name} FILE")
        return None
    if not path.is_file():
        raise ConfigError(f"--{name} {path}: no such file")
    return InputFile(path, tuple(flags))


def made_up_pairs(count: int = 480) -> str:
    """JSONL text of ``count`` preference pairs, the same every time; one in ten prefers what the others do not."""
    draw = random.Random(_SEED)  # noqa: S311 - a demo has to look the same every time; nothing secret is drawn here
    lines = []
    for number in range(count):
        subject = draw.choice(_SUBJECTS)
        texts = [draw.choice(_GOOD).format(subject), draw.choice(_BAD).format(subject, subject.lower())]
        if draw.random() < _ODD_SHARE:
            texts.reverse()
        row = {
            "annotation_id": f"pair-{number:04d}",
            "annotator": draw.choice(_RATERS),
            "judged_at": _FIRST_S + number * 37,
            "prompt": draw.choice(_ASKS).format(subject.lower()),
            "chosen": texts[0],
            "rejected": texts[1],
        }
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def write_training_rows(source: InputFile, target: Path) -> int:
    """Prompt, chosen, rejected and id of every good row, as JSONL for the training script. Returns how many.

    Raises ConfigError if the file holds no pairs under its mapping.
    """
    rows = _training_rows(source)
    if not rows:
        raise ConfigError(
            f"{source.path}: no row has prompt, chosen and rejected: say which columns they are with --pairs-map"
        )
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def _training_rows(source: InputFile) -> list[dict[str, Any]]:
    from rlhf_audit_producers import input_file
    from rlhf_audit_producers import mapping as mappings
    from rlhf_audit_producers.layout import sniff
    from rlhf_audit_producers.mapping_text import expanded
    from rlhf_audit_producers.preparing import row_chunks
    from rlhf_audit_producers.rows import RowMapper
    from rlhf_audit_schemas.codec import Constant

    rows: list[dict[str, Any]] = []
    with input_file.InputFile(source.path) as file:
        sniffed = sniff(file)
        mapping = expanded(_mapping(source), sniffed.columns)
        if not mappings.is_given(mapping):
            mapping = mappings.by_names(mapping, sniffed)
        mappings.check(mapping, sniffed)
        mapper = RowMapper(replace(mapping, store_text=True), sniffed, bytes(32))
        for chunk in row_chunks(file, sniffed):
            mapped = mapper.map(chunk)
            names = ("annotation_id", "prompt_text", "chosen_text", "rejected_text")
            columns = []
            for name in names:
                column = mapped.columns[name]
                columns.append([column.value] * mapped.count if isinstance(column, Constant) else column)
            for line, id_, prompt, chosen, rejected in zip(mapped.lines, *columns, strict=True):
                if prompt is not None and chosen is not None and rejected is not None:
                    id_ = f"line-{line}" if id_ is None else id_
                    rows.append({"annotation_id": id_, "prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _mapping(source: InputFile) -> Mapping:
    """The mapping that ``rlhf-audit ingest`` makes of the same flags."""
    from rlhf_audit_producers import mapping_text
    from rlhf_audit_trail.commands import ingest

    parser = argparse.ArgumentParser()
    ingest.add_arguments(parser)
    args = parser.parse_args([str(source.path), *source.flags])
    return mapping_text.from_flags(
        kind=args.kind,
        maps=args.map,
        scores=args.scores,
        one_hot=args.one_hot,
        nulls=args.null,
        base=None if args.map_file is None else mapping_text.from_file(args.map_file),
    )
