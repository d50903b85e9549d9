"""``docs/format.md`` and the code agree, byte for byte and word for word.

A failure here is a broken format, not an outdated test: what stands in the document has been written into ledgers.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from rlhf_audit_ledger.genesis import ROLES
from rlhf_audit_ledger.header import OUTCOMES
from rlhf_audit_schemas.kinds import KINDS
from vectors.golden_values import FULL_BYTES, GOLDEN_FILE, golden_values

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
AVRO = ROOT / "schemas" / "rlhf_audit_schemas" / "avro"
LEDGER = ROOT / "ledger" / "rlhf_audit_ledger"
MADE = golden_values()


def rows(pattern: str) -> list[tuple[str, ...]]:
    return [match.groups() for match in re.finditer(rf"^\| {pattern} \|", DOCUMENT, re.MULTILINE)]


def test_golden_bytes() -> None:
    """Changing these bytes breaks every ledger already written: add a new version instead."""
    golden = json.loads(GOLDEN_FILE.read_text(encoding="ascii"))
    assert {name: value.hex() for name, value in MADE.items()} == golden


def test_the_document_gives_every_golden_value_once() -> None:
    found = rows(r"`([a-z0-9_.]+)` \| (\d+) \| (SHA-256 )?`([0-9a-f]+)`")
    assert sorted(name for name, *_ in found) == sorted(MADE)
    for name, size, is_digest, text in found:
        value = MADE[name]
        assert int(size) == len(value), name
        assert bool(is_digest) == (len(value) > FULL_BYTES), name
        assert text == (hashlib.sha256(value).hexdigest() if is_digest else value.hex()), name


def test_the_document_gives_the_hash_of_every_schema_file() -> None:
    found = rows(r"`([a-z_]+/[a-z0-9_]+\.avsc)` \| `([0-9a-f]{64})`")
    files = {str(path.relative_to(AVRO)): path for path in AVRO.rglob("*.avsc")}
    assert sorted(found) == sorted((n, hashlib.sha256(path.read_bytes()).hexdigest()) for n, path in files.items())


def test_the_document_lists_every_kind() -> None:
    found = rows(r"`([a-z_]+)` \| 0x([0-9a-f]{4}) \| ([a-z]+) \| ([0-9, ]+)")
    expected = [(k.name, f"{k.number:04x}", k.stream, ", ".join(map(str, k.versions))) for k in KINDS.values()]
    assert found == expected


def section(begin: str, end: str) -> str:
    return DOCUMENT.split(begin, 1)[1].split(end, 1)[0]


def test_the_document_lists_every_outcome_and_role() -> None:
    table = section("| outcome | when |", "\n\n")
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == list(OUTCOMES)
    roles = section("roles are among", "\n")
    assert re.findall(r"`([a-z_]+)`", roles) == list(ROLES)


def reasons_in(path: Path) -> Iterator[str]:
    """Words that ``reading`` and ``lanes`` give as a reason: as an argument, or returned by the functions that do."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("Refused", "_quarantined")
        ):
            yield from _words(node)
        elif isinstance(node, ast.FunctionDef) and node.name in ("malformed", "_misaddressed"):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield from _words(inner)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "reason":
            yield from _words(node)


def _words(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def test_the_document_explains_every_reason_for_quarantine() -> None:
    table = section("| reason | the message |", "\n\n")
    explained = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
    used = {*reasons_in(LEDGER / "reading.py"), *reasons_in(LEDGER / "lanes.py")}
    assert len(explained) == len(set(explained))
    assert set(explained) == used


def test_the_document_lists_every_domain() -> None:
    used = {
        name
        for path in LEDGER.glob("*.py")
        for name in re.findall(r'domain\("([a-z-]+)"\)', path.read_text(encoding="utf-8"))
    }
    listed = section("Domains in use:", "\n")
    assert sorted(re.findall(r"`([a-z-]+)`", listed.split(". ", 1)[0])) == sorted(used)
