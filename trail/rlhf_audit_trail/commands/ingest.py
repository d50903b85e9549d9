"""``rlhf-audit ingest``: seal the judgements that lie in files.

Flags become one ``Mapping``; each file becomes one producer of the trail in
``--out``. Everything about files and rows is in ``rlhf_audit_producers``; here
are the words on stderr and stdout, the progress bar and the two signals.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

if TYPE_CHECKING:
    from rlhf_audit_producers.ingest_report import IngestReport
    from rlhf_audit_producers.input_file import InputFile
    from rlhf_audit_producers.layout import Sniffed
    from rlhf_audit_producers.mapping import Mapping
    from rlhf_audit_trail.settings import Settings

HELP = "read human feedback from files, seal and store it"
EXAMPLES = """\
rlhf-audit ingest pairs.jsonl                                      columns called prompt, chosen, rejected are known
rlhf-audit ingest ratings.csv.gz --map annotator=worker,score=stars,judged_at=when --map labeler==human
rlhf-audit ingest spans.tsv --map annotator=rater,item=doc+segment,judged_at=metadata.timestamp,label=category \\
    --scores 'category=Non-translation*:25' --scores 'severity=Minor&category=Fluency/Punctuation:0.1' \\
    --scores severity=Major:5,Minor:1,No-error:0                   first rule that fits wins
rlhf-audit ingest grades.csv --one-hot score=bad:0,ok:1,good:2     one judgement spread over 0/1 columns
rlhf-audit ingest grades.csv --one-hot 'score=stars_*'             columns stars_1 ... stars_5
rlhf-audit ingest ratings.csv --map-file mapping.toml --dry-run    shows what would be recorded, writes nothing
rlhf-audit ingest late.jsonl --kind withdrawal --map annotation_id=id,withdrawn_at=when,reason=code

fields: annotation_id annotator judged_at item group prompt response chosen rejected score label labeler axis.NAME
  correction: annotation_id annotator corrected_at score label chosen rejected reason
  withdrawal: annotation_id annotator withdrawn_at reason
columns: by name, or by a dotted path into JSON (metadata.timestamp, answers.0.text), also into JSON kept as text;
  a backslash takes the meaning from , : = & + * behind it
times: seconds, ms or us since 1970 (told apart by size) or ISO 8601; without a zone UTC is assumed
missing: empty, NULL, null, None, NaN, NA, N/A and every --null VALUE (ids, items, times and scores)
texts (prompt, response, chosen, rejected) are recorded as SHA-256, and as text only with --store-text
rows that cannot be read are sealed as fault events with line and digest; they never stop an ingest
the same file under the same mapping changes nothing; an ingest that was killed goes on where it was
"""
_LARGE_BYTES = 4 * 1024 * 1024  # from here on a second process for reading costs less than it saves
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="JSON lines, CSV or TSV; gzip or not")
    add("--out", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--kind", choices=("annotation", "correction", "withdrawal"), help="what a row is")
    add("--map", action="append", default=[], metavar="FIELD=COLUMN", help="where a field comes from")
    add("--map-file", type=Path, metavar="FILE", help="the same as TOML or JSON; flags come on top")
    add("--scores", action="append", default=[], metavar="RULES", help="score table, first match wins")
    add("--one-hot", action="append", default=[], metavar="FIELD=COLUMNS", help="field from 0/1 columns")
    add("--null", action="append", default=[], metavar="VALUE", help="one more value that means missing")
    add("--store-text", action="store_true", help="keep texts in the vault, not their digests alone")
    add("--format", choices=("auto", "jsonl", "csv", "tsv"), default="auto", help="default: by contents")
    add("--delimiter", metavar="CHAR", help="between the cells of a table; default: by the header")
    add(
        "--quoting",
        choices=("auto", "none", "quoted"),
        default="auto",
        help="quotes around cells; auto: CSV has them, TSV only where the file clearly uses them",
    )
    add("--allow-missing-columns", action="store_true", help="columns that the first rows lack are fine")
    add("--dry-run", action="store_true", help="map the first rows, show what would happen, write nothing")
    add("--json", action="store_true", help="the report for machines")
    add_setting_flags(
        parser, "batch_events", "log_name", "window_seconds", "partitions", "progress", "clickhouse", "query_port"
    )


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_producers.input_file import InputFile

    settings = settings_of(args, args.out)
    base = _mapping_of_flags(args)
    for path in args.files:  # every file is looked at before the first one is sealed
        with InputFile(path) as source:
            _prepared(source, base, args, say=True)
    if args.dry_run:
        return _dry_run(args, base)
    return _ingest(args, base, settings)


def _mapping_of_flags(args: argparse.Namespace) -> Mapping:
    from rlhf_audit_producers import mapping_text

    return mapping_text.from_flags(
        kind=args.kind,
        maps=args.map,
        scores=args.scores,
        one_hot=args.one_hot,
        nulls=args.null,
        store_text=args.store_text,
        missing_columns_allowed=args.allow_missing_columns,
        base=None if args.map_file is None else mapping_text.from_file(args.map_file),
    )


def _prepared(
    source: InputFile, base: Mapping, args: argparse.Namespace, *, say: bool = False
) -> tuple[Sniffed, Mapping]:
    """The layout of a file, and the mapping that holds for it; ``say`` tells the person what was assumed."""
    from rlhf_audit_producers import mapping as mappings
    from rlhf_audit_producers.layout import sniff
    from rlhf_audit_producers.mapping_text import expanded

    sniffed = sniff(source, form=args.format, quoting=args.quoting, delimiter=args.delimiter)
    found = expanded(base, sniffed.columns)
    by_names = not mappings.is_given(found)
    if by_names:
        found = mappings.by_names(found, sniffed)
    mappings.check(found, sniffed)
    if say:
        if by_names:
            pairs = ", ".join(f"{each.field}={each.columns[0]}" for each in found.sources if each.columns)
            _say(f"{source.path}: mapped by column names: {pairs}")
        unused = mappings.unused(found, sniffed.columns)
        if unused:
            from rlhf_audit_producers.layout import listed

            _say(f"{source.path}: columns not recorded: {listed(unused)}")
        if not found.has("annotator"):
            _say(f"{source.path}: no annotator column: no claim per annotator is possible")
    return sniffed, found


def _ingest(args: argparse.Namespace, base: Mapping, settings: Settings) -> int:
    from rlhf_audit_ledger.ed25519 import SeedSigner
    from rlhf_audit_producers.ingest import Recording, ingest_file
    from rlhf_audit_producers.input_file import InputFile
    from rlhf_audit_trail import __version__
    from rlhf_audit_trail.ingest_places import open_recorder
    from rlhf_audit_trail.progress import track

    recording = Recording(
        signer=SeedSigner(os.urandom(32)),
        batch_events=settings.batch_events,
        software=f"rlhf-audit-trail {__version__}",
        now_us=lambda: time.time_ns() // 1000,
        salt=os.urandom,
    )
    reports: list[IngestReport] = []
    with (
        _asked_to_stop() as signals,
        open_recorder(args.out, settings, say=_say) as place,
    ):
        for path in args.files:
            if signals:
                break
            with (
                InputFile(path) as source,
                track(2 * source.size, f"hash {path.name}", "bytes", mode=settings.progress) as meter,
            ):
                source.hash(meter.advance)
                sniffed, mapping = _prepared(source, base, args)
                meter.describe(f"seal {path.name}")
                report = ingest_file(
                    source,
                    sniffed,
                    mapping,
                    place.recorder,
                    recording,
                    on_bytes=meter.advance,
                    stop=lambda: bool(signals),
                    reads_in_a_process=source.size >= _LARGE_BYTES and (os.cpu_count() or 1) > 1,
                )
            reports.append(report)
            if not args.json:
                _print_report(report)
        checkpoint, key = place.checkpoint().decode("utf-8").split("\n"), place.key
    if args.json:
        summary = {"trail": str(args.out), "ledger": checkpoint[0], "size": int(checkpoint[1]), "root": checkpoint[2]}
        print(json.dumps({**summary, "files": [report.to_json() for report in reports]}, indent=2))
    else:
        print(f"ledger {checkpoint[0]}\nsize {checkpoint[1]} root {checkpoint[2]}")
        print(f"key    {key}")
        kept = args.out / "objects" / "global" / "checkpoint"
        print(f"keep the key line and a copy of {kept} elsewhere, then check:")
        vault = [] if settings.origins["vault_dir"] == "default" else ["--vault", str(settings.vault_dir)]
        command = shlex.join(["rlhf-audit", "verify", str(args.out), *vault])
        print(f"  {command} --key KEPT-KEY-FILE --expect KEPT-CHECKPOINT-FILE")
    if signals:
        _say("interrupted: what was read is sealed; the same command goes on")
        return _INTERRUPTED
    return 0


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collects signals: after the first one the ingest stops at a clean point, the second one kills it."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_report(report: IngestReport) -> None:
    from rlhf_audit_producers.rows import WARNINGS

    if report.outcome == "already ingested":
        print(f"{report.path}: already ingested, nothing to do ({report.producer}, epoch {report.epoch})")
        return
    sealed = ", ".join(f"{count:,} {kind}" for kind, count in report.events.items()) or "none"
    epoch = f"epoch {report.epoch}"
    if report.continues_epoch is not None:
        epoch += f", goes on from epoch {report.continues_epoch} ({report.already_sealed:,} events were sealed before)"
    print(f"{report.path}: {report.outcome}")
    print(f"  rows        {report.rows:,}")
    print(f"  sealed      {sealed}")
    if report.faults:
        print(f"  bad rows    {report.faults:,}, sealed as fault events")
        for fault in report.first_faults:
            print(f"    {report.path}:{fault.line}: {fault.reason}")
        if report.faults > len(report.first_faults):
            print(f"    and {report.faults - len(report.first_faults):,} more")
    if report.losses:
        print(f"  too large   {report.losses:,} rows, declared as loss events")
    annotators = "none named: no claim per annotator is possible"
    print(f"  annotators  {annotators if report.annotators is None else f'{report.annotators:,}'}")
    for name, count in sorted(report.warnings.items()):
        print(f"  warning     {count:,} {WARNINGS[name]}")
    for sentence in report.owner.sentences() if report.owner else ():
        print(f"  note        {sentence}")
    print(f"  producer    {report.producer}, {epoch}")


def _dry_run(args: argparse.Namespace, base: Mapping) -> int:
    from rlhf_audit_producers.input_file import InputFile
    from rlhf_audit_producers.preview import preview
    from rlhf_audit_producers.rows import WARNINGS

    results = []
    for path in args.files:
        with InputFile(path) as source:
            sniffed, mapping = _prepared(source, base, args)
            found = preview(source, sniffed, mapping)
        faults = [{"line": fault.line, "reason": fault.reason} for fault in found.faults]
        results.append(
            {"file": str(path), "rows": found.rows, "events": found.events, "faults": faults, "shown": found.shown}
            | {"warnings": found.warnings}
        )
        if args.json:
            continue
        print(f"{path}: of the first {found.rows:,} rows {found.events:,} would be {mapping.kind} events")
        _print_lines(f"  {path}:{fault.line}: {fault.reason}" for fault in found.faults[:10])
        _print_lines(f"  warning: {count:,} {WARNINGS[name]}" for name, count in found.warnings.items())
        for row in found.shown:
            print("  " + "  ".join(f"{name}={value}" for name, value in row.items()))
    if args.json:
        print(json.dumps({"dry_run": True, "files": results}, indent=2))
    else:
        print("nothing was written")
    return 0


def _print_lines(lines: Sequence[str] | Iterator[str]) -> None:
    for line in lines:
        print(line)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
