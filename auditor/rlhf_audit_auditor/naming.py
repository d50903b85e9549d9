"""Every object explained: by a rule of the format, by the pending tail, or a finding.

Names are judged by arithmetic on what the logs say of themselves, one at a
time, so nothing is held. What a rule explains was compared byte for byte by the
pass over its log; partial tiles and bundles of earlier sizes, which no
checkpoint needs, are compared here: they are prefixes of what grew from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf_audit_auditor.evidence import Below, Evidence
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.partition_result import PartitionResult
from rlhf_audit_auditor.rebuild import is_beyond
from rlhf_audit_ledger.objects import GLOBAL_PREFIX, log_prefix, parse_segment_name, parse_vault_name
from rlhf_audit_ledger.tiles import TILE_HEIGHT, TILE_WIDTH, TileRef, parse_path
from rlhf_audit_stores.durable import is_temporary

_LOG = re.compile(r"logs/([a-z]+)/(0|[1-9][0-9]*)/(.+)")

Partitions = Mapping[tuple[str, int], PartitionResult]


@dataclass(slots=True)
class Sizes:
    """Objects seen and their bytes."""

    objects: int = 0
    bytes: int = 0
    temporary: int = 0

    def see(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


def check_names(
    objects: Evidence, global_size: int, pending_global: int, partitions: Partitions, findings: Findings
) -> Sizes:
    """Look at every name below ``objects/``."""
    seen = Sizes()
    for info in objects.list(""):
        if is_temporary(info.name.rpartition("/")[2]):
            seen.temporary += 1
            continue
        seen.see(info.size)
        if info.name.startswith(f"{GLOBAL_PREFIX}/"):
            log = Below(objects, f"{GLOBAL_PREFIX}/")
            _check_log_object(log, info.name.removeprefix(log.prefix), global_size, pending_global, findings)
        elif match := _LOG.fullmatch(info.name):
            result = partitions.get((match[1], int(match[2])))
            if result is not None and result.is_cut_short:
                continue
            if result is None or not result.is_used:
                _unexplained(info.name, findings)
                continue
            log = Below(objects, f"{log_prefix(match[1], int(match[2]))}/")
            _check_log_object(log, match[3], result.size, result.pending_size, findings)
        elif not _is_segment_explained(info.name, partitions):
            _unexplained(info.name, findings)
    return seen


def check_vault_names(vault: Evidence, partitions: Partitions, findings: Findings) -> Sizes:
    """Look at every name below ``vault/``."""
    seen = Sizes()
    for info in vault.list(""):
        if is_temporary(info.name.rpartition("/")[2]):
            seen.temporary += 1
            continue
        seen.see(info.size)
        ref = parse_vault_name(info.name)
        result = None if ref is None else partitions.get((ref.stream, ref.partition))
        if result is not None and result.is_cut_short:
            continue
        if ref is None or result is None:
            _unexplained(f"vault/{info.name}", findings)
        elif ref.generation:
            message = "a generation that this version does not know: nothing seals erasures yet"
            findings.add("vault", message, window=ref.window, obj=f"vault/{info.name}")
        elif ref.window >= result.windows + result.has_pending_vault:
            _unexplained(f"vault/{info.name}", findings)
    return seen


def _is_segment_explained(name: str, partitions: Partitions) -> bool:
    ref = parse_segment_name(name)
    result = None if ref is None else partitions.get((ref.stream, ref.partition))
    if ref is None or result is None:
        return False
    return result.is_cut_short or ref.window < result.windows + result.has_pending_segment


def _check_log_object(log: Below, path: str, size: int, pending: int, findings: Findings) -> None:
    if path == "checkpoint":
        return  # read and judged with its log; a folder without one is judged there too
    ref = parse_path(path)
    name = log.prefix + path
    if ref is None:
        _unexplained(name, findings)
        return
    if is_beyond(path, size):
        if not _belongs(ref, pending):
            _unexplained(name, findings)
    elif not _belongs(ref, size):
        _check_stale(log, ref, max(size, pending), findings)


def _belongs(ref: TileRef, size: int) -> bool:
    """Whether a log of this size has exactly this object."""
    hashes = size >> TILE_HEIGHT * (ref.level or 0)
    return ref.width == min(TILE_WIDTH, hashes - ref.index * TILE_WIDTH)


def _check_stale(log: Below, ref: TileRef, size: int, findings: Findings) -> None:
    """A partial object of an earlier size must begin what the log has in its place now."""
    hashes = size >> TILE_HEIGHT * (ref.level or 0)
    width = min(TILE_WIDTH, hashes - ref.index * TILE_WIDTH)
    stored = log.get(ref.path)
    whole = log.get(TileRef(ref.level, ref.index, width).path)
    if stored is None or whole is None:
        return  # the missing whole is a finding of its log; a stale one may go at any time
    if not whole.startswith(stored) or not _is_whole(ref, stored):
        findings.add(
            "tile", "a partial object of an earlier size that the log does not begin with", obj=log.prefix + ref.path
        )


def _is_whole(ref: TileRef, data: bytes) -> bool:
    """Whether the bytes hold as many hashes or entries as the name says."""
    if ref.level is not None:
        return len(data) == ref.width * 32
    at = 0
    for _ in range(ref.width):
        at += 2 + int.from_bytes(data[at : at + 2], "big")
    return at == len(data)


def _unexplained(name: str, findings: Findings) -> None:
    findings.add("unexplained", "no rule explains this object", obj=name)
