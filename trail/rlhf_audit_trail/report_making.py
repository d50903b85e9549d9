"""Making the report page of a trail: which run, whom to ask, and the page. Shared by ``report`` and ``dashboard``.

The auditor composes the page and knows no database; here it is given a function that asks the query copy.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_audit_schemas.errors import ConfigError

if TYPE_CHECKING:
    from rlhf_audit_auditor.report_page import Checked, Page, Query, Run
    from rlhf_audit_trail.query_ask import Asker

_MAX_LISTED = 20


def query_of(asker: Asker) -> Query:
    """The query function of the page."""
    from rlhf_audit_trail.query_ask import rows_of

    def query(sql: str, parameters: Mapping[str, str], /) -> Sequence[Mapping[str, Any]]:
        return rows_of(asker, sql, parameters)

    return query


def make_page(query: Query, run_id: str | None, checked: Checked) -> Page:
    """The page of a run, as of now."""
    from rlhf_audit_auditor.report_page import gather

    return gather(query, run_id, checked, now_us=time.time_ns() // 1000)


def chosen_run(runs: Sequence[Run], wanted: str | None) -> str | None:
    """The run that is meant: by its id, the beginning of it, or because it is the only one; None if there is no run.

    Raises ConfigError that lists the runs if it is not clear which.
    """
    if wanted is None:
        if len(runs) > 1:
            raise ConfigError(f"the trail holds {len(runs)} runs, name one:\n{_listed(runs)}")
        return runs[0].run_id if runs else None
    found = [run.run_id for run in runs if run.run_id == wanted] or [
        run.run_id for run in runs if wanted and run.run_id.startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    if not runs:
        raise ConfigError(f"the trail holds no run {wanted!r}: it holds feedback alone; leave RUN out")
    what = "no run" if not found else f"{len(found)} runs that begin with"
    raise ConfigError(f"the trail holds {what} {wanted!r}; it holds:\n{_listed(runs)}")


def file_name(run_id: str | None) -> str:
    """Name of the page's file: the run's id, made safe where it is no name for a file."""
    if run_id is None:
        return "report.html"
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", run_id)[:80]
    if safe != run_id:
        safe += "-" + sha256(run_id.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"report-{safe}.html"


def _listed(runs: Sequence[Run]) -> str:
    from rlhf_audit_auditor.findings import printable
    from rlhf_audit_auditor.report_page.markup import moment

    lines = [f"  {printable(run.run_id)}   began {moment(run.first_us)} UTC" for run in runs[-_MAX_LISTED:]]
    if len(runs) > _MAX_LISTED:
        lines.insert(0, f"  ({len(runs) - _MAX_LISTED} older ones)")
    return "\n".join(lines)


def write_page(path: Path, data: bytes) -> None:
    """Put the file in its place whole, or not at all."""
    beside = path.with_name(path.name + ".part")
    try:
        beside.touch(mode=0o600)  # it names pseudonyms: who may read it is its owner's decision
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path}: {error.strerror}") from error
