"""The report page in a real browser: it draws, fits a phone, asks nobody, runs nothing that an event says."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chromium import Chromium, Tab
from query_copies import require_chdb
from report_trails import add_run, run_events, write_run
from rlhf_audit_trail import cli
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.query_copy_feed import QueryCopyFeed

pytestmark = [pytest.mark.service, pytest.mark.filterwarnings("default")]

FIGURES = {"curve-loss", "curve-margin", "curve-rewards", "gradients", "rollouts", "annotators"}
SHOWN = (
    "[...document.querySelectorAll('figure[data-plot]')].filter(one => one.querySelector('canvas'))"
    ".map(one => one.dataset.plot)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_chdb()
    folder = tmp_path_factory.mktemp("page") / "trail"
    name = "a-run-whose-name-is-rather-long-" + "x" * 60
    write_run(folder, run_events(run_id=name, steps=120, layers=24, ranks=3, sick=(1, 2, 60)))
    out = folder.parent / "page.html"
    assert cli.main(["report", str(folder), "--no-memory", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_draws_and_fits_and_asks_nobody(browser: Chromium, page: Path, width: int, scheme: str) -> None:
    tab = Tab(browser, page.as_uri(), width=width, scheme=scheme)
    assert tab.problems() == []
    assert set(tab.evaluate(SHOWN)) >= FIGURES
    assert tab.overflow() <= 0
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert tab.overflow() <= 0
    assert [one for one in tab.requests() if not one.startswith("data:")] == [page.as_uri()]
    assert tab.evaluate("document.images.length") == 0
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is (scheme == "dark")
    tab.close()


def test_the_heat_map_switches_its_measure_and_tells_the_value_under_the_pointer(browser: Chromium, page: Path) -> None:
    tab = Tab(browser, page.as_uri(), width=1280)
    figure = "document.querySelector('figure[data-plot=gradients]')"
    assert tab.evaluate(f"{figure}.querySelector('canvas.heat').getAttribute('aria-label')").startswith("norm by layer")
    tab.evaluate(f"{figure}.querySelectorAll('button')[1].click()")
    label = tab.evaluate(f"{figure}.querySelector('canvas.heat').getAttribute('aria-label')")
    assert label.startswith("max-abs by layer, 26 rows, 120 columns")
    tab.evaluate(
        f"(() => {{ const c = {figure}.querySelector('canvas.heat'), b = c.getBoundingClientRect();"
        "c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.right - 4, clientY: b.top + 2})) })()"
    )
    told = tab.evaluate(f"{figure}.querySelector('.readout').textContent")
    assert told.startswith("model.embed_tokens, step 120: max-abs 0.")
    assert tab.problems() == []
    tab.close()


def test_a_change_of_light_and_width_draws_anew(browser: Chromium, page: Path) -> None:
    tab = Tab(browser, page.as_uri(), width=1280)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.resize(390)
    tab.wait_for("document.querySelector('canvas.heat').getBoundingClientRect().width < 390")
    tab.wait_for("document.querySelector('figure[data-plot=curve-loss] canvas').getBoundingClientRect().width < 390")
    assert tab.overflow() <= 0
    tab.evaluate(
        "document.querySelector('main').append(Object.assign(document.createElement('pre'), "
        "{textContent: 'x'.repeat(500)}))"
    )
    assert tab.overflow() > 0  # the measure that the tests above trust does see what does not fit
    assert tab.problems() == []
    tab.close()


def test_the_dashboard_follows_a_run_and_answers_only_who_knows_its_address(browser: Chromium, tmp_path: Path) -> None:
    require_chdb()
    folder = tmp_path / "trail"
    feed = QueryCopyFeed(folder, folder / "vault")
    with LocalTrail(folder, sinks=[feed]) as trail:
        add_run(trail, run_events(run_id="live", steps=3, ranks=1, is_ended=False))
        server = subprocess.Popen(
            [sys.executable, "-m", "rlhf_audit_trail", "dashboard", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            tab = Tab(browser, url, width=1280)
            steps = "document.getElementById('curves').textContent"
            tab.wait_for(f"{steps}.includes('3 optimizer steps')")
            tab.wait_for("document.querySelector('#run details') !== null")  # its stream is stored on its own
            tab.evaluate("document.querySelector('#run details').open = true")
            more = run_events(run_id="live", steps=9, ranks=1)
            add_run(trail, [one for one in more if one[2].get("step", 4) > 3 and one[0] != "run_start"], prefix="later")
            tab.wait_for(f"{steps}.includes('9 optimizer steps')")
            tab.wait_for("document.getElementById('head').textContent.includes('finished')")
            assert tab.evaluate("document.querySelector('#run details').open")
            assert set(tab.evaluate(SHOWN)) >= FIGURES
            assert tab.problems() == []
            assert {urlsplit(one).netloc for one in tab.requests() if one.startswith("http")} == {urlsplit(url).netloc}
            tab.close()
            refused(url)
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0
            assert server.stdout is not None
            server.stdout.close()
    assert feed.close(timeout_s=60)


def refused(url: str) -> None:
    """Nothing without the token, under a foreign name, or by another method."""
    found = urlsplit(url)
    for method, path, host, status in (
        ("GET", found.path, found.netloc, 200),
        ("HEAD", found.path + "data.json", found.netloc, 200),
        ("GET", "/", found.netloc, 404),
        ("GET", "/data.json", found.netloc, 404),
        ("GET", found.path, "evil.example", 404),
        ("POST", found.path, found.netloc, 501),
    ):
        connection = http.client.HTTPConnection(found.netloc, timeout=10)
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == status, (method, path, host)
        if status == 200:
            assert answer.headers["Cache-Control"] == "no-store"
        connection.close()


def test_a_dashboard_of_a_finished_run_ends_on_request(tmp_path: Path) -> None:
    require_chdb()
    folder = tmp_path / "trail"
    write_run(folder, run_events(run_id="done", steps=2, ranks=1))
    server = subprocess.Popen(
        [sys.executable, "-m", "rlhf_audit_trail", "dashboard", str(folder), "--no-verify"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert server.stdout is not None
    url = urlsplit(server.stdout.readline().strip())
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("GET", url.path)
    assert b"Nothing on this page is verified" in connection.getresponse().read()
    connection.close()
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 0
    assert time.monotonic() - began < 10
    server.stdout.close()
