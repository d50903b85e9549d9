"""``rlhf-audit keys``: which keys a trail has, who may see them, and the lines to give away.

Private keys are files of mode 0600 and are never shown; a command that prints
one would put it into a terminal's memory and a shell's history.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, add_setting_flags, settings_of

HELP = "show a trail's public keys and where its private keys lie, or make them"
EXAMPLES = """\
rlhf-audit keys ./my-trail                 what is there and what each key is for
rlhf-audit keys ./my-trail --vkeys         the verifier lines alone: give them to whoever verifies
rlhf-audit keys ./my-trail --node-kit ./kit   what a training node needs to record for this ledger, and no more
rlhf-audit keys ./my-trail --create        make the keys before the first ingest, to move root.key offline early
"""

_PURPOSE = {
    "root.key": "signs the genesis once; move it offline and keep it",
    "log.key": "signs checkpoints; whoever has it can write another history",
    "ticker.key": "signs the ticks that close windows",
    "routing.key": "routes annotators to partitions; keep it secret, or names can be tested against partitions",
    "quarantine.key": "makes the salts of quarantined messages and vault records",
    "vault.key": "decrypts the payloads; give it to whoever may read them",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY, help="the trail's directory")
    parser.add_argument("--create", action="store_true", help="make the keys of a trail that has no ledger yet")
    parser.add_argument("--vkeys", action="store_true", help="print the verifier lines alone")
    parser.add_argument(
        "--node-kit", type=Path, metavar="FOLDER", help="write the folder that a training node elsewhere records into"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    add_setting_flags(parser, "objects_url")


def _write_node_kit(args: argparse.Namespace, node: Path) -> int:
    from rlhf_audit_stores.disk import RealDisk
    from rlhf_audit_trail.ledger_facts import known_facts
    from rlhf_audit_trail.node_kit import write_node_kit
    from rlhf_audit_trail.places import facts_in, open_objects

    directory: Path = args.directory
    settings = settings_of(args, directory)
    is_elsewhere = bool(settings.objects_url)
    facts = facts_in(directory, open_objects(directory, settings)) if is_elsewhere else known_facts(directory)
    write_node_kit(facts, directory, node, RealDisk())
    print(f"{node}: copy it to a training node; AuditCallback(FOLDER) records there, `rlhf-audit ship FOLDER` sends it")
    print("its routing.key is secret; none of its files signs or decrypts anything")
    return 0


def run(args: argparse.Namespace) -> int:
    from rlhf_audit_schemas.errors import ConfigError
    from rlhf_audit_stores.keys import PUBLIC_KEYS_FILE, create_keys, load_keys

    if args.node_kit is not None:
        return _write_node_kit(args, args.node_kit)
    folder: Path = args.directory / "keys"
    if args.create:
        if (args.directory / "objects" / "global").exists():
            raise ConfigError(f"{args.directory} holds a ledger already: new keys would not be those its genesis names")
        create_keys(folder)
    elif not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: `rlhf-audit ingest` or `keys --create` makes the keys of a trail")
    public = folder / PUBLIC_KEYS_FILE
    lines = public.read_text(encoding="ascii").splitlines() if public.exists() else []
    if args.vkeys:
        if not lines:
            raise ConfigError(f"{public} does not exist yet: the ledger's first ingest writes it")
        print("\n".join(lines))
        return 0
    keys = load_keys(folder)
    found = {name: (folder / name).exists() for name in _PURPOSE}
    signers = {"log.key": keys.log, "ticker.key": keys.ticker, "root.key": keys.offline_root}
    shown = {name: signer.public_key.hex() for name, signer in signers.items() if signer is not None}
    if args.json:
        rows = [
            {"file": str(folder / name), "here": found[name], "purpose": purpose, "public_key": shown.get(name)}
            for name, purpose in _PURPOSE.items()
        ]
        print(json.dumps({"keys": rows, "vkeys": lines}, indent=2))
        return 0
    for name, purpose in _PURPOSE.items():
        state = "0600" if found[name] else "not here"
        print(f"{name:<15} {state:<9} {purpose}")
    print(f"\nverifier lines ({public}): {len(lines)}")
    for line in lines[:2]:
        print(f"  {line}")
    if len(lines) > 2:
        print(f"  ... and one for each of {len(lines) - 2} partition logs (--vkeys prints all)")
    return 0
