"""The process that feeds the query copy and answers queries while a trail is written to.

``python -m rlhf_audit_trail.query_copy_process DIR --vault DIR [--port N]``

A process of its own, for three reasons: decoding rows and answering queries
would share one interpreter lock with sealing; the engine can take memory and
can crash; and it is nicer to others (``nice``), so that a client hammering it
costs sealing next to nothing.

Standard input is the line to whoever started it: a byte says that windows were
stored, its end says that no more will come. Then it catches up once and ends,
also if its parent was killed. What it missed it reads from the evidence.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_copy import Evidence, catch_up
from rlhf_audit_trail.settings import load_settings

if TYPE_CHECKING:
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink

logger = logging.getLogger(__name__)

_NICENESS = 10
_WAIT_FOR_ENGINE_S = 600.0  # an earlier process may still be catching up
_LOOK_S = 0.5
_RETRY_S = 2.0


def main(argv: list[str] | None = None) -> int:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--vault", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    os.environ["TZ"] = "UTC"
    os.nice(_NICENESS)
    os.umask(0o077)
    try:
        _serve(_stored(args.directory, args.vault), args.port)
    except (AuditTrailError, OSError) as error:
        logger.error("query copy ends: %s", error)
        return 3
    return 0


def _stored(directory: Path, vault: Path) -> StoredTrail:
    """Where the process that seals writes, whatever the settings say by now."""
    return StoredTrail(
        directory, FolderStore(directory / "objects"), FolderStore(vault, mode=0o600), load_settings(directory)
    )


def _serve(trail: StoredTrail, port: int) -> None:
    from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine, EngineBusyError
    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
    from rlhf_audit_trail.query_engine import ReadPool
    from rlhf_audit_trail.query_server import QueryServer

    try:
        engine = EmbeddedEngine(trail.directory, wait_s=_WAIT_FOR_ENGINE_S, should_stop=_is_over)
    except EngineBusyError as error:
        logger.info("%s: nothing to do here", error)
        return
    try:
        client = engine.client()
        sink = ClickHouseSink(client)
        pool = ReadPool(engine.data)
        server = QueryServer(engine.folder, pool, port=port)
        try:
            _feed(sink, trail)
        finally:
            server.close()
            pool.close()
            client.close()
    finally:
        engine.close()


def _feed(sink: ClickHouseSink, trail: StoredTrail) -> None:
    evidence: Evidence | None = None
    is_over, said = False, ""
    while True:
        pause_s = _LOOK_S
        try:
            if evidence is None:
                evidence = Evidence.of(trail)
            while catch_up(sink, evidence):
                pass
            said = ""
        except AuditTrailError as error:  # the ledger is not founded yet, the disk is full, a window is broken
            if str(error) != said:
                said = str(error)
                logger.warning("query copy pauses: %s", said)
            pause_s = _RETRY_S
        if is_over:
            return
        is_over = _is_over(pause_s)


def _is_over(timeout_s: float = 0.0) -> bool:
    """Wait for news; returns whether none will come any more."""
    ready, _, _ = select.select([0], [], [], timeout_s)
    return bool(ready) and os.read(0, 65536) == b""


if __name__ == "__main__":
    raise SystemExit(main())
