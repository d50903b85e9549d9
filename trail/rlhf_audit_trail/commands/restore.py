"""``rlhf-audit restore``: build the query copy anew from the evidence and its vault.

The same code feeds the live copy. Nothing is lost when the old copy goes: it
held nothing that ``objects/`` and ``vault/`` do not hold. What the evidence lacks
or contradicts is said as ``verify`` says it; the other partitions are restored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rlhf_audit_trail.counting import counted
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

HELP = "build the ClickHouse copy anew from objects/ and vault/"
EXAMPLES = """\
rlhf-audit restore my-trail            throws the old copy away and fills a new one
rlhf-audit restore my-trail --keep     only adds what is missing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--keep", action="store_true", help="keep what is there and add what is missing")
    add("--json", action="store_true", help="for machines")
    add_setting_flags(parser, "progress")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.progress import track
    from rlhf_audit_trail.query_copy import BROKEN, Evidence, catch_up, start_over

    settings = settings_of(args, args.directory)
    evidence = Evidence.of(StoredTrail.of(args.directory, settings))  # before anything is thrown away
    started = time.monotonic()
    windows, failure = 0, None
    engine = EmbeddedEngine(args.directory)
    try:
        if not args.keep:
            start_over(engine)
        client = engine.client()
        try:
            sink = ClickHouseSink(client)
            with track(None, "restore", "events", mode=settings.progress) as meter:
                try:
                    while found := catch_up(sink, evidence, on_window=meter.advance):
                        windows += found
                except BROKEN as error:
                    failure = error
            rows = sink.rows_stored
        finally:
            client.close()
    finally:
        engine.close()
    seconds = time.monotonic() - started
    if args.json:
        complete = {"is_complete": failure is None, "reason": None if failure is None else str(failure)}
        print(json.dumps({"windows": windows, "rows": rows, "seconds": round(seconds, 3), **complete}))
    else:
        print(f"{counted(windows, 'window')}, {counted(rows, 'row')} in {seconds:.1f} s")
        print(f"ask it: rlhf-audit sql {args.directory} 'SHOW TABLES'")
    if failure is not None:
        print("not all was restored: a partition ends before the first window that cannot be read", file=sys.stderr)
        raise failure
    return 0
