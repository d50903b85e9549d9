"""``rlhf-audit tail``: one line per sealed window, as windows are stored.

Read from the evidence alone, so it needs neither ClickHouse nor a vault key:
kinds, counts and outcomes, never what an event holds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, settings_of

HELP = "show windows as they are sealed"
EXAMPLES = """\
rlhf-audit tail my-trail             the last 10 windows, then each new one, until Ctrl-C
rlhf-audit tail my-trail -n 50 --no-follow
"""
_LOOK_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("-n", "--windows", type=int, default=10, metavar="N", help="windows shown first (default %(default)s)")
    add("--no-follow", action="store_true", help="end after those")
    add("--json", action="store_true", help="one object per line")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.trail_reading import WindowLine, new_windows

    trail = StoredTrail.of(args.directory, settings_of(args, args.directory))

    shown: dict[tuple[str, int], int] = {}
    first: list[WindowLine] = sorted(
        new_windows(trail, shown, newest=max(args.windows, 0)), key=lambda line: line.closed_us
    )
    _show(first[-args.windows :] if args.windows > 0 else [], as_json=args.json)
    while not args.no_follow:
        time.sleep(_LOOK_S)
        _show(sorted(new_windows(trail, shown), key=lambda line: line.closed_us), as_json=args.json)
    return 0


def _show(lines: list, *, as_json: bool) -> None:  # type: ignore[type-arg]  # of WindowLine, which is imported late
    for line in lines:
        print(json.dumps(line.to_json()) if as_json else str(line), flush=True)
