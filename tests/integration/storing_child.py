"""Stores the windows of a trail into its query copy, until it is done or killed."""

from __future__ import annotations

import sys
from pathlib import Path

from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_copy import Evidence, catch_up


def main(trail: Path) -> None:
    """Say ``open`` once the tables are there; from then on any moment is one in mid-insert."""
    engine = EmbeddedEngine(trail)
    client = engine.client()
    sink = ClickHouseSink(client)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    catch_up(sink, Evidence.of(StoredTrail.of(trail)))
    client.close()
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
