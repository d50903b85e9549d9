"""The documents: what they link to exists, and what they promise is guarded by a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROLES = ("schemas", "ledger", "stores", "producers", "processors", "sinks", "auditor", "trail")
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("deploy/*.md"),
        *(ROOT / role / "README.md" for role in ROLES),
    ]
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert broken == []


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(tests/[^`]+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8")))
    assert len(named) > 5
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("role", ROLES)
def test_a_role_readme_says_in_a_page_what_goes_in_and_out_what_holds_and_how_to_run(role: str) -> None:
    text = (ROOT / role / "README.md").read_text(encoding="utf-8")
    assert f"`rlhf_audit_{role}`" in text
    assert "## Guarantees" in text
    assert "## Run" in text
    assert len(text.splitlines()) <= 40
