"""The global log: the ledger's table of contents, read first because it says what else there must be.

1. The checkpoint says how long the log is; where it cannot be read, its bundles do, so that one fault hides no other.
2. Leaf 0 is the genesis, leaf 1 the root key's signature over it; they name the ledger, its key and its partitions.
3. The log is built again and compared byte for byte; its root is the signed one.
4. Every further leaf is the checkpoint of a partition that the genesis names (what it says is for that partition).
5. Roots at earlier sizes are noted on the way: a checkpoint known before must be one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rlhf_audit_auditor.evidence import Below, Evidence
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.log_reader import LogGapError, LogReader
from rlhf_audit_auditor.rebuild import Rebuild
from rlhf_audit_auditor.signed import LogKey, read_statement
from rlhf_audit_ledger.checkpoint import Checkpoint
from rlhf_audit_ledger.genesis import Genesis, ledger_id, verify_genesis
from rlhf_audit_ledger.globallog import genesis_of, is_checkpoint, signature_of
from rlhf_audit_ledger.ids import global_origin, log_origin
from rlhf_audit_ledger.merkle import leaf_hashes, node_hash
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT, GLOBAL_PREFIX
from rlhf_audit_ledger.tiles import TILE_WIDTH, TileError, TileReader, parse_path
from rlhf_audit_schemas.errors import FormatError, TamperError
from rlhf_audit_schemas.kinds import shipped_schemas

_LEAVES_BEFORE_CHECKPOINTS = 2


@dataclass(slots=True)
class GlobalLog:
    """What the global log says. ``statement`` None: no checkpoint of it could be opened."""

    genesis_bytes: bytes
    genesis: Genesis
    ledger_id: bytes
    key: LogKey
    checkpoint: bytes | None
    statement: Checkpoint | None
    size: int
    root: bytes = b""
    roots: dict[int, bytes] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return global_origin(self.genesis.log_name, self.ledger_id)


def log_below(objects: Evidence) -> Below:
    """The folder of the global log."""
    return Below(objects, f"{GLOBAL_PREFIX}/")


def stored_size(log: Below) -> int:
    """Entries that the stored bundles hold, complete or not."""
    size = 0
    for info in log.list("tile/entries/"):
        ref = parse_path(info.name)
        if ref is not None:
            size = max(size, ref.index * TILE_WIDTH + ref.width)
    return size


def open_global(objects: Evidence, public_key: bytes | None, findings: Findings) -> GlobalLog | None:
    """Steps 1 and 2. None, with a finding, if there is no telling which ledger this is."""
    log = log_below(objects)
    data = log.get("checkpoint")
    claimed = None if data is None else read_statement(data)
    size = 0 if claimed is None else claimed.size
    leaves = _first_leaves(log, size)
    if leaves is None:
        size = stored_size(log)
        leaves = _first_leaves(log, size)
    if leaves is None:
        findings.add("global_log", "the genesis cannot be read", obj=f"{log.prefix}tile/entries/000")
        return None
    where = f"{GLOBAL_PREFIX}/tile/entries/000"
    try:
        genesis_bytes = genesis_of(leaves[0])
        genesis = Genesis.decode(genesis_bytes)
        verify_genesis(genesis_bytes, signature_of(leaves[1]), genesis.root_key)
    except (FormatError, TamperError) as error:
        findings.add("genesis", str(error), obj=where)
        return None
    if public_key is not None and public_key != genesis.log_key:
        findings.add("genesis", "names another log key than the one given", obj=where)
    key = LogKey(public_key or genesis.log_key, genesis.keys_of("cosigner"))
    view = GlobalLog(genesis_bytes, genesis, ledger_id(genesis_bytes), key, data, None, size)
    if data is None:
        findings.add("checkpoint", "is missing", obj=GLOBAL_CHECKPOINT)
    else:
        view.statement = key.open(data, view.origin, findings, obj=GLOBAL_CHECKPOINT)
        if view.statement is not None and view.statement.size != size:
            message = f"signs size {view.statement.size}, the stored bundles end at {size}"
            findings.add("checkpoint", message, obj=GLOBAL_CHECKPOINT)
    return view


def _first_leaves(log: Below, size: int) -> list[bytes] | None:
    """Genesis and its signature, None where a log of this size cannot be read."""
    try:
        return LogReader(log, size).slice(0, _LEAVES_BEFORE_CHECKPOINTS)
    except LogGapError:
        return None


def check_global(objects: Evidence, view: GlobalLog, sizes: Sequence[int], findings: Findings) -> None:
    """Steps 3 to 5; ``sizes`` are those of checkpoints known before. Roots at them come to stand in ``view.roots``."""
    log = log_below(objects)
    rebuild = Rebuild(log, view.size, findings)
    origins = {
        log_origin(view.genesis.log_name, view.ledger_id, stream, number)
        for stream, count in view.genesis.partition_counts.items()
        for number in range(count)
    }
    wanted = sorted(size for size in set(sizes) if 0 < size <= view.size)
    reader = LogReader(log, view.size)
    try:
        for entries in reader:
            _check_entries(entries, rebuild.size, origins, findings)
            leaves = leaf_hashes(entries)
            taken = 0
            while wanted and wanted[0] <= rebuild.size + len(entries) - taken:
                upto = taken + wanted[0] - rebuild.size
                rebuild.append(entries[taken:upto], leaves[taken:upto])
                taken = upto
                view.roots[wanted.pop(0)] = rebuild.root()
            rebuild.append(entries[taken:], leaves[taken:])
    except LogGapError as error:
        findings.add("tile", f"{error.reason}; the global log cannot be read from here on", obj=error.object)
        return
    rebuild.compare_partials()
    view.root = rebuild.root()
    if view.statement is not None and view.statement.size == view.size and view.statement.root != view.root:
        message = f"signed root {view.statement.root.hex()}, the entries give {view.root.hex()}"
        findings.add("checkpoint", message, obj=GLOBAL_CHECKPOINT)


def _check_entries(entries: Sequence[bytes], first: int, origins: set[str], findings: Findings) -> None:
    for index, entry in enumerate(entries, first):
        if index < _LEAVES_BEFORE_CHECKPOINTS:
            continue
        if not is_checkpoint(entry):
            findings.add("global_log", f"leaf {index} is no checkpoint, and nothing else this version knows")
            continue
        origin = entry[: entry.find(b"\n")].decode("utf-8", "replace")
        if origin not in origins:
            findings.add("global_log", f"leaf {index} is the checkpoint of a log that the genesis does not name")


def checkpoints_of(objects: Evidence, size: int, origin: str) -> Iterator[tuple[int, bytes]]:
    """(leaf index, checkpoint) of one partition in publication order, as far as the log can be read."""
    head = origin.encode() + b"\n"
    first = 0
    try:
        for entries in LogReader(log_below(objects), size):
            for index, entry in enumerate(entries, first):
                if entry.startswith(head):
                    yield index, entry
            first += len(entries)
    except LogGapError:
        return  # the pass over the global log has said so


class RootAt:
    """Roots of the global log at earlier sizes, made from its tiles."""

    def __init__(self, objects: Evidence, size: int) -> None:
        self.size = size
        self._reader = TileReader(size, log_below(objects).get)

    def __call__(self, size: int) -> bytes | None:
        """Root at a size from 1 to that of the log; None if tiles are missing."""
        hashes, begin = [], 0
        try:
            for level in range(size.bit_length() - 1, -1, -1):
                if size >> level & 1:
                    hashes.append(self._reader.hash_at(level, begin >> level))
                    begin += 1 << level
        except TileError:
            return None
        root = hashes.pop()
        while hashes:
            root = node_hash(hashes.pop(), root)
        return root


def check_schemas(view: GlobalLog, findings: Findings) -> None:
    """The schema files of this version are those that the genesis names; others cannot be read here."""
    shipped = {(kind, version): digest for kind, version, digest in shipped_schemas()}
    for entry in view.genesis.schemas:
        known = shipped.get((entry.kind, entry.schema))
        name = f"kind 0x{entry.kind:04x} version {entry.schema}"
        if known is None:
            findings.note(f"schema of {name} is not shipped with this version: its events are hashed, not read")
        elif known != entry.sha256:
            findings.add("schema", f"{name}: the genesis names {entry.sha256.hex()}, this version ships {known.hex()}")
