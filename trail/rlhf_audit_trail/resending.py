"""Sending again what brokers had refused as too large, once their topic takes it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_producers.refused_batches import refused_batches
from rlhf_audit_producers.shipper_queue import Parcel
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_trail.ship_report import ShipReport
from rlhf_audit_trail.shipping import schema_ids, ship_queue

if TYPE_CHECKING:
    from rlhf_audit_trail.settings import Settings

_WAIT_S = 0.05


@dataclass(frozen=True, slots=True)
class Resent:
    """How many were acknowledged and left, are still too large, or were not answered for in time."""

    acknowledged: int
    refused: int
    unanswered: int


def resend(directory: Path, settings: Settings, report: ShipReport, *, drain_s: float) -> Resent:
    """Send every refused batch with the same bytes, in order; each leaves when all in-sync replicas have it.

    May run beside a shipper, and again: a batch that comes twice is byte for byte the same.
    """
    disk, spool = RealDisk(), directory / "spool"
    ids = schema_ids(directory, settings)
    queue = ship_queue(settings, report, on_refused=lambda parcel: None)
    parcels: list[tuple[Path, Parcel]] = []
    for one in refused_batches(disk, spool):
        place = (one.head.stream, one.head.partition)
        parcel = Parcel(b"", len(parcels), place, ids.header(one.value), None, time.monotonic())
        parcels.append((one.path, parcel))
        queue.put(parcel)
    deadline = time.monotonic() + drain_s
    try:
        while queue.records and time.monotonic() < deadline:
            queue.work(_WAIT_S)
            if not queue.has_client:
                time.sleep(_WAIT_S)  # otherwise the client was waited for
    finally:
        queue.abandon()
    acknowledged = [path for path, parcel in parcels if parcel.is_settled and not parcel.is_refused]
    for path in acknowledged:
        disk.unlink(path)
    if acknowledged:
        disk.sync_dir(acknowledged[0].parent)
    refused = sum(parcel.is_refused for _, parcel in parcels)
    return Resent(len(acknowledged), refused, len(parcels) - len(acknowledged) - refused)
