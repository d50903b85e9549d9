"""How far each spool is acknowledged, durably: ``shipped.json`` beside the spools.

::

    {"version": 1, "spools": {"<spool id, hex>": {"offset": n, "lanes": [[stream, partition, next_seq, ended], ...]}}}

Below ``offset`` all in-sync replicas have acknowledged every record; ``lanes``
are the heads of the producer's lanes there. Always behind the truth or equal
to it: after a crash what lies between is sent again, and the sealer knows
repeats. Replaced as a whole. A file that cannot be read costs repeats, no loss.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rlhf_audit_producers.recorder import LaneView
from rlhf_audit_producers.spool_following import Place
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import replace_file_durably

logger = logging.getLogger(__name__)

SHIPPED_FILE: Final = "shipped.json"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Shipped:
    """Position in one spool, and the lane heads at it."""

    offset: int = 0
    lanes: Mapping[Place, LaneView] = field(default_factory=dict)


class Positions:
    """The file, and what is newer in memory. One writer: the caller holds the right to drain."""

    def __init__(self, disk: Disk, spool: Path) -> None:
        self._disk, self._path = disk, spool / SHIPPED_FILE
        self._shipped = _safely_read(disk, self._path)
        self._is_dirty = False

    def of(self, spool_id: bytes) -> Shipped:
        """Where to go on in a spool."""
        return self._shipped.get(spool_id, Shipped())

    def note(self, spool_id: bytes, shipped: Shipped) -> None:
        """Everything below is acknowledged; durable after ``save``."""
        self._shipped[spool_id] = shipped
        self._is_dirty = True

    def forget(self, spool_id: bytes) -> None:
        """The spool is done: its producer's heads say so."""
        if self._shipped.pop(spool_id, None) is not None:
            self._is_dirty = True

    @property
    def is_dirty(self) -> bool:
        """Whether ``save`` would write anything."""
        return self._is_dirty

    def save(self) -> None:
        """Make everything noted durable."""
        if not self._is_dirty:
            return
        spools = {
            spool_id.hex(): {
                "offset": one.offset,
                "lanes": [
                    [view.stream, view.partition, view.epoch, view.next_seq, view.ended] for view in one.lanes.values()
                ],
            }
            for spool_id, one in self._shipped.items()
        }
        data = json.dumps({"version": _VERSION, "spools": spools}).encode("ascii")
        replace_file_durably(self._disk, self._path, data)
        self._is_dirty = False


def read_positions(disk: Disk, spool: Path) -> dict[bytes, Shipped]:
    """Positions as saved; for those who only look. Raises FormatError if the file is none of ours."""
    path = spool / SHIPPED_FILE
    if not disk.exists(path):
        return {}
    try:
        raw = json.loads(disk.read(path))
        if raw["version"] != _VERSION:
            raise FormatError(f"{path}: version {raw['version']}, known is {_VERSION}")
        return {bytes.fromhex(name): _shipped(one) for name, one in raw["spools"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: not the positions of spools") from error


def _shipped(raw: Mapping[str, Any]) -> Shipped:
    offset = raw["offset"]
    if type(offset) is not int or offset < 0:
        raise FormatError("a position is a whole number")
    views = [LaneView(*row) for row in raw["lanes"]]
    return Shipped(offset, {(view.stream, view.partition): view for view in views})


def _safely_read(disk: Disk, path: Path) -> dict[bytes, Shipped]:
    try:
        return read_positions(disk, path.parent)
    except FormatError as error:
        logger.error("%s: everything that is still spooled is sent once more", error)
        return {}
