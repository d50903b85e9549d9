"""Which queries are answered: those that read tables, and nothing else.

``readonly = 1`` alone is not enough in the embedded engine: it still writes
``INTO OUTFILE``, reads any file through the function ``file``, kills queries
and stops merges (measured). So the engine's own parser rewrites each query in
its normal form first, and the normal form is judged here:

1. one statement, and one that reads;
2. no output file, no parallel statement;
3. no function that reaches out of the tables.

Text in, nothing out: no connection is known here.
"""

from __future__ import annotations

import re

from rlhf_audit_schemas.errors import AuditTrailError

ACCESS_DENIED = 497  # ClickHouse's number for it

_READS = re.compile(r"(SELECT|WITH|SHOW|DESCRIBE|EXISTS|EXPLAIN)\b", re.IGNORECASE)
_LITERALS = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_WRITES = re.compile(r"\b(INTO\s+OUTFILE|PARALLEL\s+WITH|FROM\s+INFILE)\b", re.IGNORECASE)
_REACHES_OUT = re.compile(
    r"(?<![\w.])(file|python|url|urlCluster|s3|remote|remoteSecure|executable|input|ai[A-Z]\w*)\s*\(", re.IGNORECASE
)


class QueryRefusedError(AuditTrailError):
    """A query that does more than read tables. ``code`` is the one ClickHouse gives for missing rights."""

    code = ACCESS_DENIED


def check_normal_form(query: str) -> None:
    """Raises QueryRefusedError unless a query, in the parser's normal form, only reads tables."""
    bare = _LITERALS.sub("x", query)
    if not _READS.match(bare.lstrip("( \n")):
        raise QueryRefusedError("only queries that read are answered: SELECT, SHOW, DESCRIBE, EXISTS, EXPLAIN")
    if _WRITES.search(bare):
        raise QueryRefusedError("a query may not write files or run other statements beside itself")
    found = _REACHES_OUT.search(bare)
    if found:
        raise QueryRefusedError(f"the function {found[1]} reaches out of the tables: not answered here")
