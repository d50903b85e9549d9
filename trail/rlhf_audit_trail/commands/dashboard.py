"""``rlhf-audit dashboard``: the report page on a loopback port, refreshed while a run goes on.

Read-only. Nothing is asked while nobody looks; the trail is verified again now
and then, and never for more than about a tenth of the time.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, settings_of

if TYPE_CHECKING:
    from rlhf_audit_auditor.report_page import Checked, Page
    from rlhf_audit_trail.places import StoredTrail

HELP = "serve the report page on this machine and refresh it while a run goes on"
EXAMPLES = """\
rlhf-audit dashboard ./my-trail                   the newest run; prints the address to open; Ctrl-C ends it
rlhf-audit dashboard ./my-trail 3f8a --port 8090
"""
REFRESH_MS = 3000
_LOOKED_AT_S = 20.0  # nobody asked for so long: nobody looks
_CHECK_EVERY_S, _CHECK_SHARE = 30.0, 10  # verify this often, and after ten times as long as it took
_PAUSE_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("run_id", nargs="?", metavar="RUN", help="run, or the beginning of its id; default: the newest")
    add("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1; 0 takes a free one (default %(default)s)")
    add("--no-verify", action="store_true", help="do not verify the trail; the page says so")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_auditor.report_page import render
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_trail.dashboard_server import DashboardServer
    from rlhf_audit_trail.places import StoredTrail

    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port is from 0 to 65535, found {args.port}")
    trail = StoredTrail.of(args.directory, settings_of(args, args.directory))
    source = Source(trail, args.run_id, is_checked=not args.no_verify)
    first = source.page()
    try:
        server = DashboardServer(args.port)
    except OSError as error:
        raise ConfigError(f"port {args.port}: {error.strerror}") from error
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        server.publish(render(first, refresh_ms=REFRESH_MS), first.as_json())
        print(server.url, flush=True)
        print("Ctrl-C ends it", file=sys.stderr)
        due = time.monotonic() + REFRESH_MS / 1000
        while True:
            time.sleep(_PAUSE_S)
            now = time.monotonic()
            if now >= due and now - server.asked_at < _LOOKED_AT_S and source.has_news():
                page = source.page_or_none()
                if page is not None:
                    server.publish(render(page, refresh_ms=REFRESH_MS), page.as_json())
                due = time.monotonic() + REFRESH_MS / 1000
    except KeyboardInterrupt:
        return 0
    finally:
        server.close()


class Source:
    """Makes the page anew. Holds no connection between two pages: the runtime may want the engine meanwhile."""

    def __init__(self, trail: StoredTrail, wanted: str | None, *, is_checked: bool) -> None:
        self._trail, self._wanted, self._is_checked = trail, wanted, is_checked
        self._checked: Checked | None = None
        self._check_at = 0.0
        self._seen: tuple[bytes, bool] | None = None

    def has_news(self) -> bool:
        """Whether a page made now could differ from the last one."""
        from rlhf_audit_trail.query_ask import live_asker

        live = live_asker(self._trail.directory)
        if live is not None:
            live.close()
        state = (self._checkpoint(), live is not None)
        is_same = state == self._seen and not state[1]
        self._seen = state
        return not is_same

    def page(self) -> Page:
        """The page as of now. Raises what asking the query copy raises."""
        from rlhf_audit_auditor.report_page import runs_of
        from rlhf_audit_trail.query_ask import asker_of
        from rlhf_audit_trail.query_engine import Limits
        from rlhf_audit_trail.report_making import chosen_run, make_page, query_of

        checked = self._check()
        limits = Limits(max_threads=1)
        with asker_of(self._trail, limits=limits) as asker:
            query = query_of(asker)
            runs = runs_of(query)
            run_id = chosen_run(runs if self._wanted is not None else runs[-1:], self._wanted)
            return make_page(query, run_id, checked)

    def page_or_none(self) -> Page | None:
        """The page as of now; None, and a line about it, if it cannot be made at this moment."""
        from rlhf_audit_schemas.errors import AuditTrailError

        try:
            return self.page()
        except (AuditTrailError, OSError) as error:
            print(f"not refreshed: {error}", file=sys.stderr)
            return None

    def _check(self) -> Checked:
        from rlhf_audit_auditor.report_page import Checked
        from rlhf_audit_auditor.verify import Options, verify
        from rlhf_audit_schemas.errors import AuditTrailError
        from rlhf_audit_trail.places import evidence_of

        now_us = time.time_ns() // 1000
        if not self._is_checked:
            return Checked(None, now_us)
        if self._checked is not None and time.monotonic() < self._check_at:
            return self._checked
        began = time.monotonic()
        try:
            report = verify(evidence_of(self._trail.directory, self._trail.settings), Options(jobs=1, now_us=now_us))
            self._checked = Checked(report, now_us)
        except (AuditTrailError, OSError) as error:
            self._checked = Checked(None, now_us, f"it could not be ({error})")
        ended = time.monotonic()
        self._check_at = ended + max(_CHECK_EVERY_S, _CHECK_SHARE * (ended - began))
        return self._checked

    def _checkpoint(self) -> bytes:
        from rlhf_audit_schemas.errors import AuditTrailError

        try:
            return self._trail.objects.get(GLOBAL_CHECKPOINT)
        except (AuditTrailError, OSError):
            return b""


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
