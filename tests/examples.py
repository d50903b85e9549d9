"""The example messages that lie beside the schemas: ``examples/<kind>/v<n>/<name>.json``.

Plain JSON in which fixed and bytes fields are hex, and doubles that JSON cannot say are strings (Infinity, -0.0).
Every reader of events runs its tests over all of them: ordinary ones, nulls, strange texts, lowest and highest numbers,
long arrays.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.kinds import KINDS


def examples() -> list[tuple[str, int, str, dict[str, Any]]]:
    """(kind, version, name, record) of every example."""
    found = []
    for kind in KINDS.values():
        for version in kind.versions:
            schema = json.loads(schema_bytes(kind.path(version)))
            folder = files("rlhf_audit_schemas") / "examples" / kind.name / f"v{version}"
            for path in sorted(folder.iterdir(), key=lambda path: path.name):
                raw = json.loads(path.read_text(encoding="utf-8"))
                found.append((kind.name, version, path.name.removesuffix(".json"), _typed(schema, raw, {})))
    return found


def example(kind: str, name: str = "ordinary", version: int = 1) -> dict[str, Any]:
    """One example record."""
    return next(record for *key, record in examples() if key == [kind, version, name])


def _typed(schema: Any, value: Any, names: dict[str, Any]) -> Any:
    schema = names.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        typed = _typed(schema[1], value, names) if value is not None else None
        _learn(schema[1], names)
        return typed
    kind = schema["type"] if isinstance(schema, dict) else schema
    _learn(schema, names)
    if kind == "record":
        return {field["name"]: _typed(field["type"], value[field["name"]], names) for field in schema["fields"]}
    if kind == "array":
        _learn(schema["items"], names)
        return [_typed(schema["items"], item, names) for item in value]
    if kind in ("fixed", "bytes"):
        return bytes.fromhex(value)
    return float(value) if kind == "double" else value


def _learn(schema: Any, names: dict[str, Any]) -> None:
    if isinstance(schema, dict) and "name" in schema:
        names[schema["name"]] = schema
