"""No query leaves the tables of the copy: tried against the real engine, with a listener and a file to be found."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from query_copies import require_chdb
from rlhf_audit_trail.query_engine import Limits, QueryError, QueryRefusedError

if TYPE_CHECKING:
    from rlhf_audit_trail.query_engine import ReadConnection

pytestmark = pytest.mark.service

_SECRET = "never-to-be-seen"  # noqa: S105 - what a refused query would show


@dataclass
class Place:
    """A copy that is asked, and what surrounds it."""

    connection: ReadConnection
    folder: Path
    listener: socket.socket

    def ask(self, query: str) -> str:
        """Put the places in and ask."""
        text = query.replace("PORT", str(self.listener.getsockname()[1])).replace("DIR", str(self.folder))
        return self.connection.run(text, default_format="TSV").body.decode()

    def was_called(self) -> bool:
        """Whether somebody connected."""
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_chdb()
    from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
    from rlhf_audit_trail.query_engine import ReadConnection

    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.csv").write_text(f"name,value\n{_SECRET},1\n", encoding="ascii")
    engine = EmbeddedEngine(tmp_path_factory.mktemp("trail"))
    client = engine.client()
    ClickHouseSink(client)
    connection = ReadConnection(engine.data, Limits(max_execution_time_s=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Place(connection, folder, listener)
    connection.close()
    client.close()
    engine.close()


_SERVERS = (
    "url('http://127.0.0.1:PORT/x.csv')",
    "gcs('http://127.0.0.1:PORT/bucket/k.csv')",
    "s3('http://127.0.0.1:PORT/bucket/k.csv')",
    "hudi('http://127.0.0.1:PORT/bucket/k')",
    "deltaLake('http://127.0.0.1:PORT/bucket/k')",
    "iceberg('http://127.0.0.1:PORT/bucket/k')",
    "mysql('127.0.0.1:PORT', 'd', 't', 'u', 'p')",
    "postgresql('127.0.0.1:PORT', 'd', 't', 'u', 'p')",
    "mongodb('127.0.0.1:PORT', 'd', 't', 'u', 'p', 'a String')",
    "redis('127.0.0.1:PORT', 'k', 'k String')",
    "remote('127.0.0.1:PORT', system.one)",
    "remoteSecure('127.0.0.1:PORT', system.one)",
    "clusterAllReplicas('default', system.one)",
)
_FILES = (
    "file('DIR/secret.csv')",
    "sqlite('DIR/new.db', 't')",
    "filesystem('DIR')",
    "icebergLocal('DIR')",
    "deltaLakeLocal('DIR')",
    "executable('DIR/new.sh', 'TSV', 'a String')",
)
_FORMS = (
    "SELECT * FROM {}",
    "DESCRIBE TABLE {}",
    "DESC {}",
    "EXPLAIN SELECT * FROM {}",
    "EXPLAIN ESTIMATE SELECT * FROM {}",
    "EXPLAIN QUERY TREE SELECT * FROM {}",
    "EXPLAIN TABLE OVERRIDE {} COLUMNS (x UInt8)",
    "EXPLAIN PIPELINE INSERT INTO FUNCTION {} SELECT 1",
    "INSERT INTO FUNCTION {} SELECT 1",
    "WITH f AS (SELECT * FROM {}) SELECT * FROM f",
    "SELECT 1 IN (SELECT 1 FROM {})",
    "SHOW TABLES WHERE name IN (SELECT 1 FROM {})",
    "CREATE TEMPORARY TABLE t AS SELECT * FROM {}",
    "CREATE TABLE t AS {}",
)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("function", [*_SERVERS, *_FILES])
def test_no_table_function_connects_reads_or_writes(place: Place, form: str, function: str) -> None:
    before = sorted(place.folder.iterdir())
    with pytest.raises((QueryRefusedError, QueryError)):
        place.ask(form.format(function))
    assert not place.was_called()
    assert sorted(place.folder.iterdir()) == before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT file('DIR/secret.csv')",
        "SELECT arrayMap(file, ['DIR/secret.csv'])",
        "SELECT arrayMap(`\\x66ile`, ['DIR/secret.csv'])",
        "SELECT arrayMap((file), ['DIR/secret.csv'])",
        "SELECT arrayMap(file AS f, ['DIR/secret.csv'])",
        "SELECT arrayMap(/**/file/**/, ['DIR/secret.csv'])",
        "SELECT arrayFirst(file, ['DIR/secret.csv'])",
        "SELECT * APPLY file FROM (SELECT 'DIR/secret.csv')",
        "SELECT * APPLY(file) FROM (SELECT 'DIR/secret.csv')",
        "SELECT COLUMNS('.*') APPLY(x -> file(x)) FROM (SELECT 'DIR/secret.csv' AS a)",
        "WITH (x -> file(x)) AS f SELECT f('DIR/secret.csv')",
        "FROM (SELECT 'DIR/secret.csv') SELECT * APPLY file",
        "EXPLAIN SYNTAX SELECT file('DIR/secret.csv')",
        "SELECT * FROM 'DIR/secret.csv'",
        "SELECT * FROM default.`DIR/secret.csv`",
        "DESCRIBE TABLE default.`DIR/secret.csv`",
        "EXISTS TABLE default.`DIR/secret.csv`",
        "EXISTS TABLE `default`.`DIR/secret.csv`",
        "SELECT hasColumnInTable('default', 'DIR/secret.csv', 'name')",
        "SELECT 1 INTO OUTFILE 'DIR/new.csv'",
        "SELECT 1 FORMAT Template SETTINGS format_template_row = 'DIR/secret.csv'",
        "SELECT 1 SETTINGS format_schema = 'DIR/secret.csv:x'",
        "BACKUP DATABASE audit TO File('DIR/new')",
        "ATTACH DATABASE d ENGINE = SQLite('DIR/new.db')",
        "CREATE DATABASE d ENGINE = SQLite('DIR/new.db')",
        "CREATE TEMPORARY TABLE t (a String) ENGINE = File(CSV, 'DIR/secret.csv')",
        "CREATE FUNCTION f AS x -> file(x)",
        "CREATE DICTIONARY d (a String) PRIMARY KEY a SOURCE(FILE(path 'DIR/secret.csv' format 'CSV')) LAYOUT(FLAT())",
        "SELECT dictGet('d', 'a', 1)",
        "SHOW PROCESSLIST",
        "SYSTEM SHUTDOWN",
    ],
)
def test_no_function_and_no_statement_leads_to_a_file(place: Place, query: str) -> None:
    before = sorted(place.folder.iterdir())
    with pytest.raises((QueryRefusedError, QueryError)) as caught:
        place.ask(query)
    assert _SECRET not in str(caught.value)
    assert sorted(place.folder.iterdir()) == before


def test_every_table_function_of_this_engine_is_refused_but_those_without_reach(place: Place) -> None:
    from rlhf_audit_trail.query_rules import QueryRefusedError as Refused
    from rlhf_audit_trail.query_rules import check_normal_form

    allowed = []
    for name in place.ask("SELECT name FROM system.table_functions").split():
        try:
            check_normal_form(f"SELECT * FROM {name}(1)")  # noqa: S608 - nobody asks it
        except Refused:
            continue
        allowed.append(name)
    assert sorted(allowed) == [
        "SQLStandardValues",
        "format",
        "generateRandom",
        "generateSeries",
        "generate_series",
        "merge",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "values",
        "view",
        "zeros",
        "zeros_mt",
    ]


def test_a_parameter_names_a_table_but_no_file(place: Place) -> None:
    run = place.connection.run
    assert run("EXISTS {t:Identifier}", default_format="TSV", parameters={"t": "annotation"}).body == b"1\n"
    for parameters in ({"d": "default", "t": f"{place.folder}/secret.csv"}, {"d": "`default`", "t": "x"}):
        with pytest.raises((QueryRefusedError, QueryError)):
            run("EXISTS {d:Identifier}.{t:Identifier}", default_format="TSV", parameters=parameters)
    with pytest.raises((QueryRefusedError, QueryError)):
        run("EXISTS {t:Identifier}", default_format="TSV", parameters={"t": f"default.{place.folder}/secret.csv"})


def test_the_database_that_clients_name_by_habit_is_the_copys_own(place: Place) -> None:
    found = place.connection.run(f"EXISTS `{place.folder}/secret.csv`", default_format="TSV", database="default")
    assert found.body == b"0\n"
    assert place.connection.run("EXISTS annotation", default_format="TSV", database="default").body == b"1\n"


@pytest.mark.parametrize(
    "query",
    [
        "DESCRIBE (SELECT 1 AS x)",
        "DESC annotation",
        "DESCRIBE TABLE audit.windows FORMAT JSONEachRow",
        "SHOW TABLES FROM audit",
        "SHOW CREATE annotation",
        "SHOW COLUMNS FROM annotation LIKE 'a%'",
        "SHOW DATABASES",
        "EXISTS annotation",
        "EXPLAIN SELECT * FROM annotation",
        "EXPLAIN QUERY TREE run_passes = 0 SELECT 1",
        "EXPLAIN PIPELINE SELECT count() FROM annotation",
        "SELECT arrayMap(x -> x + 1, [1]), format('{}-{}', 'a', 'b'), URLHash('x')",
        "SELECT * APPLY toString FROM numbers(2)",
        "SELECT number AS file FROM numbers(2)",
        "(SELECT 1) UNION ALL (SELECT * FROM values('x UInt8', 2))",
        "FROM annotation SELECT count()",
        "SELECT name, value, readonly FROM system.settings LIMIT 1",
    ],
)
def test_what_only_reads_is_answered(place: Place, query: str) -> None:
    place.ask(query)
