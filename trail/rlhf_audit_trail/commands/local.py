"""``rlhf-audit local``: the one-process runtime, in the foreground or started by a training.

Seals and stores what training processes record into the trail's spools. One per
directory; killed and started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_trail.counting import counted
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlhf_audit_stores.disk import Disk
    from rlhf_audit_trail.local import LocalTrail
    from rlhf_audit_trail.settings import Settings
    from rlhf_audit_trail.window_sinks import WindowSink

HELP = "seal and store what training processes record, until told to stop"
EXAMPLES = """\
rlhf-audit local my-trail                  until Ctrl-C; what was recorded is sealed then
rlhf-audit local my-trail --until-idle     until the last training process has gone (trainings start this by themselves)
"""
_LOOK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)"
    )
    parser.add_argument("--until-idle", action="store_true", help="end when nobody records any more")
    add_setting_flags(parser, "log_name", "window_seconds", "partitions", "clickhouse", "query_port")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_schemas.errors import ConfigError

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
    how = "ends when nobody records any more" if args.until_idle else "Ctrl-C ends it and seals what is left"
    _say(f"sealing what is recorded in {args.directory}; {how}")
    told = _Told(args.directory, is_asked=settings.clickhouse != "off")

    def should_stop() -> bool:
        told.look()
        return bool(signals)

    stored: list[int] = []
    if serve(args.directory, settings, until_idle=args.until_idle, should_stop=should_stop, stored=stored):
        _say(f"{counted(sum(stored), 'window')} sealed and stored; check it: rlhf-audit verify {args.directory}")
    else:
        _say(f"another runtime holds {args.directory}: nothing to do")
    return 0


class _Told:
    """Says once where the query copy answers: it opens its port while sealing goes on."""

    def __init__(self, directory: Path, *, is_asked: bool) -> None:
        self._directory, self._is_over = directory, not is_asked
        self._look_at = 0.0

    def look(self) -> None:
        """Called at every turn; looks now and then."""
        from rlhf_audit_schemas.errors import FormatError
        from rlhf_audit_sinks.clickhouse.engine import FOLDER, is_open_somewhere
        from rlhf_audit_trail.query_server import PASSWORD_FILE, USER, read_address

        now = time.monotonic()
        if self._is_over or now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        folder = self._directory / FOLDER
        try:
            address = read_address(folder) if is_open_somewhere(self._directory) else None
        except (FormatError, OSError):  # just being written: the next look
            return
        if address is not None:
            self._is_over = True
            where = f"http://{address.host}:{address.port}"
            _say(f"ClickHouse answers on {where}, user {USER}, password in {folder / PASSWORD_FILE}")


def serve(
    directory: Path,
    settings: Settings,
    *,
    until_idle: bool,
    should_stop: Callable[[], bool] = lambda: False,
    disk: Disk | None = None,
    stored: list[int] | None = None,
) -> bool:
    """The runtime with the query copy that the settings ask for. Returns False if another runtime holds the trail.

    ``stored`` gets the windows stored each time that the trail was open.
    """
    from rlhf_audit_trail.local import open_local
    from rlhf_audit_trail.query_copy_feed import query_copy_sinks
    from rlhf_audit_trail.runtime import run_runtime

    made: list[list[WindowSink]] = []
    opened: list[LocalTrail] = []

    def open_trail() -> LocalTrail:
        if not made:  # only now: a runtime that finds another one at work has nothing to feed
            made.append(stack.enter_context(query_copy_sinks(directory, settings, say=_say)))
        trail = open_local(directory, settings, disk=disk, sinks=made[0])
        opened.append(trail)
        return trail

    with ExitStack() as stack:
        is_served = run_runtime(directory, open_trail, until_idle=until_idle, should_stop=should_stop)
    if stored is not None:
        stored += [each.windows_stored for each in opened]
    return is_served


def _say(text: str) -> None:
    print(text, file=sys.stderr)
