"""``rlhf-audit forge``: forge copies of a trail and see ``verify`` catch each one.

The trail itself is only read. A forgery that agrees with itself (everything
re-sealed, everything rolled back) is shown twice: to a verifier that never saw
this ledger, which accepts it, and to one that knows the true checkpoint, which
refuses it. Needs the trail's keys, as an insider would have them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags

if TYPE_CHECKING:
    from rlhf_audit_auditor.report import Report
    from rlhf_audit_stores.keys import TrailKeys
    from rlhf_audit_stores.objects import ObjectStore
    from rlhf_audit_trail.forgeries import Forgery
    from rlhf_audit_trail.places import StoredTrail

HELP = "forge copies of a trail in every way we know and verify each"
EXAMPLES = """\
rlhf-audit forge ./my-trail                        in a temporary folder that is deleted afterwards
rlhf-audit forge ./my-trail --out ./forged         keeps the forged copies, to look at and verify yourself
"""

_FINDINGS_SHOWN = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="default %(default)s")
    add("--out", type=Path, metavar="FOLDER", help="new folder for the forged copies; default: a temporary one")
    add_setting_flags(parser, "progress")


@dataclass(frozen=True, slots=True)
class Row:
    """One verification of one forgery."""

    name: str
    verifier: str
    expected: int
    found: int


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_auditor.verify import Options, verify
    from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError
    from rlhf_audit_stores.keys import load_keys
    from rlhf_audit_trail.places import StoredTrail, evidence_of

    trail: Path = args.directory
    stored = StoredTrail.of(trail)
    if not stored.holds_ledger():
        raise CouldNotCheckError(f"{trail} holds no ledger")
    keys = load_keys(trail / "keys")
    if args.out is not None and args.out.resolve().is_relative_to(trail.resolve()):
        raise ConfigError(f"--out {args.out} lies in the trail itself: forgeries are done to copies elsewhere")
    if args.out is not None and args.out.exists():
        raise ConfigError(f"--out {args.out} exists: name a new folder")
    honest = verify(evidence_of(trail, stored.settings), Options())
    if honest.exit_code:
        print(f"the trail itself does not verify (exit {honest.exit_code}): nothing to show", file=sys.stderr)
        return honest.exit_code
    if args.out is not None:
        make_folders_durably(RealDisk(), args.out)  # copies hold what the trail holds
        return _forge_all(stored, args.out, keys, is_kept=True)
    with tempfile.TemporaryDirectory(prefix="rlhf-audit-forge-") as folder:
        return _forge_all(stored, Path(folder), keys, is_kept=False)


def _forge_all(trail: StoredTrail, out: Path, keys: TrailKeys, *, is_kept: bool) -> int:
    from rlhf_audit_trail.forgeries import FORGERIES
    from rlhf_audit_trail.reseal import NothingToForgeError

    rows: list[Row] = []
    for forgery in FORGERIES:
        copy = out / forgery.name.replace(" ", "-")
        for name, store in (("objects", trail.objects), ("vault", trail.vault)):
            _fetch(store, copy / name)
        try:
            done = forgery.does(copy, keys)
        except NothingToForgeError as error:
            print(f"{forgery.name}: left out, {error}\n")
            continue
        print(f"{forgery.name}: {done}")
        rows += _judge(trail, copy, forgery)
        if is_kept:
            print(f"  kept: {copy}")
        else:
            shutil.rmtree(copy)
        print()
    return _table(rows)


def _fetch(store: ObjectStore, into: Path) -> None:
    """Everything in a store as files, wherever it lies; for nobody else's eyes."""
    for info in store.list(""):
        path = into / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(store.get(info.name))


def _judge(trail: StoredTrail, copy: Path, forgery: Forgery) -> list[Row]:
    rows = []
    alone, knowing = "verify --no-memory", "verify --expect CHECKPOINT"
    asked = [(alone, False, 1)] if forgery.caught_alone else [(alone, False, 0), (knowing, True, 1)]
    for verifier, expect, expected in asked:
        report = _verify(trail, copy, expect=expect)
        rows.append(Row(forgery.name, verifier, expected, report.exit_code))
        says = "accepts" if report.exit_code == 0 else "refuses" if report.exit_code == 1 else "cannot check"
        print(f"  {verifier} {says}: exit {report.exit_code}")
        for finding in report.findings[:_FINDINGS_SHOWN]:
            print(f"    {finding.place}: {finding.message}")
        hidden = len(report.findings) - _FINDINGS_SHOWN + sum(report.more.values())
        if hidden > 0:
            print(f"    and {hidden} more findings")
    return rows


def _verify(trail: StoredTrail, copy: Path, *, expect: bool) -> Report:
    """Verify a copy under the true trail's public key, without memory."""
    from rlhf_audit_auditor.opening import open_trail
    from rlhf_audit_auditor.verify import Options, verify

    keys = trail.directory / "keys"
    opened = open_trail(copy, vkey_file=keys / "log.vkey", vault_key_file=keys / "vault.key")
    return verify(opened, Options(expect=trail.objects.get(GLOBAL_CHECKPOINT) if expect else None))


def _table(rows: list[Row]) -> int:
    from rich.table import Table

    from rlhf_audit_trail.console import PeopleConsole

    table = Table("forgery", "verifier", "should exit", "exits", "", box=None, pad_edge=False)
    for row in rows:
        is_right = row.found == row.expected
        verdict = "[green]as it should[/green]" if is_right else "[bold red]WRONG[/bold red]"
        table.add_row(row.name, row.verifier, str(row.expected), str(row.found), verdict)
    PeopleConsole(highlight=False, soft_wrap=True).print(table)
    return 0 if rows and all(row.found == row.expected for row in rows) else 1
