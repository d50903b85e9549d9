"""Which queries, in the parser's normal form, are answered."""

from __future__ import annotations

import pytest

from rlhf_audit_trail.query_rules import QueryRefusedError, check_normal_form, check_parameters


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
        "SELECT name AS file, format('{}', x), URLHash(u) FROM values('u String', 'x') AS v",
        "SELECT count() FROM numbers(10)",
        "SELECT * FROM view(SELECT 1)",
        "SELECT * FROM t WHERE url = 'x' AND s3 IN (1, 2)",
        "DESCRIBE TABLE (SELECT 1)",
        "DESCRIBE TABLE LIMIT",
        "DESCRIBE TABLE `my table`",
        "DESCRIBE TABLE audit.windows FORMAT CSV",
        "DESCRIBE TABLE windows SETTINGS describe_compact_output = 1",
        "SHOW CREATE TABLE audit.windows",
        "SHOW COLUMNS FROM windows FROM audit LIKE 'a%'",
        "SHOW DATABASES",
        "EXPLAIN actions = 1 SELECT 1",
        "EXPLAIN QUERY TREE run_passes = 0, dump_ast = 1 SELECT 1",
        "EXPLAIN PIPELINE SELECT 1",
        "EXISTS DATABASE audit",
        "SELECT default FROM t",
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
        "DESCRIBE TABLE gcs('http://x/b/k')",
        "DESCRIBE TABLE sqlite('/x.db', 't')",
        "DESCRIBE TABLE mysql('x:1', 'd', 't', 'u', 'p')",
        "DESCRIBE TABLE url ('http://x')",
        "DESCRIBE TABLE `url`('http://x')",
        "DESCRIBE TABLE values('a String', 'x')",
        "DESCRIBE TABLE laterInvented('http://x')",
        "DESCRIBE FILESYSTEM CACHE 'x'",
        "EXPLAIN TABLE OVERRIDE mysql('a', 'b', 'c', 'd', 'e') COLUMNS (`x` UInt8)",
        "EXPLAIN PIPELINE INSERT INTO FUNCTION file('/x') SELECT 1",
        "EXPLAIN INSERT INTO t SELECT 1",
        "EXPLAIN AST DROP TABLE t",
        "EXPLAIN CREATE TABLE x ENGINE = Memory AS SELECT 1",
        "SHOW TABLES WHERE name IN (SELECT * FROM url('x'))",
        "SHOW COLUMNS FROM t WHERE file('x')",
        "SHOW PROCESSLIST",
        "SHOW GRANTS",
        "SHOW CREATE USER x",
        "INSERT INTO t WITH (SELECT 1) AS x SELECT x",
        "CHECK TABLE t",
        "WITH f AS (SELECT * FROM iceberg('x')) SELECT * FROM f",
        "SELECT 1 IN sqlite('/x', 't')",
        "SELECT * FROM t, mongodb('x')",
        "SELECT * FROM t INNER JOIN postgresql('x') USING (x)",
        "SELECT * FROM filesystem('/')",
        "SELECT * FROM executable('x', 'TSV', 'a String')",
        "SELECT * FROM laterInvented('x')",
        "SELECT * FROM eval('SELECT 1')",
        "SELECT arrayMap(file, ['/etc/passwd'])",
        "SELECT arrayMap(`file`, ['/etc/passwd'])",
        "SELECT arrayMap(file AS f, ['/etc/passwd'])",
        "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
        "SELECT * APPLY x -> file(x) FROM (SELECT '/etc/passwd')",
        "WITH x -> file(x) AS f SELECT f('/etc/passwd')",
        "SELECT arrayMap(AIGenerate, ['x'])",
        "SELECT dictGet('d', 'a', 1)",
        "EXISTS TABLE default.`/etc/passwd`",
        "SELECT hasColumnInTable('default', '/x.csv', 'a')",
    ],
)
def test_a_query_that_does_more_is_refused(query: str) -> None:
    with pytest.raises(QueryRefusedError):
        check_normal_form(query, known={"laterinvented"})


def test_a_name_put_in_later_leads_to_no_file() -> None:
    check_parameters("SELECT * FROM {t:Identifier}", ["annotation"])
    check_parameters("SELECT {t:String}", ["default"])
    for value in ("default", "`default`", "Default./x"):
        with pytest.raises(QueryRefusedError):
            check_parameters("EXISTS TABLE {d:Identifier}.{t:Identifier}", ["/etc/passwd", value])
