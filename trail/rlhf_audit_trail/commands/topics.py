"""``rlhf-audit topics apply|check``: the topics of a ledger on Kafka, as code.

``apply`` makes what is missing and changes what differs; it founds the ledger
if there is none. ``check`` only looks: exit status 1 if anything is wrong.
Both need a user who may do that (``kafka_username``); no worker needs one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, KAFKA_KEYS, add_setting_flags, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlhf_audit_ledger.settings import PartitionSettings
    from rlhf_audit_stores.objects import ObjectStore
    from rlhf_audit_trail.founding import Ledger
    from rlhf_audit_trail.settings import Settings
    from rlhf_audit_trail.source_switch import Switched
    from rlhf_audit_trail.topic_admin import Applied, Checked, TopicAdmin

HELP = "make the topics of a ledger on Kafka, or look for dangerous settings"
EXAMPLES = """\
rlhf-audit topics apply my-trail --brokers kafka-1:9092
rlhf-audit topics apply my-trail --acl producer=trainer:gradients+lifecycle --acl sealer=sealer --acl sink=sink
rlhf-audit topics apply my-trail --continue      a ledger begun on one machine goes on in Kafka
rlhf-audit topics check my-trail                 0 nothing wrong, 1 something is, 3 nobody answered
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("apply", "check"), help="make them, or look at them")
    parser.add_argument(
        "directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)"
    )
    parser.add_argument(
        "--replication", type=int, metavar="N", help="copies of a new topic (default 3, or one a broker)"
    )
    parser.add_argument("--retention-hours", type=int, metavar="H", help="how long records are kept (default 168)")
    parser.add_argument(
        "--acl",
        action="append",
        default=[],
        metavar="ROLE=USER",
        help="rights of a producer, sealer or sink; repeat it",
    )
    parser.add_argument(
        "--continue", dest="goes_on", action="store_true", help="end the local source logs: go on in Kafka"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    add_setting_flags(
        parser, *KAFKA_KEYS, "schema_registry_url", "objects_url", "log_name", "window_seconds", "partitions"
    )


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.places import need_ledger, open_objects
    from rlhf_audit_trail.topic_admin import TopicAdmin
    from rlhf_audit_trail.topic_rules import MIN_RETENTION_HOURS

    if args.retention_hours is not None and args.retention_hours < MIN_RETENTION_HOURS:
        raise ConfigError(f"--retention-hours: at least {MIN_RETENTION_HOURS}: nothing may go before it is stored")
    settings = settings_of(args, args.directory)
    kafka = settings.need_kafka()
    applied, switched = None, None
    if args.action == "apply":
        ledger, objects = _found(args.directory, settings)
        admin = TopicAdmin(kafka, ledger)
        applied = _apply(args, settings, admin, ledger, objects)
        if args.goes_on:
            switched = _go_on(args.directory, settings, admin)
    else:
        objects = open_objects(args.directory, settings)
        admin = TopicAdmin(kafka, need_ledger(args.directory, objects))
    checked = admin.check(objects)
    subjects = _check_registry(settings)
    _show(args, applied, switched, checked, subjects)
    return 1 if checked.problems or subjects else 0


def _found(directory: Path, settings: Settings) -> tuple[Ledger, ObjectStore]:
    from rlhf_audit_trail.ledger_facts import ledger_facts
    from rlhf_audit_trail.places import found_in_store, need_ledger, open_objects

    objects = open_objects(directory, settings)
    if settings.objects_url:
        return found_in_store(directory, objects, settings), objects
    ledger_facts(directory, settings)
    return need_ledger(directory, objects), objects


def _apply(
    args: argparse.Namespace, settings: Settings, admin: TopicAdmin, ledger: Ledger, objects: ObjectStore
) -> Applied:
    from rlhf_audit_stores.kafka.registry import apply_subjects
    from rlhf_audit_trail.topic_acls import parse_grant, rights_of

    streams = ledger.genesis.partition_counts
    grants = [parse_grant(text, streams) for text in args.acl]
    schema_id = None
    registry = settings.open_registry()
    if registry is not None:
        with registry:
            schema_id = apply_subjects(registry)["Control"]
    return admin.apply(
        first_ticks=_ticks(args.directory, ledger, objects, schema_id),
        copies=args.replication,
        retention_hours=args.retention_hours,
        rights=rights_of(grants, settings.topic_prefix, streams),
    )


def _ticks(
    directory: Path, ledger: Ledger, objects: ObjectStore, schema_id: int | None
) -> Callable[[PartitionSettings, bytes], bytes]:
    """Messages of first ticks; keys and the global log are read when the first one is asked for."""
    from rlhf_audit_ledger.checkpoint import open_checkpoint
    from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
    from rlhf_audit_stores.kafka.wire import with_header
    from rlhf_audit_stores.keys import load_sealing_keys
    from rlhf_audit_trail.topic_admin import first_tick

    def message(settings: PartitionSettings, source_id: bytes) -> bytes:
        ticker = load_sealing_keys(directory / "keys").ticker
        data, _ = objects.get_versioned(GLOBAL_CHECKPOINT)
        head = open_checkpoint(data, ledger.genesis.log_key, ledger.global_origin).checkpoint
        now_us = time.time_ns() // 1000
        tick = first_tick(settings, source_id, ticker, now_us=now_us, global_size=head.size, global_root=head.root)
        return with_header(tick, schema_id=schema_id, record="Control")

    return message


def _go_on(directory: Path, settings: Settings, admin: TopicAdmin) -> Switched:
    from rlhf_audit_trail.local import LocalTrail
    from rlhf_audit_trail.source_switch import switch_to_kafka

    with LocalTrail(directory, vault_dir=settings.vault_dir, is_leaving=True) as trail:
        return switch_to_kafka(trail, admin.source_facts())


def _check_registry(settings: Settings) -> list[str]:
    from rlhf_audit_stores.kafka.registry import check_subjects

    registry = settings.open_registry()
    if registry is None:
        return []
    with registry:
        return check_subjects(registry)


def _show(
    args: argparse.Namespace, applied: Applied | None, switched: Switched | None, checked: Checked, subjects: list[str]
) -> None:
    problems = [(problem.where, problem.what) for problem in checked.problems]
    if args.json:
        shown: dict[str, object] = {
            "problems": [{"where": where, "what": what} for where, what in problems],
            "registry": subjects,
            "notes": list(checked.notes),
        }
        if applied is not None:
            shown |= {"created": applied.created, "changed": applied.changed, "begun": applied.begun}
        if switched is not None:
            shown["switched"] = {"now": switched.now, "before": switched.before, "unused": switched.unused}
        print(json.dumps(shown, indent=2))
        return
    if applied is not None:
        for name in applied.created:
            print(f"created  {name}")
        for name, values in applied.changed.items():
            print(f"changed  {name}: {', '.join(f'{key}={value}' for key, value in values.items())}")
        if applied.begun:
            print(f"begun    {len(applied.begun)} partitions, each with its first tick")
    if switched is not None:
        print(f"goes on  {len(switched.now)} partitions now, {len(switched.before)} before; {args.directory} ends here")
    for where, what in problems:
        print(f"WRONG    {where}: {what}")
    for what in subjects:
        print(f"WRONG    {what}")
    if not problems and not subjects:
        print("all topics are as they should be")
    for note in checked.notes:
        print(f"note: {note}", file=sys.stderr)
