"""``rlhf-audit sql``: ask a trail in SQL, while it is written to or afterwards.

Read-only and limited: a query can neither change the copy nor take it down.
The copy proves nothing; ``verify`` does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, settings_of

if TYPE_CHECKING:
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.query_ask import Asker

HELP = "ask a trail in SQL (ClickHouse), while a run still trains or afterwards"
EXAMPLES = """\
rlhf-audit sql my-trail 'SELECT annotator, count() FROM annotation GROUP BY annotator ORDER BY 2 DESC'
rlhf-audit sql my-trail 'SELECT step, loss, reward_margin FROM policy_update ORDER BY step' --format CSVWithNames
rlhf-audit sql my-trail 'SHOW TABLES' --json
rlhf-audit sql my-trail - < query.sql

databases: audit_restricted (one table per kind of event, and findings; used where none is named),
  audit (windows, messages: the public record)
every event table has stream, partition, window, leaf_index, leaf_hash, producer, epoch, seq and the event's body
"""
_BAD_QUERY = frozenset({36, 42, 43, 46, 47, 48, 53, 60, 62, 70, 73, 81, 164, 179, 206, 386, 395, 497})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("query", metavar="QUERY", help="one query; - reads it from stdin")
    add("--json", action="store_true", help="an array of objects")
    add("--format", metavar="NAME", help="a format of ClickHouse: CSV, CSVWithNames, TSV, JSONEachRow, Parquet, ...")
    add("--max-seconds", type=int, default=30, metavar="N", help="time a query may take (default %(default)s)")
    add("--full", action="store_true", help="cut no cell of the table")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.query_ask import ask_rows, asker_of, table_lines
    from rlhf_audit_trail.query_engine import Answer, Limits, QueryError, QueryRefusedError

    if args.json and args.format:
        raise ConfigError("--json and --format are two answers to one question: give one of them")
    if not 1 <= args.max_seconds <= 3600:
        raise ConfigError(f"--max-seconds is from 1 to 3600, found {args.max_seconds}")
    query = sys.stdin.read() if args.query == "-" else args.query
    if not query.strip():
        raise ConfigError("the query is empty")
    settings = settings_of(args, args.directory)
    limits = Limits(max_threads=2, max_execution_time_s=args.max_seconds)
    trail = StoredTrail.of(args.directory, settings)
    with asker_of(trail, say=_say, limits=limits) as asker:
        _tell_lag(trail, asker)
        try:
            found = asker.ask(query, args.format) if args.format else ask_rows(asker, query)
        except QueryRefusedError as error:
            raise ConfigError(str(error)) from error
        except QueryError as error:
            if error.code in _BAD_QUERY:
                raise ConfigError(str(error)) from error
            raise
    if isinstance(found, Answer):
        sys.stdout.flush()
        sys.stdout.buffer.write(found.body)
        sys.stdout.buffer.flush()
    elif args.json:
        print(json.dumps(found.dicts(), indent=2, ensure_ascii=False))
    else:
        width = None if args.full or not sys.stdout.isatty() else 48
        for line in table_lines(found, width=width):
            print(line)
        print(f"{len(found.rows):,} row{'' if len(found.rows) == 1 else 's'}", file=sys.stderr)
    return 0


def _tell_lag(trail: StoredTrail, asker: Asker) -> None:
    """A copy that still catches up answers for a part of the trail: who asked has to know."""
    from rlhf_audit_schemas.errors import AuditTrailError
    from rlhf_audit_trail.counting import counted
    from rlhf_audit_trail.trail_state import missing_windows

    try:
        behind = sum(missing_windows(trail, asker).values())
    except (AuditTrailError, OSError):  # only an aside
        return
    if behind:
        _say(f"not all is in this answer: the query copy is {counted(behind, 'window')} behind the evidence")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
