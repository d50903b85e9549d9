"""``rlhf-audit ship``: what the training processes of this node record, to Kafka.

One per directory. Training processes start it by themselves where brokers are
named. Status: 0 everything is acknowledged, 3 something is left (it is named).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, KAFKA_KEYS, add_setting_flags, settings_of

if TYPE_CHECKING:
    from rlhf_audit_producers.shipper import Left
    from rlhf_audit_trail.settings import Settings
    from rlhf_audit_trail.shipping import ShipPlan

HELP = "send what the training processes of this node record to Kafka"
EXAMPLES = """\
rlhf-audit ship my-trail --brokers k1:9092,k2:9092   until Ctrl-C; then what is there, within 30 s
rlhf-audit ship my-trail --until-idle                until the last training process has gone (trainings start this)
rlhf-audit ship my-trail --drain                     what is there, then end: for a batch scheduler's epilog
rlhf-audit ship my-trail --drain --drain-seconds 120
"""
SETTINGS = (
    *KAFKA_KEYS,
    "schema_registry_url",
    "metrics_host",
    "metrics_port",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--until-idle", action="store_true", help="end when nobody records any more")
    group.add_argument("--drain", action="store_true", help="ship what is there and end: 0 all, 3 something is left")
    add_drain_seconds(parser)
    add_setting_flags(parser, *SETTINGS)


def add_drain_seconds(parser: argparse.ArgumentParser) -> None:
    """How long a shipper that is told to stop goes on."""
    parser.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="at most so long after SIGTERM, or with --drain (default 30)",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise ValueError
    return value


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.shipping import ShipPlan

    settings = settings_of(args, args.directory)
    plan = ShipPlan(until_idle=args.until_idle, drain=args.drain, drain_s=args.drain_seconds)
    return ship(args.directory, settings, args.directory, plan, may_leave_it_to_others=args.until_idle)


def ship(
    directory: Path, settings: Settings, ledger: Path, plan: ShipPlan, *, may_leave_it_to_others: bool = False
) -> int:
    """Ship the spools of ``directory``; the ledger is described in the trail ``ledger``.

    Where another process is at work already, that is fine only for those that are started just in case.
    """
    from rlhf_audit_producers.spool_state import spool_bytes
    from rlhf_audit_stores.disk import RealDisk
    from rlhf_audit_stores.health import WorkerHealth
    from rlhf_audit_trail.ledger_facts import known_facts
    from rlhf_audit_trail.progress import is_shown
    from rlhf_audit_trail.ship_report import ShipReport
    from rlhf_audit_trail.shipping import open_shipper, run_shipper

    settings.need_kafka()
    facts = known_facts(ledger)
    signals: list[int] = []

    def note(number: int, frame: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)
        _say(f"told to stop: shipping what is there, at most {plan.drain_s:.0f} s")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    with ExitStack() as stack:
        health = WorkerHealth("ship")
        if not plan.drain:  # whoever has the port may still be at work
            try:
                stack.enter_context(health.serve(settings.metrics_port, settings.metrics_host))
            except ConfigError as error:
                _say(f"going on without metrics: {error}")  # events that wait are worse than a shipper nobody watches
        report = ShipReport(
            _say,
            time.monotonic,
            health=health,
            measure=lambda: spool_bytes(RealDisk(), directory / "spool"),
            is_shown=is_shown(settings.progress),
        )
        result = run_shipper(
            directory,
            lambda: open_shipper(directory, facts, settings, report),
            plan,
            report,
            should_stop=lambda: bool(signals),
        )
    if not result.has_run and not plan.drain:
        _say(f"another process ships or seals what is in {directory}: nothing to do")
        return 0 if may_leave_it_to_others else 3
    if result.left:
        tell_left(result.left, report.explanation)
        return 3
    print(f"shipped {report.records:,} records, nothing is left")
    return 0


def tell_left(left: tuple[Left, ...], explanation: str) -> None:
    """Name what is not acknowledged; it stays in the spool."""
    for one in left[:20]:
        count = f"{one.records:,} records" if one.is_read_to_its_end else f"{one.records:,} records and more"
        print(f"left: {one.producer} epoch {one.epoch}: {count if one.records else 'its end'}")
    if len(left) > 20:
        print(f"left: {len(left) - 20} spools more")
    _say(
        "not everything is acknowledged; it stays in the spool: run `rlhf-audit ship` again, or on another node "
        "`rlhf-audit spool adopt`" + (f" ({explanation})" if explanation else "")
    )


def _say(text: str) -> None:
    print(f"rlhf-audit ship: {text}", file=sys.stderr, flush=True)
