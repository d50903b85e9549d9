"""``rlhf-audit sequence``: publish what partitions have stored in the global log. One per ledger.

Runs until SIGTERM, and then publishes what is there. Status 0 told to stop, 1
somebody else publishes or what is stored does not fit, 2 a setting is wrong, 3
another one holds this directory, or it could not go on.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

HELP = "publish stored windows in the global log"
EXAMPLES = """\
rlhf-audit sequence my-trail                                     at most once a second, until Ctrl-C
rlhf-audit sequence my-trail --objects-url s3://audit/objects
rlhf-audit sequence my-trail --once                              what is there, then end
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="trail (default %(default)s)")
    add("--once", action="store_true", help="publish what is there and end")
    add("--take-over", action="store_true", help="go on where the last sequencer's machine is gone for good")
    add("--tied", action="store_true", help=argparse.SUPPRESS)
    add_setting_flags(parser, "objects_url", "metrics_host", "metrics_port")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_processors.sequencer import Sequencer
    from rlhf_audit_processors.sequencer_worker import SequencerWorker
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_stores.disk import RealDisk
    from rlhf_audit_stores.durable import FolderLock
    from rlhf_audit_stores.health import WorkerHealth
    from rlhf_audit_stores.keys import load_log_key
    from rlhf_audit_trail.places import need_ledger, open_objects
    from rlhf_audit_trail.sealing import told_to_stop
    from rlhf_audit_trail.sinking import all_partitions

    settings = settings_of(args, args.directory)
    should_stop = told_to_stop(is_tied=args.tied)
    spool = args.directory / "spool"
    with ExitStack() as stack:
        stack.enter_context(FolderLock(spool))
        objects = open_objects(args.directory, settings)
        ledger = need_ledger(args.directory, objects)
        signer = load_log_key(args.directory / "keys")
        if signer.public_key != ledger.genesis.log_key:
            raise ConfigError(f"{args.directory / 'keys' / 'log.key'} is not the key that this ledger's genesis names")
        health = WorkerHealth("sequence")
        stack.enter_context(health.serve(settings.metrics_port, settings.metrics_host))
        worker = SequencerWorker(
            Sequencer(objects, spool / "global.stage", RealDisk()),
            objects,
            all_partitions(ledger),
            signer=signer,
            origin=ledger.global_origin,
            health=health,
            is_taking_over=args.take_over,
        )
        if args.once:
            worker.open()
        else:
            worker.run(should_stop)
    return 0
