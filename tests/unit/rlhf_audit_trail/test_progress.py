"""Progress: seen at a terminal, silent everywhere else."""

from __future__ import annotations

import sys

import pytest

from rlhf_audit_trail import progress
from rlhf_audit_trail.progress import track
from rlhf_audit_trail.settings import ProgressMode


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_nothing_is_drawn_where_stderr_is_no_terminal(mode: ProgressMode, capsys: pytest.CaptureFixture[str]) -> None:
    with track(10, "sealing", mode=mode) as meter:
        meter.advance(10)
        meter.describe("storing")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_where_auto_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress.is_shown("auto")
    assert not progress.is_shown("off")


@pytest.mark.parametrize("total", [2000, None])
def test_a_forced_bar_shows_words_count_and_unit_on_stderr_alone(
    total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with track(total, "sealing [/x]", "rows", mode="on") as meter:
        meter.advance(1500)
        meter.describe("storing [/x]")
    out, err = capsys.readouterr()
    assert out == ""
    assert "storing [/x]" in err
    assert ("1,500/2,000 rows" if total else "1,500 rows") in err
