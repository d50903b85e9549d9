"""``rlhf-audit config``: the settings in force and where each one came from.

Shows what the commands would use in this environment with this trail; it writes
nothing and never shows a key.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, KEYS, add_setting_flags, settings_of

HELP = "show every setting and where its value came from"
EXAMPLES = """\
rlhf-audit config --show                           the settings for ./rlhf-audit
RLHF_AUDIT_BATCH_EVENTS=256 rlhf-audit config --show ./my-trail
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, help="the trail's directory")
    parser.add_argument("--show", action="store_true", help="show the settings (what this command does anyway)")
    parser.add_argument("--json", action="store_true", help="for machines")
    add_setting_flags(parser, *KEYS)


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args, args.directory)
    rows = {name: (_shown(getattr(settings, name)), settings.origins[name]) for name in KEYS}
    if args.json:
        shown = {name: {"value": value, "origin": origin} for name, (value, origin) in rows.items()}
        print(json.dumps({"directory": str(args.directory), "settings": shown}, indent=2))
        return 0
    values = {name: str(value) for name, (value, _) in rows.items()}
    name_width, value_width = max(map(len, values)), max(map(len, values.values()))
    for name, value in values.items():
        print(f"{name:<{name_width}}  {value:<{value_width}}  {rows[name][1]}")
    return 0


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={count}" for name, count in value.items())
    return str(value) if isinstance(value, Path) else value
