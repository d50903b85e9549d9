"""``rlhf-audit demo``: the whole story on a small made-up set, with the real commands.

Every step is the command a user would type; it is shown before it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_trail.settings import add_setting_flags

if TYPE_CHECKING:
    from rich.console import Console

HELP = "seal a small made-up set of judgements, verify it, forge it, see it caught"
EXAMPLES = """\
rlhf-audit demo                            everything in ./rlhf-audit-demo
rlhf-audit demo --out /tmp/demo            in a folder of its own
"""

_MARKER = ".made-by-rlhf-audit-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("rlhf-audit-demo"), help="folder of the demo, made anew")
    add_setting_flags(parser, "progress")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from rlhf_audit_trail.demo_data import judgements

    console = Console(highlight=False, soft_wrap=True)
    out: Path = args.out
    _empty(out)
    trail, kept, source = out / "trail", out / "kept-elsewhere", out / "judgements.jsonl"
    source.write_text(judgements(), encoding="utf-8")
    quiet = ["--progress", args.setting_progress] if args.setting_progress else []

    _chapter(console, "1", "Seal 1,202 rows of human feedback, two of them broken on purpose")
    status = _step(console, ["ingest", str(source), "--out", str(trail), *quiet])
    if status != 0:
        return status
    _chapter(console, "2", "What was sealed: windows, their Merkle roots, the checkpoint over all of them")
    _show_windows(console, trail)
    _keep(console, trail, kept)
    _chapter(console, "3", "Verify it, with the two lines that were kept elsewhere")
    verify = ["verify", str(trail), "--key", str(kept / "log.vkey"), "--expect", str(kept / "checkpoint"), *quiet]
    honest = _step(console, verify)
    _chapter(console, "4", "Forge copies of it in every way we know, and verify each")
    forged = _step(console, ["forge", str(trail)])
    _chapter(console, "5", "The trail itself was not touched: verify it again")
    again = _step(console, verify)
    console.print(
        f"\n[bold]Try next[/bold]\n  rlhf-audit verify {trail} --json\n  rlhf-audit ingest YOUR-FILE --out my-trail\n"
        f"  change any byte below {trail / 'objects'} and verify again"
    )
    return max(honest, forged, again)


def _empty(out: Path) -> None:
    """Only a folder that an earlier demo made is deleted."""
    import shutil

    from rlhf_audit_schemas.errors import ConfigError

    if out.exists():
        if not (out / _MARKER).exists():
            raise ConfigError(f"{out} exists and was not made by the demo: name another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def _chapter(console: Console, number: str, title: str) -> None:
    console.print()
    console.rule(f"[bold]{number}. {title}", align="left")


def _step(console: Console, arguments: list[str]) -> int:
    from rlhf_audit_trail.cli import main

    console.print(f"[dim]$ rlhf-audit {' '.join(arguments)}[/dim]\n")
    return main(arguments)


def _show_windows(console: Console, trail: Path) -> None:
    from rich.table import Table

    from rlhf_audit_ledger.close import Close
    from rlhf_audit_ledger.objects import SEGMENT, parse_segment_name
    from rlhf_audit_stores.objects import FolderStore

    objects = FolderStore(trail / "objects")
    table = Table("stream/partition", "window", "events", "entries", "window root (SHA-256)", box=None, pad_edge=False)
    for info in objects.list("segments/"):
        ref = parse_segment_name(info.name)
        last = SEGMENT.decode(info.name, objects.get(info.name))[-1]
        if ref is not None and last["close"] is not None:
            close = Close.decode(last["close"])
            entries = str(close.end_index - close.first_index)
            root = close.window_root.hex()
            table.add_row(f"{ref.stream}/{ref.partition}", str(ref.window), str(close.events), entries, root)
    console.print(table)


def _keep(console: Console, trail: Path, kept: Path) -> None:
    kept.mkdir()
    checkpoint = (trail / "objects" / "global" / "checkpoint").read_bytes()
    vkey = (trail / "keys" / "log.vkey").read_text(encoding="ascii").splitlines()[0]
    (kept / "checkpoint").write_bytes(checkpoint)
    (kept / "log.vkey").write_text(vkey + "\n", encoding="ascii")
    console.print("\n[bold]Keep these elsewhere[/bold], where whoever runs the trail cannot reach them:\n")
    console.print(f"verifier key   {vkey}\n")
    console.print(checkpoint.decode("utf-8").rstrip(), markup=False)
    console.print(f"\n(both were copied to {kept})")
