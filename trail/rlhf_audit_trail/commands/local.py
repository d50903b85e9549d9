"""``rlhf-audit local``: the one-process runtime, in the foreground or started by a training.

Seals and stores what training processes record into the trail's spools. One per
directory; killed and started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

if TYPE_CHECKING:
    from rlhf_audit_trail.window_sinks import WindowSink

HELP = "seal and store what training processes record, until told to stop"
EXAMPLES = """\
rlhf-audit local my-trail                  until Ctrl-C; what was recorded is sealed then
rlhf-audit local my-trail --until-idle     until the last training process has gone (trainings start this by themselves)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)"
    )
    parser.add_argument("--until-idle", action="store_true", help="end when nobody records any more")
    add_setting_flags(parser, "log_name", "window_seconds", "partitions", "clickhouse", "query_port")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_trail.local import LocalTrail
    from rlhf_audit_trail.query_copy_feed import query_copy_sinks
    from rlhf_audit_trail.runtime import run_runtime

    settings = settings_of(args, args.directory)
    if settings.kafka is not None:
        raise ConfigError(
            f"{args.directory}: what is recorded here goes to Kafka (brokers: {settings.origins['brokers']}), and "
            "sealing it here as well would be a second ledger: run `rlhf-audit ship`, `seal`, `sink objects` and "
            "`sequence`; a ledger begun on this machine goes on there by `rlhf-audit topics apply --continue`"
        )
    signals: list[int] = []

    def note(number: int, frame: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)

    made: list[list[WindowSink]] = []

    def open_trail() -> LocalTrail:
        if not made:  # only now: a runtime that finds another one at work has nothing to feed
            made.append(stack.enter_context(query_copy_sinks(args.directory, settings, say=_say)))
        return LocalTrail(
            args.directory,
            log_name=settings.log_name,
            window_seconds=settings.window_seconds,
            partitions=settings.partitions,
            vault_dir=settings.vault_dir,
            sinks=made[0],
        )

    with ExitStack() as stack:
        ran = run_runtime(args.directory, open_trail, until_idle=args.until_idle, should_stop=lambda: bool(signals))
    if not ran:
        _say(f"another runtime holds {args.directory}: nothing to do")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)
