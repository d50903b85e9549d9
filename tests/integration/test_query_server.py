"""The live query copy: unmodified clients ask it, nobody changes it, and it never holds up who seals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from query_copies import annotation, batch, require_chdb
from rlhf_audit_trail import cli
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.query_copy_feed import QueryCopyFeed
from rlhf_audit_trail.query_server import read_address

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

pytestmark = [
    pytest.mark.service,
    pytest.mark.filterwarnings("default"),  # what pandas and the client warn of is not ours
]

_DEADLINE_S = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _needs_engine() -> None:
    require_chdb()


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[LocalTrail]:
    """A trail that is open, with one stored window of 30 events, and its live query copy."""
    feed = QueryCopyFeed(tmp_path / "trail", tmp_path / "trail" / "vault")
    with LocalTrail(tmp_path / "trail", sinks=[feed]) as opened:
        opened.append("annotations", 0, [batch(opened, [annotation(n) for n in range(30)], producer="p0")])
        opened.drain()
        wait_for(lambda: read_address(opened.directory / "clickhouse") is not None)
        yield opened
    assert feed.close(timeout_s=_DEADLINE_S)


@pytest.fixture
def client(trail: LocalTrail) -> Iterator[Client]:
    from clickhouse_connect import get_client

    address = read_address(trail.directory / "clickhouse")
    assert address is not None
    opened = get_client(host=address.host, port=address.port, password=address.password)
    wait_for(lambda: opened.query("SELECT count() FROM annotation").result_rows == [(30,)])
    yield opened
    opened.close()


def curl(trail: LocalTrail, *arguments: str, path: str = "/") -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    address = read_address(trail.directory / "clickhouse")
    assert address is not None
    url = f"http://{address.host}:{address.port}{path}"
    given = [argument.replace("PASSWORD", address.password) for argument in arguments]
    return subprocess.run(["curl", "-sS", *given, url], capture_output=True, text=True, check=False, timeout=30)


def test_an_unmodified_client_reads_rows_parameters_frames_and_arrow(client: Client) -> None:
    rows = client.query(
        "SELECT annotator, count() FROM annotation WHERE seq >= {first:UInt64} GROUP BY annotator ORDER BY 1",
        parameters={"first": 3},
    ).result_rows
    assert rows == [("annotator 0", 9), ("annotator 1", 9), ("annotator 2", 9)]
    assert client.query_arrow("SELECT seq FROM annotation ORDER BY seq").num_rows == 30
    assert list(client.query_df("SELECT seq FROM annotation ORDER BY seq LIMIT 2")["seq"]) == [0, 1]
    assert client.command("SELECT count() FROM audit.windows") == 1
    assert "leaf_hash" in client.query("SELECT * FROM annotation LIMIT 0").column_names


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DROP TABLE annotation", 497),
        ("INSERT INTO annotation (seq) VALUES (1)", 497),
        ("ALTER TABLE annotation DELETE WHERE 1", 497),
        ("SYSTEM STOP MERGES", 497),
        ("KILL QUERY WHERE 1", 497),
        ("SET readonly = 0", 497),
        ("SELECT file('/etc/hostname')", 497),
        ("SELECT `\\x66ile`('/etc/hostname')", 497),
        ("SELECT 1 INTO OUTFILE '/tmp/never-written'", 497),
        ("SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", 497),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT 1 SETTINGS max_result_rows = 0", 164),
        ("SELECT * FROM nowhere", 60),
        ("SELECT * FROM numbers(2000000)", 396),
        ("SELECT groupArray(number) FROM numbers(1000000000)", 241),
    ],
)
def test_nothing_is_changed_no_file_is_read_and_limits_hold(client: Client, statement: str, code: int) -> None:
    from clickhouse_connect.driver.exceptions import DatabaseError

    with pytest.raises(DatabaseError, match=f"Code: {code}") as caught:
        client.raw_query(statement)
    assert f"code: {code}" in str(caught.value)
    assert not Path("/tmp/never-written").exists()  # noqa: S108 - it must not be written
    assert client.query("SELECT count() FROM annotation").result_rows == [(30,)]


def test_curl_asks_by_url_and_by_body_and_needs_the_password(trail: LocalTrail, client: Client) -> None:
    found = curl(trail, "-u", "default:PASSWORD", path="/?query=SELECT%20count()%20FROM%20annotation%20FORMAT%20CSV")
    assert found.stdout == "30\n"
    found = curl(trail, "-H", "X-ClickHouse-Key: PASSWORD", "--data-binary", "SELECT 1 AS x FORMAT JSONEachRow")
    assert json.loads(found.stdout) == {"x": 1}
    found = curl(trail, "-H", "Transfer-Encoding: chunked", "-u", "default:PASSWORD", "--data-binary", "SELECT 7")
    assert found.stdout == "7\n"
    assert curl(trail, path="/ping").stdout == "Ok.\n"
    for wrong in ("default:guessed", "somebody:PASSWORD", "default:"):
        refused = curl(trail, "-i", "-u", wrong, "--data-binary", "SELECT 1")
        assert "403" in refused.stdout.splitlines()[0]
        assert "X-ClickHouse-Exception-Code: 516" in refused.stdout


def test_files_that_open_the_copy_are_for_their_owner_alone(trail: LocalTrail, client: Client) -> None:
    folder = trail.directory / "clickhouse"
    for name in ("password", "http.json", "process.log"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "tmp").stat().st_mode & 0o077 == 0


def test_the_command_asks_the_live_copy_and_afterwards_the_engine_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "trail"
    feed = QueryCopyFeed(directory, directory / "vault")
    with LocalTrail(directory, sinks=[feed]) as opened:
        opened.append("annotations", 0, [batch(opened, [annotation(n) for n in range(5)], producer="p0")])
        opened.drain()
        wait_for(lambda: _sql(directory, "SELECT count() AS n FROM annotation", capsys) == [{"n": 5}])
        opened.append("annotations", 0, [batch(opened, [annotation(9)], producer="p1")])
        opened.drain()
        wait_for(lambda: _sql(directory, "SELECT count() AS n FROM annotation", capsys) == [{"n": 6}])
    assert feed.close(timeout_s=_DEADLINE_S)
    assert not (directory / "clickhouse" / "http.json").exists()
    with LocalTrail(directory) as opened:  # nobody feeds the copy now
        opened.append("annotations", 0, [batch(opened, [annotation(10)], producer="p2")])
        opened.drain()
    assert _sql(directory, "SELECT count() AS n FROM annotation", capsys) == [{"n": 7}]


def _sql(directory: Path, query: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert cli.main(["sql", str(directory), query, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "query", ["SELECT file('/etc/hostname')", "SELECT 1 INTO OUTFILE '/x'", "DROP TABLE annotation"]
)
def test_the_command_refuses_what_does_not_read(tmp_path: Path, query: str, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalTrail(tmp_path / "trail"):
        pass
    assert cli.main(["sql", str(tmp_path / "trail"), query]) == 2
    assert capsys.readouterr().out == ""


def test_sealing_goes_on_when_the_copy_is_killed_and_the_next_one_catches_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "trail"
    feed = QueryCopyFeed(directory, directory / "vault")
    with LocalTrail(directory, sinks=[feed]) as opened:
        for number in range(20):
            opened.append("annotations", 0, [batch(opened, [annotation(number)], producer=f"p{number}")])
            opened.drain()
            if number == 5:
                wait_for(lambda: read_address(directory / "clickhouse") is not None)
                os.kill(feed._process.pid, signal.SIGKILL)
        assert opened.windows_stored == 20
    assert not feed.close(timeout_s=_DEADLINE_S)
    assert _sql(directory, "SELECT count() AS n FROM annotation", capsys) == [{"n": 20}]


def test_a_second_copy_of_one_trail_ends_by_itself(tmp_path: Path) -> None:
    first = QueryCopyFeed(tmp_path, tmp_path / "vault")
    wait_for(lambda: read_address(tmp_path / "clickhouse") is not None)
    second = QueryCopyFeed(tmp_path, tmp_path / "vault")
    assert second.close(timeout_s=_DEADLINE_S)
    assert first.is_alive
    assert first.close(timeout_s=_DEADLINE_S)
