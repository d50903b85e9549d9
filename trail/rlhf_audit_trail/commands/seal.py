"""``rlhf-audit seal``: seal what stands in the source topics of a ledger into its sealed topics.

Runs until SIGTERM, then closes the open windows. Status 0 told to stop, 2 a
setting is wrong, 3 it could not go on (start it again: its state is in the
ledger).
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, KAFKA_KEYS, add_setting_flags, settings_of

HELP = "seal what was shipped to Kafka"
EXAMPLES = """\
rlhf-audit seal my-trail --brokers k1:9092,k2:9092
rlhf-audit seal my-trail --workers 4                 one process per core, partitions shared out
rlhf-audit seal my-trail --instance seal-0           its name in the group: restarted in time, nobody else moves
"""
SETTINGS = (
    *KAFKA_KEYS,
    "schema_registry_url",
    "objects_url",
    "metrics_host",
    "metrics_port",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--workers", type=int, default=1, choices=range(1, 65), metavar="N", help="processes (default 1)")
    add("--instance", metavar="NAME", help="name in the consumer group, kept over restarts (default: the host's)")
    add("--stream", action="append", default=[], metavar="NAME", help="seal this stream only; may be repeated")
    add("--session-seconds", type=float, default=6.0, metavar="S", help="a silent worker is missed after (default 6)")
    add("--tied", type=int, metavar="PID", help=argparse.SUPPRESS)
    add_setting_flags(parser, *SETTINGS)


def run(args: argparse.Namespace) -> int:
    instance = args.instance or socket.gethostname()
    if args.workers > 1:
        return _several(args, instance)

    from dataclasses import replace

    from rlhf_audit_processors.kafka.faust_app import Patience
    from rlhf_audit_processors.kafka.worker import run_worker
    from rlhf_audit_stores.disk import RealDisk
    from rlhf_audit_stores.durable import FolderLock, make_folders_durably
    from rlhf_audit_stores.health import WorkerHealth
    from rlhf_audit_trail.sealing import parent_is_gone, seal_plan

    settings = settings_of(args, args.directory)
    should_stop = parent_is_gone(args.tied) if args.tied else lambda: False
    plan = seal_plan(args.directory, settings, instance=instance, streams=args.stream, should_stop=should_stop)
    session = args.session_seconds
    plan = replace(
        plan,
        data_dir=plan.data_dir / instance,
        patience=Patience(session_s=session, heartbeat_s=session / 5, request_s=max(6.0, session)),
    )
    make_folders_durably(RealDisk(), plan.data_dir)
    with ExitStack() as stack:
        lock = FolderLock(plan.data_dir)  # two processes of one name would throw each other out for ever
        lock.acquire()
        stack.callback(lock.release)
        health = WorkerHealth("seal")
        stack.enter_context(health.serve(settings.metrics_port, settings.metrics_host))
        return run_worker(plan, health)


def _several(args: argparse.Namespace, instance: str) -> int:
    from rlhf_audit_trail.sealing import child_command, supervise

    settings = settings_of(args, args.directory)
    given = vars(args)
    words: list[str] = []
    for name in SETTINGS:
        value = given.get(f"setting_{name}")
        if value is not None and name != "metrics_port":
            words += [f"--{name.replace('_', '-')}", str(value)]
    for stream in args.stream:
        words += ["--stream", stream]
    commands = []
    for number in range(args.workers):
        port = settings.metrics_port + number if settings.metrics_port else 0
        commands.append(
            child_command(
                [
                    *(["-" + "v" * args.verbose] if args.verbose else []),
                    "seal",
                    str(args.directory),
                    *("--tied", str(os.getpid())),
                    *("--instance", f"{instance}-{number}"),
                    *("--session-seconds", str(args.session_seconds)),
                    *("--metrics-port", str(port)),
                    *words,
                ]
            )
        )
    print(f"rlhf-audit seal: {args.workers} workers", file=sys.stderr)
    return supervise(commands)
