"""Which queries are answered: those that read tables of the copy, and nothing else.

``readonly = 1`` alone is not enough in the embedded engine: it still writes
``INTO OUTFILE``, reads any file through the function ``file``, connects to
servers under ``DESCRIBE``, kills queries and stops merges (measured). So the
engine's own parser rewrites each query in its normal form first, and the normal
form is judged here:

1. one of the statements that read (a list of what is allowed);
2. no output file, no parallel statement;
3. no table function but those that make rows out of nothing (a list of what is
   allowed; what else is one, the engine says);
4. no ordinary function that reaches out, called, applied or handed to another
   function (a list of what is refused: there are 1,700 others);
5. no table of the database ``default``: the engine looks its names up as paths.

Text in, nothing out: no connection is known here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from rlhf_audit_schemas.errors import AuditTrailError

ACCESS_DENIED = 497  # ClickHouse's number for it

_LITERALS = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_READS = re.compile(
    r"""
    [(\s]* (?:SELECT|WITH)\b
    | SHOW\s (?:EXTENDED\s|FULL\s|TEMPORARY\s|CHANGED\s)*
        (?:TABLES|DATABASES|COLUMNS|INDEXES|FUNCTIONS|ENGINES|SETTINGS|CREATE\s(?:TABLE|VIEW|DATABASE))\b
    | DESCRIBE\sTABLE\s [(\s]* (?:SELECT|WITH)\b
    | DESCRIBE\sTABLE\s [^\s(]+ (?=\s+[^\s(]|$)
    | EXISTS\s (?:TEMPORARY\s)? (?:TABLE|VIEW|DATABASE)\b
    | EXPLAIN\s (?:(?:AST|SYNTAX|QUERY\sTREE|PLAN|PIPELINE|ESTIMATE)\s)? (?:\w+\s=\s\w+,?\s)* [(\s]* (?:SELECT|WITH)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WRITES = re.compile(r"\b(INTO\s+OUTFILE|PARALLEL\s+WITH|FROM\s+INFILE|TABLE\s+OVERRIDE)\b", re.IGNORECASE)
_FILES_AS_TABLES = re.compile(r"(?<![\w.])default\s*\.", re.IGNORECASE)
_NAMES = re.compile(
    r"'(?:[^'\\]|\\.)*'|(?P<quoted>`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\")|(?P<bare>[A-Za-z_]\w*)", re.DOTALL
)

_CALL = re.compile(r"\s*\(")

# They compute rows from their arguments, or read tables that a query could name itself. ``format`` is an ordinary
# function, too; the table function of that name is refused by ``readonly``.
_HARMLESS = re.compile(
    r"format|generate_?series|generaterandom|merge|null|numbers(?:_mt)?|primes|(?:sqlstandard)?values|view|zeros(?:_mt)?",
    re.IGNORECASE,
)
# What the engine of version 26.9 knows beside them, in case that it does not tell.
_TABLE_FUNCTIONS = re.compile(
    r"arrowstream|azureblobstorage(?:cluster)?|bigquery|cluster|clusterallreplicas|cosn|deltalake\w*|dictionary|eval"
    r"|executable|file|filecluster|filesystem|fuzzjson|fuzzquery|gcs|hdfs\w*|hudi\w*|iceberg(?:azure|hdfs|local|s3)?"
    r"(?:cluster)?|input|jdbc|loop|mergetree(?:analyzeindexes|codecblockcounts|index|projection|textindex)\w*|mongodb"
    r"|mysql|odbc|oss|paimon\w*|postgresql|prometheusquery\w*|python|redis|remote|remotesecure|s3|s3cluster|sqlite"
    r"|timeseries(?:data|metricfamilies|metrics|samples|selector|tags)|url|urlcluster|viewexplain|viewifpermitted"
    r"|ytsaurus",
    re.IGNORECASE,
)
_REACHES_OUT = re.compile(
    r"[Ff][Ii][Ll][Ee]|ai[A-Z]\w*|AI[A-Z]\w*|catboostEvaluate|dict(?:Get|Has|Is)\w*|joinGet\w*|naiveBayes\w*"
    r"|hasColumnInTable|showCertificate|addressTo(?:Line|Symbol)\w*"
)


class QueryRefusedError(AuditTrailError):
    """A query that does more than read tables. ``code`` is the one ClickHouse gives for missing rights."""

    code = ACCESS_DENIED


def check_normal_form(query: str, *, known: Collection[str] = ()) -> None:
    """Raises QueryRefusedError unless a query, in the parser's normal form, only reads tables.

    ``known`` are names of the engine's table functions and of functions that somebody added to it, in lower case.
    """
    bare = _LITERALS.sub("x", query).strip()
    if not _READS.match(bare):
        raise QueryRefusedError(
            "only queries that read are answered: SELECT, SHOW TABLES or COLUMNS, DESCRIBE of a table, EXISTS, "
            "EXPLAIN SELECT"
        )
    if _WRITES.search(bare):
        raise QueryRefusedError("a query may not write files or run other statements beside itself")
    if _FILES_AS_TABLES.search(bare):
        raise QueryRefusedError("the database default holds no tables: its names would be paths of files")
    for name, is_called, is_alone in _names(query):
        if (is_called and _is_table_function(name, known)) or ((is_called or is_alone) and _reaches_out(name)):
            raise QueryRefusedError(f"the function {name[:40]} reaches out of the tables: not answered here")


def check_parameters(query: str, values: Iterable[str]) -> None:
    """Raises QueryRefusedError if a value that is put in place of a name leads into the database ``default``."""
    if re.search(r":\s*Identifier\s*\}", query, re.IGNORECASE):
        for value in values:
            if value.strip('`" \t\r\n').lower().startswith("default"):
                raise QueryRefusedError("the database default holds no tables: its names would be paths of files")


def _names(query: str) -> Iterator[tuple[str, bool, bool]]:
    """Every name of a query, whether it is called, and whether it stands alone (no ``t.name``, no ``AS name``)."""
    before, end = "", 0
    for found in _NAMES.finditer(query):
        name = found["bare"] or (found["quoted"] or "")[1:-1]
        if name:
            is_part = query[end : found.start()].rstrip()[-1:] == "." or before.upper() == "AS"
            yield name, _CALL.match(query, found.end()) is not None, not is_part
        before, end = found["bare"] or "", found.end()


def _is_table_function(name: str, known: Collection[str]) -> bool:
    if _TABLE_FUNCTIONS.fullmatch(name):
        return True
    return name.lower() in known and _HARMLESS.fullmatch(name) is None


def _reaches_out(name: str) -> bool:
    return _REACHES_OUT.fullmatch(name) is not None
