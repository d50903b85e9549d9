"""``rlhf-audit verify``: re-check a trail from its bytes and a public key.

Everything is decided in ``rlhf_audit_auditor``; here are arguments, progress and words.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

if TYPE_CHECKING:
    from rlhf_audit_auditor.report import Report
    from rlhf_audit_trail.settings import Settings

HELP = "re-check every byte of a trail: 0 agrees, 1 contradicts, 3 could not check"
EXAMPLES = """\
rlhf-audit verify ./my-trail                                       shows that the trail agrees with itself
rlhf-audit verify ./my-trail --key kept.vkey --expect kept.checkpoint
rlhf-audit verify ./copy --vault-key vault.key --require complete,payload,fresh=1h
rlhf-audit verify ./my-trail --log-only --json                     leaves payloads out on purpose
rlhf-audit verify ./keys-and-no-more --objects-url s3://audit/trail --vault-url s3://vault/trail --key kept.vkey

the config.toml in DIR is not read: say where things lie by flags or the environment
DIR is a trail, or a folder that is or holds objects/ (and perhaps vault/)
the last checkpoint that was accepted is remembered for each ledger and must be extended the next time:
  in $RLHF_AUDIT_STATE, else $XDG_STATE_HOME/rlhf-audit, else ~/.local/state/rlhf-audit
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, metavar="DIR", help="default %(default)s")
    add("--key", type=Path, metavar="VKEY-FILE", help="public key from elsewhere; default: the trail's own word")
    add("--expect", type=Path, metavar="CHECKPOINT", help="global checkpoint known before, which must be extended")
    add("--vault-key", type=Path, metavar="FILE", help="key of the payloads; default: keys/vault.key of the trail")
    add("--vault", type=Path, metavar="DIR", help="folder of the payloads; default: vault/ in DIR")
    add("--log-only", action="store_true", help="leave payloads out on purpose")
    add("--require", default="", metavar="WHAT", help="complete,payload,witnessed,fresh=1h: what a pass must also mean")
    add("--no-memory", action="store_true", help="neither read nor write the remembered checkpoint")
    add("--jobs", type=int, metavar="N", help="processes (default: one per core for large trails)")
    add("--json", action="store_true", help="the whole report for machines")
    add_setting_flags(parser, "progress", "objects_url", "vault_url")


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_trail.verify_text import as_json, show

    # The trail's own config.toml is part of what is judged.
    report = check(args, settings_of(args, args.directory, reads_file=False))
    if args.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        show(report, sys.stdout)
    return report.exit_code


def check(args: argparse.Namespace, settings: Settings) -> Report:
    """Run the check that the arguments ask for; the settings say where objects and vault lie, if in buckets."""
    from rlhf_audit_auditor.memory import default_memory
    from rlhf_audit_auditor.requirements import parse_requirements
    from rlhf_audit_auditor.verify import Options, count_entries, verify
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_trail.places import evidence_of
    from rlhf_audit_trail.progress import track

    require = parse_requirements(args.require)
    if args.log_only and require.payload:
        raise ConfigError("--log-only leaves payloads out, --require payload asks for them: choose one")
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError("--jobs: expected at least 1")
    try:
        expect = None if args.expect is None else args.expect.read_bytes()
    except OSError as error:
        raise ConfigError(f"--expect {args.expect}: {error.strerror}") from error
    trail = evidence_of(
        args.directory,
        settings,
        vkey_file=args.key,
        vault=args.vault,
        vault_key_file=None if args.log_only else args.vault_key,
    )
    with track(count_entries(trail.objects), "verifying", "entries", mode=settings.progress) as meter:
        options = Options(
            expect=expect,
            memory=None if args.no_memory else default_memory(os.environ),
            log_only=args.log_only,
            require=require,
            jobs=args.jobs or os.cpu_count() or 1,
            now_us=time.time_ns() // 1000,
            progress=meter.advance,
        )
        return verify(trail, options)
