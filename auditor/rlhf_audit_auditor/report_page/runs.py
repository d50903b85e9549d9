"""Which runs a trail knows, and the facts that a run's own events state about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_audit_auditor.report_page.asking import (
    Asking,
    Query,
    Row,
    Section,
    maybe_whole,
    number,
    text_of,
    whole,
)
from rlhf_audit_auditor.report_page.markup import (
    NOTHING,
    Child,
    Html,
    code,
    facts,
    figure,
    folded,
    join,
    listed,
    moment,
    note,
    percent,
    table,
    tag,
)

_SPEAK_OF_RUNS = ("run_start", "policy_update", "gradient_stats", "rollout", "checkpoint", "run_end")
_EACH_RUN = " UNION ALL ".join(
    f"SELECT run_id, min(ts) AS at FROM audit_restricted.{kind} GROUP BY run_id"  # noqa: S608 - names of ours
    for kind in _SPEAK_OF_RUNS
)
_RUNS = f"""
SELECT run_id, toUnixTimestamp64Micro(min(at)) AS first_us FROM ({_EACH_RUN})
WHERE run_id != '' GROUP BY run_id ORDER BY first_us, run_id
"""  # noqa: S608 - constants of this module
_STARTS = """
SELECT run_id, rank, epoch, toUnixTimestamp64Micro(ts) AS at_us, world_size, expected_ranks, parent_run_id,
  resumed_from, resumed_step, trainer, algorithm, objective, model_name, model_class, model_config_sha256,
  model_parameters_sha256, reference_model_name, reference_parameters_sha256, reward_names, parameter_count,
  trainable_count, max_grad_norm, seed, max_steps, per_device_batch, accumulation_steps, dataset_rows,
  dataset_fingerprint, lineage, gradient_hook, code_commit, is_code_dirty, packages, python, platform, device,
  device_count
FROM audit_restricted.run_start WHERE run_id = unhex({run:String}) ORDER BY rank, epoch, ts LIMIT 4096
"""
_ENDS = """
SELECT rank, epoch, toUnixTimestamp64Micro(ts) AS at_us, outcome, reason, error_type, steps, missed, train_us, audit_us
FROM audit_restricted.run_end WHERE run_id = unhex({run:String}) ORDER BY rank, epoch, ts LIMIT 4096
"""
_STEPS = """
SELECT rank, uniqExact(step) AS steps, max(step) AS last_step, sum(step_us) AS step_us, sum(audit_us) AS audit_us
FROM audit_restricted.policy_update WHERE run_id = unhex({run:String}) GROUP BY rank ORDER BY rank
"""
_MAX_RANKS = 64  # rows of the table of ranks


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the trail."""

    run_id: str
    first_us: int


@dataclass(frozen=True, slots=True)
class RunState:
    """What the page's head says of a run."""

    is_training: bool
    text: str


def runs_of(query: Query) -> list[Run]:
    """Runs of a trail, the oldest first."""
    return [Run(str(row["run_id"]), whole(row["first_us"])) for row in query(_RUNS, {})]


def run_section(asking: Asking) -> tuple[Section, RunState]:
    """Facts of the run, and how it stands."""
    if asking.run_id is None:
        text = "This trail holds no training run: feedback alone."
        return Section("run", "Run", note(text)), RunState(False, "no training run")
    starts, ends = asking.rows(_STARTS), asking.rows(_ENDS)
    steps = {whole(row["rank"]): row for row in asking.rows(_STEPS)}
    newest = {whole(row["rank"]): row for row in starts}
    ended = {
        whole(row["rank"]): row
        for row in ends
        if whole(row["rank"]) not in newest or whole(row["epoch"]) >= whole(newest[whole(row["rank"])]["epoch"])
    }
    seen = sorted({*newest, *ended, *steps})
    first = newest[min(newest)] if newest else None
    parts = [
        note("This run recorded no start: what it trained is not known.", "warn") if first is None else _facts(first)
    ]
    expected = sorted({whole(rank) for row in starts for rank in row["expected_ranks"]})
    missing = [rank for rank in expected if rank not in seen]
    if missing:
        parts.append(note(f"Ranks that were expected and never appeared: {_ranks(missing)}.", "bad"))
    if seen:
        parts.append(tag("h3", "Ranks"))
        parts.append(_ranks_table(seen, newest, ended, steps))
        if len(starts) > len(newest):
            parts.append(note(f"{len(starts) - len(newest)} restarts: ranks that began again under the same run."))
    if first is not None and first["packages"]:
        packages = [str(name) for name in first["packages"]]
        parts.append(folded(f"{len(packages)} packages", listed(packages), key="packages"))
    alarm = "ranks missing" if missing else None
    return Section("run", "Run", join(parts), alarm=alarm), _state(newest, ended)


def _facts(row: Row) -> Html:
    batch = [maybe_whole(row[name]) for name in ("per_device_batch", "accumulation_steps")]
    world = whole(row["world_size"])
    commit = code(text_of(row["code_commit"]))
    if row["is_code_dirty"]:
        commit = join([commit, Html(" "), tag("span", "with changes that are not committed", class_="aside")])
    model = text_of(row["model_name"]) or text_of(row["model_class"])
    pairs: list[tuple[str, Child]] = [
        ("Run", code(str(row["run_id"]))),
        ("Trainer", text_of(row["trainer"])),
        ("Algorithm", _both(row["algorithm"], row["objective"])),
        ("Model", _both(model, row["model_class"] if row["model_class"] != model else None)),
        ("Parameters", _of(row["trainable_count"], row["parameter_count"], "trained")),
        ("World size", world),
        ("Seed", None if row["seed"] is None else str(row["seed"])),
        ("Steps planned", maybe_whole(row["max_steps"])),
        ("Rows per step", None if None in batch else world * whole(batch[0]) * whole(batch[1])),
        ("Training set", None if row["dataset_rows"] is None else f"{whole(row['dataset_rows']):,} rows"),
        ("Gradient clipping", number(row["max_grad_norm"])),
        ("Code commit", commit),
        ("Packages", len(row["packages"])),
        ("Python", text_of(row["python"])),
        ("Platform", text_of(row["platform"])),
        ("Device", _both(row["device"], None if not row["device_count"] else f"{row['device_count']} seen")),
        ("Lineage", "updates name their rows" if row["lineage"] == "ids" else "not known"),
        ("Model before the first step", code(text_of(row["model_parameters_sha256"]))),
        ("Model configuration", code(text_of(row["model_config_sha256"]))),
    ]
    optional: list[tuple[str, Child]] = [
        ("Reference model", text_of(row["reference_model_name"])),
        ("Reference parameters", code(text_of(row["reference_parameters_sha256"]))),
        ("Rewards", ", ".join(str(name) for name in row["reward_names"]) or None),
        ("Data set fingerprint", code(text_of(row["dataset_fingerprint"]))),
        ("Resumed from", _both(row["parent_run_id"], row["resumed_from"])),
    ]
    return facts([*pairs, *((name, value) for name, value in optional if value not in (None, NOTHING))])


def _ranks_table(
    seen: Sequence[int], starts: Mapping[int, Row], ends: Mapping[int, Row], steps: Mapping[int, Row]
) -> Html:
    rows: list[list[Child]] = []
    for rank in seen[:_MAX_RANKS]:
        start, end, done = starts.get(rank), ends.get(rank), steps.get(rank)
        outcome = "no end recorded" if end is None else str(end["outcome"])
        if end is not None and end["error_type"]:
            outcome += f" ({end['error_type']})"
        share = None
        if done is not None and whole(done["step_us"]):
            share = whole(done["audit_us"]) / whole(done["step_us"])
        rows.append(
            [
                str(rank),
                NOTHING if start is None else moment(whole(start["at_us"])),
                NOTHING if end is None else moment(whole(end["at_us"])),
                outcome,
                0 if done is None else whole(done["steps"]),
                percent(share),
                None if end is None else whole(end["missed"]),
            ]
        )
    heads = ["rank", "began (UTC)", "ended (UTC)", "outcome", "steps recorded", "audit of step time", "missed"]
    found = table(heads, rows, numbers=(4, 5, 6))
    left = len(seen) - _MAX_RANKS
    return found if left <= 0 else join([found, note(f"{left} more ranks are not listed.")])


def _state(starts: Mapping[int, Row], ends: Mapping[int, Row]) -> RunState:
    open_ranks = [rank for rank in starts if rank not in ends]
    if open_ranks:
        return RunState(True, f"no end recorded yet by {len(open_ranks)} of {len(starts)} ranks")
    outcomes = sorted({str(row["outcome"]).replace("_", " ") for row in ends.values()})
    return RunState(False, ", ".join(outcomes) or "no end recorded")


def _both(first: object, second: object) -> str | None:
    words = [str(word) for word in (first, second) if word not in (None, "")]
    return ", ".join(words) or None


def _of(part: object, total: object, what: str) -> str | None:
    if total is None:
        return None
    if part is None:
        return figure(whole(total))
    return f"{whole(total):,}, {'all' if whole(part) == whole(total) else f'{whole(part):,}'} {what}"


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:20])
    return shown if len(ranks) <= 20 else f"{shown} and {len(ranks) - 20} more"
