"""What a training node is given so that it can record for a ledger that lives elsewhere: one small folder.

::

    NODE/ledger.json        which ledger, and how many partitions each stream has
    NODE/keys/routing.key   which partition an annotator belongs to; secret, 0600
    NODE/config.toml        brokers and the like, as the trail's own, if it has one

    NODE/spool/node.id      made there at the first start, never copied: 8 hex digits

Epochs are taken on a node's own disk, so two nodes would both call themselves
``<run>/3`` epoch 0 when a rank moves, and a sealer would take the second one's
events for repeats of the first one's. So a rank of a kit has its node in its name.

No key that signs and none that decrypts is in it: a node that was taken over
can say false things under its own name, and change nothing of what is sealed.
"""

from __future__ import annotations

import json
import re
import secrets
from contextlib import suppress
from pathlib import Path

from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import (
    AlreadyStoredError,
    create_file_durably,
    is_temporary,
    make_folders_durably,
    write_file_durably,
)
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_trail.settings import CONFIG_FILE

LEDGER_FILE = "ledger.json"
_NODE_FILE = "node.id"
_ROUTING = "routing.key"
_MARK_BYTES = 4  # ranks that moved from one node to another under the same mark: one in four thousand million
_LEDGER_ID_BYTES = 16


def write_node_kit(facts: LedgerFacts, trail: Path, node: Path, disk: Disk) -> None:
    """Write the folder ``node`` for the ledger of ``trail``. Raises ConfigError if a kit of another ledger is there."""
    if disk.exists(node / LEDGER_FILE):
        if read_node_kit(node, disk) != facts:
            raise ConfigError(f"{node} is the kit of another ledger: name another folder")
        return
    keys = node / "keys"
    if disk.exists(keys) and {one.name for one in disk.list_dir(keys) if not is_temporary(one.name)} - {_ROUTING}:
        raise ConfigError(f"{node} has keys of its own, so it is no training node's folder: name another one")
    make_folders_durably(disk, keys)
    with suppress(AlreadyStoredError):  # an earlier call was cut short
        create_file_durably(disk, keys / _ROUTING, facts.routing_key.hex().encode("ascii") + b"\n")
    if bytes(load_secret(keys / _ROUTING)) != facts.routing_key:
        raise ConfigError(f"{keys / _ROUTING} is the key of another ledger: name another folder")
    if disk.exists(trail / CONFIG_FILE):
        write_file_durably(disk, node / CONFIG_FILE, disk.read(trail / CONFIG_FILE))
    known = {"ledger_id": facts.ledger_id.hex(), "partitions": dict(facts.partitions)}
    write_file_durably(disk, node / LEDGER_FILE, json.dumps(known, indent=2).encode("ascii") + b"\n")


def read_node_kit(node: Path, disk: Disk) -> LedgerFacts | None:
    """Facts of the ledger that this node records for; None if the folder is no kit."""
    path = node / LEDGER_FILE
    if not disk.exists(path):
        return None
    try:
        known = json.loads(disk.read(path))
        ledger_id = bytes.fromhex(known["ledger_id"])
        partitions = {str(stream): int(count) for stream, count in known["partitions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not describe a ledger: make the kit again") from error
    if len(ledger_id) != _LEDGER_ID_BYTES or not partitions or min(partitions.values()) < 1:
        raise ConfigError(f"{path} does not describe a ledger: make the kit again")
    return LedgerFacts(ledger_id, bytes(load_secret(node / "keys" / "routing.key")), partitions)


def producer_on(node: Path, producer: str, disk: Disk) -> str:
    """Name of a producer that records in this folder: ``<run>/<rank>@<node>`` where the folder is a kit."""
    if not disk.exists(node / LEDGER_FILE):
        return producer
    path = node / "spool" / _NODE_FILE
    with suppress(AlreadyStoredError):
        create_file_durably(disk, path, secrets.token_hex(_MARK_BYTES).encode("ascii"))
    mark = disk.read(path).decode("ascii", "replace")
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _MARK_BYTES}}}", mark):
        raise ConfigError(f"{path} does not hold {2 * _MARK_BYTES} hex digits: remove it, and a new one is made")
    return f"{producer}@{mark}"
