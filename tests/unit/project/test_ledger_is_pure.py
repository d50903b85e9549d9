"""The ledger holds rules and no world.

import-linter sees modules; builtins and methods are looked for here, in the syntax.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "ledger").rglob("*.py"))
FORBIDDEN_CALLS = {"open", "print", "input", "eval", "exec", "breakpoint", "__import__"}
FORBIDDEN_MODULES = {
    "time",
    "random",
    "secrets",
    "os",
    "socket",
    "logging",
    "pathlib",
    "threading",
    "io",
    "uuid",
    "sys",
}
FORBIDDEN_METHODS = {"now", "utcnow", "today", "getenv", "urandom", "generate", "generate_key"}


def impurities(source: str) -> list[str]:
    """What in this module touches the world, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module and node.module.partition(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = [node.func.id] if node.func.id in FORBIDDEN_CALLS else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names = [node.func.attr] if node.func.attr in FORBIDDEN_METHODS else []
        found += [f"line {getattr(node, 'lineno', 0)}: {name}" for name in names]
    return found


def test_there_is_a_ledger_to_look_at() -> None:
    assert len(SOURCES) > 5


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_ledger_module_touches_no_file_clock_randomness_or_screen(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "impure",
    [
        "import time",
        "from os import path",
        "import random as r",
        "def f():\n    open('x')",
        "print('x')",
        "import datetime\ndatetime.datetime.now(datetime.UTC)",
        "key = Ed25519PrivateKey.generate()",
    ],
)
def test_the_scan_sees_each_kind_of_impurity(impure: str) -> None:
    assert impurities(impure)
