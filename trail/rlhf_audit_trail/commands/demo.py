"""``rlhf-audit demo``: the whole story, with the real commands.

Where torch and trl are installed it trains a small model on two ranks, recorded
and queried; without them it tells the story of the feedback alone, and says so.
With ``--kafka`` everything passes three brokers, and nothing is left running.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from rlhf_audit_trail.demo.inputs import add_flags
from rlhf_audit_trail.settings import add_setting_flags

HELP = "train a small model on two ranks, recorded; ask it, verify it, forge it, see it caught"
EXAMPLES = """\
rlhf-audit demo                            everything in ./rlhf-audit-demo
rlhf-audit demo --out /tmp/demo            in a folder of its own
rlhf-audit demo --pairs pairs.jsonl --annotations ratings.csv --annotations-map annotator=rater
rlhf-audit demo --feedback-only            without training: needs no torch
rlhf-audit demo --kafka                    over three Kafka brokers that it starts and stops: needs Java 17 and Maven
rlhf-audit demo --brokers k1:9092,k2:9092  over brokers that are there; its topics stay

nothing is downloaded: the model is made here with random weights
"""
_INSTALL = "pip install 'rlhf-audit-trail[trl,sinks]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("rlhf-audit-demo"), help="folder of the demo, made anew")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps (default: one epoch, 60 at most)")
    parser.add_argument("--feedback-only", action="store_true", help="seal, verify and forge; no training")
    parser.add_argument("--kafka", action="store_true", help="over a Kafka cluster of three brokers, started for it")
    parser.add_argument("--brokers", metavar="HOST:PORT,...", help="over this cluster instead; kafka_* settings apply")
    add_flags(parser, "pairs", "preference pairs to train on (default: a small set made here)")
    add_flags(parser, "annotations", "judgements to ingest meanwhile (default: a small set made here)")
    add_setting_flags(parser, "progress")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_trail.console import PeopleConsole
    from rlhf_audit_trail.demo import cluster_chapters, feedback_story, training_story
    from rlhf_audit_trail.demo.inputs import check_flags, inputs_of
    from rlhf_audit_trail.demo.stage import Stage, make_anew
    from rlhf_audit_trail.demo.training_process import missing_packages

    if args.steps is not None and args.steps < 1:
        raise ConfigError(f"--steps: expected at least 1, found {args.steps}")
    check_flags(args)
    on_kafka = args.kafka or args.brokers is not None
    if on_kafka:
        cluster_chapters.check(args.brokers)
    console = PeopleConsole(highlight=False, soft_wrap=True)
    make_anew(args.out)
    inputs = inputs_of(args, args.out)
    quiet = ["--progress", args.setting_progress] if args.setting_progress else []
    stage = Stage(args.out, console, quiet)
    missing = missing_packages()
    is_training = not (args.feedback_only or missing)
    if not is_training:
        why = "as asked for" if args.feedback_only else f"{', '.join(missing)} not installed"
        console.print(f"[bold]NO TRAINING IN THIS DEMO[/bold] ({why}): the story of the feedback alone follows.")
        if missing:
            console.print(f"For all of it: {_INSTALL}   (torch brings about 5 GB), or make demo", markup=False)
    with cluster_chapters.cluster(stage, args.brokers) if on_kafka else nullcontext() as cluster:
        if is_training:
            training_story.tell(stage, inputs, args.steps, cluster)
        else:
            feedback_story.tell(stage, inputs, cluster)
    return stage.worst
