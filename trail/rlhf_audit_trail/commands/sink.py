"""``rlhf-audit sink``: store what is sealed in Kafka, as evidence in objects or as rows in ClickHouse.

Runs until SIGTERM. Several of one kind share the partitions. Status 0 told to
stop; 1 a fork or another contradiction, whose record lies in DIR/alarms; 2 a
setting is wrong; 3 it could not go on.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, KAFKA_KEYS, add_setting_flags, settings_of

HELP = "store what is sealed in Kafka: as objects, or in ClickHouse"
EXAMPLES = """\
rlhf-audit sink objects my-trail --brokers k1:9092,k2:9092
rlhf-audit sink objects my-trail --objects-url s3://audit/objects --vault-url s3://audit-vault
rlhf-audit sink clickhouse my-trail --clickhouse-host ch1      several of them may fill one server
rlhf-audit sink clickhouse my-trail                            into the engine in here; rlhf-audit sql asks it
rlhf-audit sink objects my-trail --instance sink-0   its name in the group: restarted in time, nobody else moves
"""
SETTINGS = (
    *KAFKA_KEYS,
    "objects_url",
    "vault_url",
    "vault_dir",
    "clickhouse_host",
    "clickhouse_port",
    "clickhouse_user",
    "clickhouse_password_file",
    "clickhouse_secure",
    "query_port",
    "metrics_host",
    "metrics_port",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("kind", choices=("objects", "clickhouse"), help="where to")
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--instance", metavar="NAME", help="name in the consumer group, kept over restarts (default: none)")
    add("--session-seconds", type=float, default=10.0, metavar="S", help="a silent sink is missed after (default 10)")
    add("--tied", action="store_true", help=argparse.SUPPRESS)
    add_setting_flags(parser, *SETTINGS)


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_sinks.kafka_windows import WindowFollower
    from rlhf_audit_stores.health import WorkerHealth
    from rlhf_audit_stores.keys import load_secret
    from rlhf_audit_trail.places import need_ledger, open_objects
    from rlhf_audit_trail.sealing import told_to_stop
    from rlhf_audit_trail.sinking import ALARMS, all_partitions, check_kind, open_window_store

    settings = settings_of(args, args.directory)
    kafka = settings.need_kafka()
    check_kind(args.kind, settings)
    should_stop = told_to_stop(is_tied=args.tied)
    objects = open_objects(args.directory, settings)
    ledger = need_ledger(args.directory, objects)
    with ExitStack() as stack:
        health = WorkerHealth("sink")
        stack.enter_context(health.serve(settings.metrics_port, settings.metrics_host))
        follower = WindowFollower(
            kafka,
            all_partitions(ledger),
            stack.enter_context(open_window_store(args.kind, args.directory, settings, objects)),
            quarantine_key=load_secret(args.directory / "keys" / "quarantine.key"),
            health=health,
            alarms=args.directory / ALARMS,
            instance=args.instance,
            session_s=args.session_seconds,
        )
        follower.run(should_stop)
    return 0
