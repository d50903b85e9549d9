"""``rlhf-audit report``: a run on one page, as one HTML file that needs nothing else.

The trail is verified first; what that gave stands on the page and is the exit status. Numbers come from the query copy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

HELP = "show a run on one HTML page: curves, gradients, feedback, integrity"
EXAMPLES = """\
rlhf-audit report ./my-trail                      the only run, or feedback alone
rlhf-audit report ./my-trail 3f8a                 the run whose id begins so
rlhf-audit report ./my-trail --key kept.vkey --out page.html

the page is one file: no server, no network; texts of prompts and responses are never on it
exit status is that of the check, as for verify
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("run_id", nargs="?", metavar="RUN", help="run, or the beginning of its id; default: the only one")
    add("--out", type=Path, metavar="FILE", help="file to write (default DIR/report-RUN.html)")
    add("--key", type=Path, metavar="VKEY-FILE", help="public key from elsewhere; default: the trail's own word")
    add("--expect", type=Path, metavar="CHECKPOINT", help="global checkpoint known before, which must be extended")
    add("--log-only", action="store_true", help="leave payloads out of the check")
    add("--no-memory", action="store_true", help="neither read nor write the remembered checkpoint")
    add_setting_flags(parser, "progress")
    parser.set_defaults(vault=None, vault_key=None, require="", jobs=None)


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_auditor.report_page import Checked, render, runs_of
    from rlhf_audit_trail.commands.verify import check
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.query_ask import asker_of
    from rlhf_audit_trail.query_engine import Limits
    from rlhf_audit_trail.report_making import chosen_run, file_name, make_page, query_of, write_page

    trail = StoredTrail.of(args.directory, settings_of(args, args.directory))
    with asker_of(trail, say=_say, limits=Limits(max_threads=2)) as asker:
        run_id = chosen_run(runs_of(query_of(asker)), args.run_id)  # before the check, which may take a while
    report = check(args, trail.settings)
    checked = Checked(report, _now_us())
    with asker_of(trail, say=_say, limits=Limits(max_threads=2)) as asker:
        page = render(make_page(query_of(asker), run_id, checked))
    out = args.out or args.directory / file_name(run_id)
    write_page(out, page)
    print(out)
    level = f" ({report.level})" if not report.exit_code else ""
    _say(f"{report.status}{level}; {len(page) / 1000:,.0f} kB, opens in any browser")
    return report.exit_code


def _now_us() -> int:
    import time

    return time.time_ns() // 1000


def _say(text: str) -> None:
    print(text, file=sys.stderr)
