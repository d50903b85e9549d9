"""The demo with a real training: DPO on two ranks, recorded by three added lines, queried while it runs.

The training script is the one a user would write (``train.py``). Judgements are
ingested meanwhile: the runtime beside the training lends the trail. The last
chapters, verify and forge, are those of the demo without training.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import CouldNotCheckError

if TYPE_CHECKING:
    from pathlib import Path

    from rlhf_audit_trail.demo.cluster_chapters import DemoCluster
    from rlhf_audit_trail.demo.inputs import Inputs
    from rlhf_audit_trail.demo.recorded import Compared, Cost
    from rlhf_audit_trail.demo.stage import Stage
    from rlhf_audit_trail.demo.training_process import Training

WINDOW_SECONDS = 3  # so that something can be asked while so short a run still trains
MAX_STEPS = 60  # more would take minutes on two cores, and show nothing else
BATCH = 8  # rows of one step: four on each of two ranks
_START_S, _FIRST_ROWS_S, _TRAIN_S, _DRAIN_S = 120.0, 60.0, 1800.0, 120.0

LIVE = "SELECT step, loss, reward_margin, grad_norm FROM policy_update WHERE rank = 0 ORDER BY step DESC LIMIT 5"
_HAS_ROWS = "SELECT count() FROM policy_update WHERE rank = 0"
QUESTIONS = (
    (
        "Whose judgements, and how many?",
        "SELECT annotator, count() AS judgements, round(avg(score), 2) AS mean_score "
        "FROM annotation GROUP BY annotator ORDER BY judgements DESC LIMIT 8",
    ),
    (
        "Which judgements stood behind the step with the largest gradient?",
        "SELECT p.step, p.rank, p.grad_norm, a.annotation_id, a.annotator, a.input_line FROM annotation AS a JOIN "
        "(SELECT step, rank, grad_norm, arrayJoin(annotation_ids) AS id FROM policy_update "
        "WHERE step = (SELECT argMax(step, grad_norm) FROM policy_update)) AS p ON a.annotation_id = p.id "
        "ORDER BY p.rank, a.annotation_id",
    ),
    (
        "Did both ranks hold the same gradients, bit for bit, in every step?",
        "SELECT placement, count() AS steps, countIf(versions = 1) AS steps_alike FROM (SELECT placement, step, "
        "uniqExact(squared_norm_f64le) AS versions FROM gradient_stats GROUP BY placement, step) GROUP BY placement",
    ),
)


def tell(stage: Stage, inputs: Inputs, steps: int | None, cluster: DemoCluster | None = None) -> None:
    """The whole story; on Kafka if there is a ``cluster``. Raises TrainingError if the training fails."""
    from rlhf_audit_trail.demo.inputs import write_training_rows
    from rlhf_audit_trail.demo.ledger_chapters import forge_and_verify_again, keep, show_windows, verify
    from rlhf_audit_trail.demo.training_process import (
        RANKS,
        Training,
        added_lines,
        make_model,
        progress_lines,
        torchrun_words,
    )

    out, rows, model, log = (
        stage.out,
        stage.out / "training-rows.jsonl",
        stage.out / "model",
        stage.out / "training.log",
    )
    stage.chapter("A small model, and human feedback")
    count = write_training_rows(inputs.pairs, rows)
    steps = min(-(-count // BATCH), MAX_STEPS) if steps is None else steps
    stage.say(f"feedback  {inputs.words}: {count:,} pairs to train on")
    with stage.busy("making the model"):
        made = make_model(rows, model, log)
    stage.say(f"model     {made}, made here, nothing downloaded")

    stage.chapter(f"Train it with DPO on {RANKS} ranks; ingest and ask meanwhile")
    stage.say("Three lines were added to the training script:\n")
    for line in added_lines():
        stage.say(f"    {line}")
    stage.say("")
    if cluster is None:
        stage.trail.mkdir()
        (stage.trail / "config.toml").write_text(f"window_seconds = {WINDOW_SECONDS}\n", encoding="utf-8")
    words = torchrun_words(model=model, pairs=rows, steps=steps, out=out)
    stage.show_command(words)
    stage.say(f"(goes on behind what follows; its words are in {log})\n")
    with Training(words, log) as training:
        _meanwhile(stage, inputs, training)
        if cluster is not None:
            cluster.show_who_is_at_work(stage)
        with stage.busy("training") as tell_step:
            training.wait(_TRAIN_S, tell_step)
    lines = progress_lines(log)
    stage.say("\nThe training has ended. It began and ended with:" if lines else "\nThe training has ended.")
    for line in [lines[0], lines[-1]] if lines else []:
        stage.say(f"    {line}")
    if cluster is None:
        _drain(stage)
    else:
        cluster.drain(stage)

    stage.chapter("What was recorded, and what the training script counted itself")
    alike, cost = _show_records(stage, inputs.pairs.path, count)
    stage.chapter("Windows, their Merkle roots, the checkpoint over all of them")
    show_windows(stage)
    keep(stage)
    stage.chapter("Ask it in SQL")
    for question, query in QUESTIONS:
        stage.console.print(f"[bold]{question}[/bold]")
        stage.run("sql", stage.trail, query)
        stage.say("")
    stage.chapter("Verify it, with the two lines that were kept elsewhere")
    verify(stage)
    report = _report(stage)
    forge_and_verify_again(stage)
    stage.chapter("What it cost, and what to try next")
    stage.console.print(f"[bold]{cost}[/bold]")
    stage.say("(time inside our code over step time, both ranks; the share falls with the tokens of a step)")
    _try_next(stage, report)
    if not all(each.own == each.ledger for each in alike):
        raise CouldNotCheckError(
            "the training script counted something else than the ledger holds: see the table above"
        )


def _meanwhile(stage: Stage, inputs: Inputs, training: Training) -> None:
    """Ingest while the training goes on, and ask once before it ends."""
    from rlhf_audit_trail.demo.training_process import TrainingError
    from rlhf_audit_trail.query_ask import live_asker
    from rlhf_audit_trail.runtime import has_work

    with stage.busy("two ranks import torch and begin"):
        begun = training.wait_until(lambda: has_work(stage.trail), _START_S)
    if not begun:
        raise TrainingError(f"the training did not begin to record: see {training.log}")
    for each in inputs.files:
        if stage.run("ingest", each.path, "--out", stage.trail, *each.flags, *stage.flags) != 0:
            raise TrainingError(f"{each.path.name} could not be ingested")

    def has_rows() -> bool:
        from rlhf_audit_schemas.errors import AuditTrailError

        try:
            asker = live_asker(stage.trail)
            if asker is None:
                return False
            try:
                return int(asker.ask(_HAS_ROWS, "TSV").body) > 0
            finally:
                asker.close()
        except AuditTrailError:  # between two askings the engine changed hands, or has no such table yet
            return False

    stage.console.print("\n[bold]How does it go?[/bold] Asked while the run still trains:")
    with stage.busy("waiting for the first window of steps"):
        is_there = training.wait_until(has_rows, _FIRST_ROWS_S)
    if is_there:
        stage.run("sql", stage.trail, LIVE)
    else:
        stage.say("(the training ended before its first window did: with more --steps there is time to ask)")


def _drain(stage: Stage) -> None:
    """Until the runtime has stored everything and ended by itself."""
    from rlhf_audit_trail.runtime import has_work
    from rlhf_audit_trail.runtime_start import wait_until_idle

    with stage.busy("the runtime stores the rest and ends"):
        is_idle = wait_until_idle(stage.trail, _DRAIN_S)
    if not is_idle or has_work(stage.trail):
        stage.say("The runtime is not there any more, and something is left to seal:")
        stage.run("local", stage.trail, "--until-idle")


def _show_records(stage: Stage, pairs: Path, count: int) -> tuple[list[Compared], Cost]:
    from rlhf_audit_trail.demo import recorded
    from rlhf_audit_trail.places import StoredTrail
    from rlhf_audit_trail.query_ask import asker_of

    with asker_of(StoredTrail.of(stage.trail)) as asker:
        kinds = recorded.events_per_kind(asker)
        compared = recorded.compared(asker, stage.out, pairs, count)
        checkpoints = recorded.checkpoints(asker)
        cost = recorded.cost(asker, stage.trail)
    stage.table(("events", "in the ledger"), list(kinds.items()))
    stage.say("")
    stage.table(
        ("the training script counted", "", "the ledger holds", " ", "  "),
        [
            (one.what, one.own, one.kind, one.ledger, "alike" if one.own == one.ledger else "NOT ALIKE")
            for one in compared
        ],
    )
    stage.console.print("\n[bold]Checkpoints[/bold]")
    stage.table(
        ("step", "rank", "role", "folder", "files", "digest over the SHA-256 of its files"),
        [
            (int(row["step"]), row["rank"], row["role"], row["name"], int(row["files"]), row["files_sha256"].lower())
            for row in checkpoints
        ],
    )
    for row in checkpoints:
        weights = stage.out / "checkpoints" / row["name"] / "model.safetensors"
        if row["role"] == "saved" and "model.safetensors" in row["file_names"]:
            recorded_digest = row["file_sha256"][row["file_names"].index("model.safetensors")].lower()
            found = hashlib.sha256(weights.read_bytes()).hexdigest()
            says = "as recorded" if found == recorded_digest else f"NOT AS RECORDED ({recorded_digest})"
            stage.say(f"sha256 of {row['name']}/model.safetensors on disk: {found}, {says}")
    return compared, cost


def _report(stage: Stage) -> str | None:
    """Write the page, if this installation can. Returns where it lies."""
    from rlhf_audit_trail import commands

    if "report" not in commands.NAMES:
        return None
    page = stage.out / "report.html"
    stage.chapter("One page of it, to look at")
    known = ("--key", stage.kept / "log.vkey", "--expect", stage.kept / "checkpoint")
    return str(page) if stage.run("report", stage.trail, "--out", page, *known, *stage.flags) == 0 else None


def _try_next(stage: Stage, report: str | None) -> None:
    trail = stage.trail
    stage.console.print("\n[bold]Try next[/bold]")
    if report is not None:
        stage.say(f"  open {report} in a browser")
    stage.say(f"  rlhf-audit sql {trail} 'SHOW TABLES'")
    stage.say(
        f"  rlhf-audit verify {trail} --key {stage.kept / 'log.vkey'} --expect {stage.kept / 'checkpoint'} --json"
    )
    stage.say(f"  rlhf-audit forge {trail}")
    stage.say(f"  rlhf-audit runs {trail}; rlhf-audit status {trail}")
    stage.say(f"  change any byte below {trail / 'objects'} and verify again")
