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
    from collections.abc import Callable

    from rlhf_audit_stores.disk import Disk
    from rlhf_audit_trail.settings import Settings
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
    add_setting_flags(parser, "log_name", "window_seconds", "clickhouse", "query_port")


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args, args.directory)
    signals: list[int] = []

    def note(number: int, frame: Any) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    if not serve(args.directory, settings, until_idle=args.until_idle, should_stop=lambda: bool(signals)):
        _say(f"another runtime holds {args.directory}: nothing to do")
    return 0


def serve(
    directory: Path,
    settings: Settings,
    *,
    until_idle: bool,
    should_stop: Callable[[], bool] = lambda: False,
    disk: Disk | None = None,
) -> bool:
    """The runtime with the query copy that the settings ask for. Returns False if another runtime holds the trail."""
    from rlhf_audit_trail.local import LocalTrail
    from rlhf_audit_trail.query_copy_feed import query_copy_sinks
    from rlhf_audit_trail.runtime import run_runtime

    made: list[list[WindowSink]] = []

    def open_trail() -> LocalTrail:
        if not made:  # only now: a runtime that finds another one at work has nothing to feed
            made.append(stack.enter_context(query_copy_sinks(directory, settings, say=_say)))
        return LocalTrail(
            directory,
            log_name=settings.log_name,
            window_seconds=settings.window_seconds,
            vault_dir=settings.vault_dir,
            disk=disk,
            sinks=made[0],
        )

    with ExitStack() as stack:
        return run_runtime(directory, open_trail, until_idle=until_idle, should_stop=should_stop)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
