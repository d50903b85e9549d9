"""``rlhf-audit spool status|adopt|resend``: what waits in spools, and how to ship what a dead node left.

``adopt`` ships from where the spools lie: a directory that was mounted or
copied here. Positions and statements are kept in it, so that it may be
interrupted and run again, there or here: nothing is lost, and nothing is said
twice. What was copied is adopted once, in one place.

``resend`` sends the batches that brokers refused as too large, once more and
with the same bytes: they fill the gaps that stand in the ledger since.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.commands.ship import SETTINGS, add_drain_seconds
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

HELP = "show what waits in a trail's spools, ship what a dead node left, or what brokers refused"
EXAMPLES = """\
rlhf-audit spool status my-trail                     who records, and what is not acknowledged yet
rlhf-audit spool adopt /mnt/node7/my-trail           ship what is left there, with the settings that lie there
rlhf-audit spool adopt /mnt/node7/my-trail --trail my-trail    with the settings and the ledger of this node
rlhf-audit spool resend my-trail                     batches that were too large, once the topic takes them
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("status", "adopt", "resend"), help="look, or ship what was left or refused")
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--trail", type=Path, metavar="MINE", help="adopt: trail whose settings and ledger count (default DIR)")
    add("--json", action="store_true", help="status: for machines")
    add_drain_seconds(parser)
    add_setting_flags(parser, *SETTINGS)


def run(args: argparse.Namespace) -> int:
    if not (args.directory / "spool").is_dir():
        raise ConfigError(f"{args.directory} holds no spool/ folder: name the directory of a trail")
    return {"status": _status, "adopt": _adopt, "resend": _resend}[args.action](args)


def _resend(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.resending import resend
    from rlhf_audit_trail.ship_report import ShipReport

    settings = settings_of(args, args.directory)
    report = ShipReport(lambda text: print(text, file=sys.stderr), time.monotonic)
    found = resend(args.directory, settings, report, drain_s=args.drain_seconds)
    print(f"{found.acknowledged:,} acknowledged, {found.refused:,} still too large, {found.unanswered:,} not answered")
    if found.refused:
        print("raise max.message.bytes of the topic (`rlhf-audit topics check` says what it is)", file=sys.stderr)
    return 3 if found.refused or found.unanswered else 0


def _status(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rlhf_audit_producers.refused_batches import REFUSED_FOLDER
    from rlhf_audit_producers.spool_lock import is_drained_by_somebody
    from rlhf_audit_producers.spool_state import spool_states
    from rlhf_audit_stores.disk import RealDisk

    spool = args.directory / "spool"
    states = list(spool_states(RealDisk(), spool))
    refused = spool / REFUSED_FOLDER
    aside = len(list(refused.iterdir())) if refused.is_dir() else 0
    is_drained = is_drained_by_somebody(spool)
    if args.json:
        print(
            json.dumps({"shipping": is_drained, "refused": aside, "spools": [asdict(one) for one in states]}, indent=2)
        )
        return 0
    print(f"shipping  {'a process is at work' if is_drained else 'nobody at the moment'}")
    records, size = sum(one.records for one in states), sum(one.bytes_left for one in states)
    on_disk = sum(one.bytes_on_disk for one in states)
    print(f"waiting   {records:,} records, {size:,} bytes not acknowledged; {on_disk:,} bytes on disk")
    if aside:
        print(f"refused   {aside} batches are kept in {refused}: larger than the brokers take")
    for one in states:
        state = "records" if one.is_alive else "done" if one.is_done else "gone"
        print(f"  {one.producer} epoch {one.epoch}  {state:<8} shipped {one.shipped:,}  waiting {one.records:,}")
    return 0


def _adopt(args: argparse.Namespace) -> int:
    from rlhf_audit_producers.spool_lock import is_drained_by_somebody
    from rlhf_audit_producers.spool_state import ledgers, spool_states
    from rlhf_audit_stores.disk import RealDisk
    from rlhf_audit_trail.commands.ship import ship
    from rlhf_audit_trail.ledger_facts import known_facts
    from rlhf_audit_trail.shipping import ShipPlan

    mine: Path = args.directory if args.trail is None else args.trail
    settings = settings_of(args, mine)
    disk, spool = RealDisk(), args.directory / "spool"
    living = sorted({one.producer for one in spool_states(disk, spool) if one.is_alive})
    if living:
        raise ConfigError(
            f"{args.directory}: {', '.join(living[:5])} still record here: adopt is for what a dead node left; "
            "`rlhf-audit ship` ships beside those who record"
        )
    if is_drained_by_somebody(spool):
        raise ConfigError(f"{args.directory}: a process ships or seals here already")
    ours = known_facts(mine).ledger_id
    strange = {ledger: producer for ledger, producer in ledgers(disk, spool).items() if ledger != ours}
    if strange:
        ledger, producer = next(iter(strange.items()))
        raise ConfigError(
            f"{args.directory}: {producer} recorded for ledger {ledger.hex()}, {mine} is {ours.hex()}: name the trail "
            "of that ledger with --trail"
        )
    return ship(args.directory, settings, mine, ShipPlan(until_idle=True, drain_s=args.drain_seconds))
