"""``rlhf-audit status``: who records, how far it is sealed, stored and copied, what was lost.

Reads only; nothing is checked: ``verify`` does that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_trail.counting import counted
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, settings_of

if TYPE_CHECKING:
    from rlhf_audit_trail.trail_state import TrailState

HELP = "show who records, how far it is sealed and stored, and what was lost"
EXAMPLES = """\
rlhf-audit status my-trail               once
rlhf-audit status my-trail --watch       again every 2 seconds, until Ctrl-C
rlhf-audit status my-trail --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--watch", nargs="?", type=float, const=2.0, metavar="SECONDS", help="show it again and again")
    add("--json", action="store_true", help="for machines; with --watch one line each time")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.trail_reading import state_of
    from rlhf_audit_trail.workers_here import workers_here

    settings = settings_of(args, args.directory)
    trail = StoredTrail.of(args.directory, settings)
    while True:
        state = state_of(trail)
        if settings.kafka is not None:
            state.brokers, state.workers = settings.brokers, workers_here(args.directory)
        if args.json:
            print(json.dumps(state.to_json(), indent=None if args.watch else 2), flush=True)
        else:
            if args.watch and sys.stdout.isatty():
                print("\x1b[2J\x1b[H", end="")
            print("\n".join(lines(state)), flush=True)
        if not args.watch:
            return 0
        time.sleep(max(args.watch, 0.2))


def _at_work(state: TrailState) -> list[str]:
    if state.brokers is None:
        return [f"sealing     {'a runtime is at work' if state.is_sealing else 'nobody at the moment'}"]
    here = [f"{count} {name}" if count > 1 else name for name, count in state.workers.items() if count]
    return [
        f"brokers     {state.brokers}",
        f"at work     {', '.join(here) or 'none'} (here; `sink objects` and workers elsewhere do not show)",
    ]


def lines(state: TrailState) -> list[str]:
    """The state for people."""
    from rlhf_audit_trail.trail_reading import ago, clean

    windows = sum(each.windows for each in state.partitions)
    entries = sum(each.entries for each in state.partitions)
    copied = [each.copied for each in state.partitions]
    found = [
        f"ledger      {state.origin}",
        *_at_work(state),
        f"stored      {counted(windows, 'window')}, {entries:,} log entries; global log {state.size:,}",
        f"waiting     {counted(state.spool_bytes, 'byte')} in the spool",
    ]
    if state.asked is not None and all(count is not None for count in copied):
        missing = windows - sum(count or 0 for count in copied)
        behind = "up to date" if missing <= 0 else f"{counted(missing, 'window')} behind"
        found.append(f"ClickHouse  {behind} ({state.asked})")
    else:
        found.append("ClickHouse  not asked: losses and steps are not known")
        if state.not_asked is not None:
            found.append(f"            {clean(state.not_asked)}")
    found.append(f"verified    {state.verified}")
    lost = ", ".join(f"{count:,} {clean(reason)}" for reason, count in state.lost.items())
    if state.asked is not None:
        found.append(f"lost        {lost or '0 events declared'}")
        if state.findings:
            found.append(f"findings    {state.findings:,} events do not decode exactly (table findings)")
    found.append("")
    for each in state.partitions:
        name = f"{each.stream}/{each.partition}"
        found.append(
            f"  {name:<14} windows {each.windows:>8,}  entries {each.entries:>12,}  last {ago(each.closed_us, state)}"
        )
    found.append("")
    width = max((len(clean(each.producer)) for each in state.producers), default=0)
    for lane in state.producers:
        kinds = ", ".join(f"{count:,} {name}" for name, count in lane.kinds.items())
        head = f"  {clean(lane.producer):<{width}} epoch {lane.epoch:<3} {lane.state:<12}"
        found.append(f"{head} last {ago(lane.last_us, state):<9} {kinds}")
    for run in state.runs:
        if run.ranks_missing:
            found.append(f"  run {clean(run.run_id)}: ranks never seen: {', '.join(map(str, run.ranks_missing))}")
    return found
