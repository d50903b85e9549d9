"""Which queries, in the parser's normal form, are answered."""

from __future__ import annotations

import pytest

from rlhf_audit_trail.query_rules import QueryRefusedError, check_normal_form


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "WITH 1 AS x SELECT x FORMAT JSON",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SHOW TABLES FROM audit",
        "DESCRIBE TABLE audit.windows",
        "EXPLAIN SYNTAX SELECT 1",
        "EXISTS TABLE audit.windows",
        "SELECT 'INTO OUTFILE', 'file(1)', `file(`, 'it\\'s PARALLEL WITH' FROM t",
        "SELECT input_line, profile(1), audit.file FROM t",
    ],
)
def test_a_query_that_reads_is_answered(query: str) -> None:
    check_normal_form(query)


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO t FORMAT Values",
        "DROP TABLE t",
        "SYSTEM STOP MERGES",
        "KILL QUERY WHERE 1",
        "SET readonly = 0",
        "EXECUTE AS x SELECT 1",
        "BACKUP DATABASE audit TO File('x')",
        "SELECT 1 INTO OUTFILE '/x'",
        "SELECT 1 INTO OUTFILE '/x' TRUNCATE FORMAT CSV",
        "SELECT 1 PARALLEL WITH SYSTEM STOP MERGES",
        "SELECT file('/etc/passwd')",
        "SELECT 'a\\'' , file('/etc/passwd'), ''",
        "SELECT FILE ('/etc/passwd')",
        "SELECT * FROM url('http://x', 'CSV')",
        "SELECT * FROM python(secrets)",
        "SELECT aiGenerate('x')",
        "EXPLAIN SELECT file('/etc/passwd')",
        "",
    ],
)
def test_a_query_that_does_more_is_refused(query: str) -> None:
    with pytest.raises(QueryRefusedError):
        check_normal_form(query)
