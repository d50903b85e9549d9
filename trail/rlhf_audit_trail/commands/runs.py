"""``rlhf-audit runs``: the training runs and ingested files of a trail, newest first."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, settings_of

HELP = "list the runs and ingested files of a trail"
EXAMPLES = """\
rlhf-audit runs my-trail
rlhf-audit runs my-trail --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.query_ask import Rows, table_lines
    from rlhf_audit_trail.trail_reading import ago, state_of

    state = state_of(StoredTrail.of(args.directory, settings_of(args, args.directory)))
    if args.json:
        print(json.dumps([asdict(run) for run in state.runs], indent=2))
        return 0
    rows = []
    for each in state.runs:
        ranks = len(each.ranks_seen) + len(each.ranks_missing)
        seen = f"{len(each.ranks_seen)}/{ranks}" if ranks else ""
        kinds = ", ".join(f"{count:,} {name}" for name, count in each.kinds.items())
        step = "" if each.step is None else str(each.step)
        rows.append([each.run_id, each.state, seen, step, each.events, ago(each.last_us, state), kinds])
    names = ["run", "state", "ranks", "step", "events", "last", "kinds"]
    types = ["String", "String", "String", "String", "UInt64", "String", "String"]
    for line in table_lines(Rows(names, types, rows)):
        print(line)
    return 0
