"""``sql`` and ``status`` where the settings name a ClickHouse server."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from clickhouse_http import ClickHouseServer, running_clickhouse
from query_copies import annotation, require_chdb, write_trail
from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
from rlhf_audit_trail import cli
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_copy import Evidence, catch_up

pytestmark = pytest.mark.filterwarnings("default")  # what the engine warns of is not ours


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    require_chdb()
    with running_clickhouse(tmp_path_factory.mktemp("server")) as running:
        yield running


def configure(trail: Path, host: str, port: int, password_file: Path) -> None:
    (trail / "config.toml").write_text(
        f'clickhouse_host = "{host}"\nclickhouse_port = {port}\nclickhouse_password_file = "{password_file}"\n',
        encoding="utf-8",
    )


def test_a_server_that_a_sink_filled_is_asked_and_no_engine_is_opened(
    tmp_path: Path, server: ClickHouseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(7)], [annotation(8)]])
    configure(trail, server.host, server.port, server.password_file.absolute())
    client = server.client()
    catch_up(ClickHouseSink(client), Evidence.of(StoredTrail.of(trail)))
    client.close()
    assert cli.main(["sql", str(trail), "SELECT count() AS n FROM annotation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 8}]
    assert cli.main(["status", str(trail), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert [each["copied"] for each in state["partitions"]] == [1, 1]
    assert state["asked"] == f"server {server.host}:{server.port}"
    assert cli.main(["sql", str(trail), "SELECT nothing FROM annotation"]) == 2
    assert not (trail / "clickhouse").exists()


class Listening(BaseHTTPRequestHandler):
    """Says nothing and keeps what it was asked."""

    asked: ClassVar[list[tuple[dict[str, list[str]], str]]] = []

    def do_POST(self) -> None:
        self.asked.append((parse_qs(urlsplit(self.path).query), self.headers["Authorization"]))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_every_query_asks_to_read_only_within_limits_and_names_its_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listening = HTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        trail = tmp_path / "trail"
        write_trail(trail, [[annotation(1)]])
        password = tmp_path / "password"
        password.touch(mode=0o600)
        password.write_text("of the server")
        configure(trail, "127.0.0.1", listening.server_port, password)
        assert cli.main(["sql", str(trail), "DROP TABLE annotation", "--max-seconds", "7"]) == 0
    finally:
        listening.shutdown()
        listening.server_close()
    assert len(Listening.asked) == 2, "how far the copy is, and the query itself"
    for keys, authorization in Listening.asked:
        assert keys["readonly"] == ["2"]
        assert keys["max_execution_time"] == ["7"]
        assert keys["database"] == ["audit_restricted"]
        assert authorization == "Basic " + base64.b64encode(b"default:of the server").decode()


def test_a_server_that_is_not_there_could_not_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(1)]])
    (trail / "config.toml").write_text('clickhouse_host = "127.0.0.1"\nclickhouse_port = 9\n', encoding="utf-8")
    assert cli.main(["sql", str(trail), "SELECT 1"]) == 3
    assert "server 127.0.0.1:9: no answer" in capsys.readouterr().err
    assert cli.main(["status", str(trail), "--json"]) == 0
    assert "no answer" in json.loads(capsys.readouterr().out)["not_asked"]
