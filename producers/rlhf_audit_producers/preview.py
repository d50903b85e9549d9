"""What an ingest would do, from the first rows of a file; writes nothing.

Shows ids, times, numbers and labels as they would be recorded, and texts only
as the beginning of their digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.layout import Sniffed
from rlhf_audit_producers.mapping import Mapping, check
from rlhf_audit_producers.preparing import row_chunks
from rlhf_audit_producers.records import RowFault
from rlhf_audit_producers.rows import RowMapper, WarningCode
from rlhf_audit_schemas.codec import Constant

_SHOWN_DIGEST = 12  # hex digits: enough to compare by eye
_MAX_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a file under a mapping."""

    rows: int
    events: int
    faults: list[RowFault]
    warnings: dict[WarningCode, int]
    shown: list[dict[str, Any]]


def preview(source: InputFile, sniffed: Sniffed, mapping: Mapping, *, shown: int = 5) -> Preview:
    """Map the first few thousand rows. Raises ConfigError if the mapping does not fit."""
    check(mapping, sniffed)
    mapper = RowMapper(mapping, sniffed, bytes(32))
    for chunk in row_chunks(source, sniffed):
        mapped = mapper.map(chunk)
        rows = [_shown_row(mapped.lines, mapped.columns, at) for at in range(min(shown, mapped.count))]
        warnings = {name: count for name, count in mapper.warnings.items() if count}
        return Preview(mapped.rows, mapped.count, mapped.faults, warnings, rows)
    return Preview(0, 0, [], {}, [])


def _shown_row(lines: list[int], columns: dict[str, Any], at: int) -> dict[str, Any]:
    row: dict[str, Any] = {"line": lines[at]}
    for name, column in columns.items():
        value = column.value if isinstance(column, Constant) else column[at]
        if value is None or value == [] or name in ("input_sha256", "input_line") or name.endswith("_text"):
            continue
        if isinstance(value, bytes):
            value = value.hex()[:_SHOWN_DIGEST]
        elif isinstance(value, str) and len(value) > _MAX_SHOWN_CHARS:
            value = value[: _MAX_SHOWN_CHARS - 3] + "..."
        row[name] = value
    return row
