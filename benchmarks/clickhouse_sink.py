"""The query copy: rows per second into ClickHouse, time until a row can be asked for, and what asking costs sealing.

    python benchmarks/clickhouse_sink.py [--events 200000] [--repeat 3] [--only PART ...]

* ``rows_per_s``: sealed windows of annotations through decode, Arrow and insert into the embedded engine, each stage
  apart; beside it the alternative, Avro with one container block per event that ClickHouse decodes itself, without
  ledger columns and without telling a body that does not decode exactly. ``restore``: the same windows read back from
  objects and vault first.
* ``seal_under_queries``: sealing with the query copy fed, without and with two clients that ask without a pause. Each
  round is A, B, A; its ratio is B over the mean of its As, its control the second A over the first. The bound is a
  tenth: the median ratio is at most 1.1. ``ratio_of_best`` takes the quickest of each: what else the machine does adds
  time and never takes any.
* ``event_to_row_s``: from ``append`` to the row in an answer, windows of one second.

Counts are compared in ClickHouse. Prints JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import machine

from rlhf_audit_ledger.batch import NO_BATCH, BatchBody, encode_batch
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_sinks.clickhouse.arrow import encode
from rlhf_audit_sinks.clickhouse.blocks import blocks_of
from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.partition import SealedWindow
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_ask import live_asker, rows_of
from rlhf_audit_trail.query_copy import Evidence, catch_up
from rlhf_audit_trail.query_copy_feed import QueryCopyFeed
from rlhf_audit_trail.query_server import read_address

BATCH, WARM_UP_S = 1024, 1.0
HAMMER = """
import base64, http.client, signal, sys
asked = 0
signal.signal(signal.SIGTERM, lambda *_: (print(asked, flush=True), sys.exit(0)))
address, password = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", int(address))
secret = base64.b64encode(b"default:" + password.encode()).decode()
query = b"SELECT annotator, count(), avg(score) FROM annotation GROUP BY annotator"
while True:
    connection.request("POST", "/", query, {"Authorization": "Basic " + secret})
    connection.getresponse().read()
    asked += 1
"""


def bodies_of(count: int) -> list[bytes]:
    """Bodies as an ingest makes them: digests, few annotators, no texts."""
    draw = random.Random(1)  # noqa: S311 - a workload that repeats
    codec = KINDS["annotation"].codec
    columns: dict[str, Any] = {name: [None] * count for name in codec.fields}
    columns |= {
        "salt": [draw.randbytes(16) for _ in range(count)],
        "ts_us": [1_760_000_000_000_000 + n for n in range(count)],
        "annotation_id": [f"j-{n}" for n in range(count)],
        "annotator": [f"rater{draw.randrange(40)}" for _ in range(count)],
        "item": [f"item-{n // 3}" for n in range(count)],
        "prompt_sha256": [draw.randbytes(32) for _ in range(count)],
        "response_sha256": [draw.randbytes(32) for _ in range(count)],
        "score": [float(draw.randrange(1, 6)) for _ in range(count)],
    }
    for name in ("ranking_sha256", "ranking_texts", "axis_names", "axis_values", "axis_labels"):
        columns[name] = [[]] * count
    return codec.encode_columns(columns, count)


def values(trail: LocalTrail, bodies: Sequence[bytes], producer: str) -> list[bytes]:
    """Source values of one lane."""
    known, previous, made = KINDS["annotation"], NO_BATCH, []
    for first in range(0, len(bodies), BATCH):
        body = BatchBody(
            ledger_id=trail.ledger_id,
            producer=producer,
            epoch=0,
            stream=known.stream,
            partition=0,
            first_seq=first,
            kind=known.number,
            schema=1,
            prev_batch=previous,
            open_key=None,
            enrolment=None,
            final=False,
            events=bodies[first : first + BATCH],
        )
        done = encode_batch(body, None)
        previous = done.digest
        made.append(done.value)
    return made


class Collector:
    """Keeps windows."""

    def __init__(self) -> None:
        self.windows: list[Sequence[Sealed]] = []

    def store(self, window: SealedWindow) -> None:
        """Keep it."""
        self.windows.append(window.sealed)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def sink_speed(folder: Path, bodies: Sequence[bytes], repeat: int) -> dict[str, int]:
    """Rows per second, best of the repeats."""
    windows = Collector()
    with LocalTrail(folder / "trail", sinks=[windows]) as trail:
        trail.append("annotations", 0, values(trail, bodies, "p"))
        trail.drain()
    best: dict[str, float] = {}
    for number in range(repeat):
        times = _stages(windows.windows) | _inserted(folder, number, windows.windows, bodies)
        for name, seconds in times.items():
            best[name] = min(best.get(name, seconds), seconds)
    return {name: round(len(bodies) / seconds) for name, seconds in best.items()}


def _stages(windows: Sequence[Sequence[Sealed]]) -> dict[str, float]:
    """Decode and Arrow apart, without the collector as the sink has it."""
    gc.disable()
    decode_s, found = timed(lambda: [blocks_of(window) for window in windows])
    arrow_s, _ = timed(lambda: [encode(block.batch) for each in found for block in each.blocks])
    gc.enable()
    return {"decode": decode_s, "arrow": arrow_s}


def _inserted(
    folder: Path, number: int, windows: Sequence[Sequence[Sealed]], bodies: Sequence[bytes]
) -> dict[str, float]:
    """The whole sink, the Avro alternative, and a restore, each into an engine of its own."""
    engine = EmbeddedEngine(folder / f"copy{number}")
    client = engine.client()
    sink = ClickHouseSink(client)
    sink_s, _ = timed(lambda: _store_all(sink, windows))
    assert _count(client) == len(bodies)
    client.command("CREATE TABLE audit.plain AS audit_restricted.annotation")
    avro_s, _ = timed(lambda: _avro(client, bodies))
    client.close()
    engine.close()
    engine = EmbeddedEngine(folder / f"restored{number}")
    client = engine.client()
    restored = ClickHouseSink(client)
    evidence = Evidence.of(StoredTrail.of(folder / "trail"))
    restore_s, _ = timed(lambda: catch_up(restored, evidence))
    assert _count(client) == len(bodies)
    client.close()
    engine.close()
    return {"sink": sink_s, "avro_container_per_event_insert_alone": avro_s, "restore": restore_s}


def _store_all(sink: ClickHouseSink, windows: Sequence[Sequence[Sealed]]) -> None:
    for window in windows:
        sink.store(window)


def _count(client: Any) -> int:
    return int(client.query("SELECT count() FROM audit_restricted.annotation").result_rows[0][0])


def _avro(client: Any, bodies: Sequence[bytes]) -> None:
    """The alternative: event bytes as they are, one Avro block each, decoded by ClickHouse; no ledger columns."""
    from rlhf_audit_schemas.codec import schema_bytes
    from rlhf_audit_schemas.strict_encoder import zigzag

    schema = schema_bytes("annotation/v1.avsc")
    sync = b"s" * 16
    head = b"Obj\x01\x02" + zigzag(11) + b"avro.schema" + zigzag(len(schema)) + schema + b"\x00" + sync
    block = head + b"".join(b"\x02" + zigzag(len(body)) + body + sync for body in bodies)
    client.raw_insert(
        "audit.plain",
        column_names=["annotation_id", "annotator", "item", "prompt_sha256", "response_sha256", "score"],
        insert_block=block,
        fmt="Avro",
        settings={"async_insert": 0, "input_format_avro_allow_missing_fields": 1},
    )


def seal_under_queries(folder: Path, bodies: Sequence[bytes], repeat: int) -> dict[str, Any]:
    """Seconds to seal the same events: A without clients, B with two, and A again, round by round."""
    times: dict[str, list[float]] = {"quiet": [], "hammered": [], "quiet_again": []}
    asked = 0
    for number in range(repeat):
        for name, found in times.items():
            seconds, answers = _seal(folder / f"{name}{number}", bodies, clients=2 if name == "hammered" else 0)
            found.append(seconds)
            asked += answers
    rounds = list(zip(times["quiet"], times["hammered"], times["quiet_again"], strict=True))
    ratios = [2 * hammered / (quiet + again) for quiet, hammered, again in rounds]
    controls = [again / quiet for quiet, _, again in rounds]
    return {
        "seconds": {name: [round(each, 3) for each in found] for name, found in times.items()},
        "events_per_s": {name: round(len(bodies) / statistics.median(found)) for name, found in times.items()},
        "queries_per_s": round(asked / (sum(times["hammered"]) + repeat * WARM_UP_S)),
        "ratio": [round(each, 3) for each in ratios],
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_of_best": round(min(times["hammered"]) / min(times["quiet"] + times["quiet_again"]), 3),
        "ratio_bound": 1.1,
        "control": [round(each, 3) for each in controls],
        "control_median": round(statistics.median(controls), 3),
    }


def _seal(folder: Path, bodies: Sequence[bytes], *, clients: int) -> tuple[float, int]:
    """Seconds to seal, and how many questions were answered meanwhile (and in the second before)."""
    feed = QueryCopyFeed(folder, folder / "vault")
    with LocalTrail(folder, sinks=[feed]) as trail:
        made = values(trail, bodies, "p")
        address = None
        while address is None:
            time.sleep(0.05)
            address = read_address(folder / "clickhouse")
        command = [sys.executable, "-c", HAMMER, str(address.port), address.password]
        hammers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
        time.sleep(WARM_UP_S)
        start = time.perf_counter()
        for first in range(0, len(made), 8):
            trail.append("annotations", 0, made[first : first + 8])
            trail.work()
        trail.drain()
        seconds = time.perf_counter() - start
        asked = 0
        for hammer in hammers:
            assert hammer.poll() is None, "a client ended before the sealing did"
            hammer.terminate()
            asked += int(hammer.communicate()[0])
        _wait_for_rows(folder, len(bodies))
    assert feed.close()
    return seconds, asked


def _wait_for_rows(folder: Path, count: int) -> None:
    asker = live_asker(folder)
    assert asker is not None
    while rows_of(asker, "SELECT count() AS n FROM annotation")[0]["n"] < count:
        time.sleep(0.01)
    assert rows_of(asker, "SELECT count() AS n FROM annotation")[0]["n"] == count
    asker.close()


def event_to_row(folder: Path, bodies: Sequence[bytes], tries: int) -> list[float]:
    """Seconds from ``append`` to the row in an answer, sorted."""
    feed = QueryCopyFeed(folder, folder / "vault")
    found = []
    with LocalTrail(folder, window_seconds=1, sinks=[feed]) as trail:
        made = values(trail, bodies[: BATCH * tries], "p")
        while (asker := live_asker(folder)) is None:
            time.sleep(0.05)
        for number in range(tries):
            start = time.perf_counter()
            trail.append("annotations", 0, [made[number]])
            while rows_of(asker, "SELECT count() AS n FROM annotation")[0]["n"] < BATCH * (number + 1):
                trail.work()
                trail.work_on_idle()
                time.sleep(0.02)
            found.append(round(time.perf_counter() - start, 2))
        asker.close()
    assert feed.close()
    return sorted(found)


PARTS: dict[str, Callable[[Path, Sequence[bytes], int], Any]] = {
    "rows_per_s": sink_speed,
    "seal_under_queries": seal_under_queries,
    "event_to_row_s": lambda folder, bodies, repeat: event_to_row(folder, bodies, 5 * repeat),
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    bodies = bodies_of(args.events)
    with tempfile.TemporaryDirectory() as name:
        result = {
            "benchmark": "clickhouse_sink",
            "machine": machine() | {each: version(each) for each in ("chdb-core", "clickhouse-connect", "pyarrow")},
            "events": args.events,
            "event_bytes": round(sum(map(len, bodies)) / len(bodies)),
        }
        for part in args.only:
            result[part] = PARTS[part](Path(name) / part, bodies, args.repeat)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
