"""The loop around a shipper: who may ship, until when, and what is left at the end.

One per directory, and never beside a one-process runtime: both take the same
lock. Told to stop, it ships what was there at that moment, for at most
``drain_s`` seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_producers.shipper import Left, Shipper
from rlhf_audit_producers.shipper_client import client_maker
from rlhf_audit_producers.shipper_queue import Parcel, ShipQueue
from rlhf_audit_producers.spool_lock import acquire_drain, spools_have_work
from rlhf_audit_producers.spool_log import LedgerFacts
from rlhf_audit_producers.spool_state import spool_states
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_stores.kafka.registry import SchemaIds
from rlhf_audit_stores.kafka.topics import source_topic
from rlhf_audit_trail import __version__
from rlhf_audit_trail.ship_report import ShipReport

if TYPE_CHECKING:
    from rlhf_audit_trail.settings import Settings

logger = logging.getLogger(__name__)

DRAIN_S = 30.0
IDLE_S = 1.0  # a restarted rank comes back within this, or finds a new shipper
_WAIT_S = 0.05
_LOCK_AGAIN_S = 0.2
_SCHEMA_IDS = "schema_ids.json"


@dataclass(frozen=True, slots=True)
class ShipPlan:
    """``until_idle``: end when nobody records any more; ``drain``: ship what is there, then end."""

    until_idle: bool = False
    drain: bool = False
    drain_s: float = DRAIN_S


@dataclass(frozen=True, slots=True)
class ShipResult:
    """``has_run`` False: another process ships or seals here. ``left`` is what is not acknowledged."""

    has_run: bool
    left: tuple[Left, ...] = ()


def open_shipper(directory: Path, facts: LedgerFacts, settings: Settings, report: ShipReport) -> Shipper:
    """A shipper of ``directory``'s spools to the brokers of ``settings``; the caller holds the lock."""
    return Shipper(
        directory / "spool",
        facts,
        RealDisk(),
        lambda on_refused: ship_queue(settings, report, on_refused=on_refused),
        with_header=schema_ids(directory, settings).header,
        software=f"rlhf-audit-trail {__version__}",
        now_us=lambda: time.time_ns() // 1000,
        clock=time.monotonic,
    )


def ship_queue(settings: Settings, report: ShipReport, *, on_refused: Callable[[Parcel], None]) -> ShipQueue:
    """A queue to the brokers of the settings."""
    kafka = settings.need_kafka()
    return ShipQueue(
        client_maker(kafka, report.trouble),
        lambda stream: source_topic(kafka.topic_prefix, stream),
        time.monotonic,
        on_acknowledged=report.acknowledged,
        on_refused=on_refused,
        on_trouble=report.trouble,
    )


def schema_ids(directory: Path, settings: Settings) -> SchemaIds:
    """What goes in front of values; the registry is asked, if there is one."""
    ids = SchemaIds(directory / "spool" / _SCHEMA_IDS, settings.schema_registry_url or None)
    registry = settings.open_registry()
    if registry is not None:
        with registry:
            ids.ask(registry)
    return ids


def run_shipper(
    directory: Path,
    open_one: Callable[[], Shipper],
    plan: ShipPlan,
    report: ShipReport,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> ShipResult:
    """Ship until told to stop, or as the plan says."""
    spool = directory / "spool"
    make_folders_durably(RealDisk(), spool)
    deadline = time.monotonic() + plan.drain_s
    while True:
        lock = acquire_drain(spool)
        if lock is None:
            if not plan.drain:
                return ShipResult(False)
            left = left_in(spool)
            if not left or time.monotonic() >= deadline or should_stop():
                return ShipResult(False, left)
            time.sleep(_LOCK_AGAIN_S)  # whoever has it ships the same spools, and may have been told to stop
            continue
        try:
            left = _ship(directory, open_one(), plan, report, should_stop)
        finally:
            lock.release()
        # Whoever wrote its last record while we still held the lock relies on us: look once more without it.
        if should_stop() or not plan.until_idle or not spools_have_work(RealDisk(), spool):
            return ShipResult(True, left)


def _ship(
    directory: Path, shipper: Shipper, plan: ShipPlan, report: ShipReport, should_stop: Callable[[], bool]
) -> tuple[Left, ...]:
    idle_since: float | None = None
    deadline: float | None = None
    try:
        while (directory / "spool").exists():
            now = time.monotonic()
            if deadline is None and (plan.drain or should_stop()):
                shipper.begin_drain()
                deadline = now + plan.drain_s
            is_busy = shipper.turn(_WAIT_S)
            report.turned(shipper)
            if deadline is not None:
                if shipper.is_drained or now >= deadline:
                    break
            elif is_busy:
                idle_since = None
            else:
                idle_since = now if idle_since is None else idle_since
                if plan.until_idle and now - idle_since >= IDLE_S:
                    break
            if not shipper.queue.has_client:
                time.sleep(_WAIT_S)  # otherwise the client was waited for
    finally:
        shipper.close()
        report.turned(shipper)
    return tuple(shipper.left())


def left_in(spool: Path) -> tuple[Left, ...]:
    """What is not acknowledged, as far as a shipper has noted it."""
    return tuple(
        Left(one.producer, one.epoch, one.records, True)
        for one in spool_states(RealDisk(), spool)
        if not one.is_done and (one.records or not one.is_alive)
    )
