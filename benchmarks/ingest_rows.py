"""How many rows per second pass each stage of the ingest on one core, up to the recorder (sealing is not in it).

    python benchmarks/ingest_rows.py [--rows 200000] [--repeat 3]

Stages: read (blocks into records), parse (JSON into rows), map (columns and
digests), encode (Avro), batch (lanes, signatures), and the whole ingest into a
recorder in memory, duplicate checks and owner warnings included. Baselines of
the same run: SHA-256 of the file and ``json.loads`` of every line. CPU time,
best of the repeats; every stage's output is counted. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.batches import ProducerSession
from rlhf_audit_producers.ingest import Recording, ingest_file
from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.layout import Sniffed, sniff
from rlhf_audit_producers.mapping import Mapping
from rlhf_audit_producers.mapping_text import from_flags
from rlhf_audit_producers.memory_recorder import MemoryRecorder
from rlhf_audit_producers.owner_warnings import OwnerObserver
from rlhf_audit_producers.preparing import SALT_BYTES
from rlhf_audit_producers.records import raw_chunks
from rlhf_audit_producers.row_chunks import parse
from rlhf_audit_producers.rows import RowMapper
from rlhf_audit_schemas.codec import Constant

FIELDS = "annotation_id=id,annotator=rater,judged_at=ts,item=item,prompt=prompt,response=response,score=score"
SIGNER = SeedSigner(bytes(32))


def write_rows(path: Path, rows: int) -> None:
    """Short rows, the same in every run: 40 annotators, three judgements an item."""
    draw = random.Random(1)  # noqa: S311 - a workload that repeats
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {
                "id": f"j-{number}",
                "rater": f"rater{draw.randrange(40)}",
                "ts": 1_723_509_980_026 + number * 713,
                "item": f"item-{number // 3}",
                "prompt": f"Which of these is a better answer to question {number // 3}?",
                "response": f"It is answer number {draw.randrange(10**9)}, of course.",
                "score": draw.randrange(1, 6),
            }
            file.write(json.dumps(row) + "\n")


def stages(source: InputFile, sniffed: Sniffed, mapping: Mapping) -> dict[str, float]:
    """CPU seconds of every stage, taken chunk by chunk in one pass."""
    spent = dict.fromkeys(("read", "parse", "map", "observe", "encode", "batch"), 0.0)
    mapper, observer = RowMapper(mapping, sniffed, source.sha256), OwnerObserver()
    session = ProducerSession(
        MemoryRecorder(), producer="ingest/0", epoch=0, signer=SIGNER, batch_events=1024, now_us=lambda: 0
    )

    def timed(stage: str, act: Callable[..., Any], *arguments: Any) -> Any:
        before = time.process_time()
        result = act(*arguments)
        spent[stage] += time.process_time() - before
        return result

    chunks = raw_chunks(source.blocks())
    while (raw := timed("read", next, chunks, None)) is not None:
        rows = timed("parse", parse, raw, sniffed.layout)
        mapped = timed("map", mapper.map, rows)
        timed("observe", observer.observe, mapped)
        salts = os.urandom(SALT_BYTES * mapped.count)
        columns = {
            **mapped.columns,
            "salt": [salts[at : at + SALT_BYTES] for at in range(0, len(salts), SALT_BYTES)],
            "ts_us": Constant(1_760_000_000_000_000),
        }
        events = timed("encode", mapper.kind.codec.encode_columns, columns, mapped.count)
        timed("batch", session.record, "annotations", 0, mapper.kind, events)
    return spent


def whole(source: InputFile, sniffed: Sniffed, mapping: Mapping, rows: int) -> float:
    """CPU seconds of the ingest into memory; asserts that every row arrived."""
    recorder = MemoryRecorder()
    process = Recording(SIGNER, 1024, "benchmark", lambda: time.time_ns() // 1000, os.urandom)
    before = time.process_time()
    report = ingest_file(source, sniffed, mapping, recorder, process)
    spent = time.process_time() - before
    assert report.events["annotation"] == rows
    assert sum(n for (_, _, kind), n in recorder.delivered(report.producer).items() if kind == "annotation") == rows
    return spent


def baselines(path: Path) -> dict[str, float]:
    data = path.read_bytes()
    before = time.process_time()
    hashlib.sha256(data).digest()
    hashed = time.process_time()
    for line in data.splitlines():
        json.loads(line)
    return {"sha256 of the file": hashed - before, "json.loads per line": time.process_time() - hashed}


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = found[0].partition(":")[2].strip() if found else model
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    packages = {name: version(name) for name in ("cryptography", "fastavro", "orjson")}
    return {"cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0], "commit": commit} | packages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, args.rows)
        for _ in range(args.repeat):
            with InputFile(path) as source:
                source.hash()
                sniffed, mapping = sniff(source), from_flags(maps=[FIELDS])
                spent = stages(source, sniffed, mapping)
                spent |= {"whole": whole(source, sniffed, mapping, args.rows)} | baselines(path)
            best = {name: min(seconds, best.get(name, seconds)) for name, seconds in spent.items()}
        size = path.stat().st_size
    result = {
        "benchmark": "ingest_rows",
        "parameters": {"rows": args.rows, "bytes": size, "repeat": args.repeat},
        "machine": machine(),
        "rows_per_second": {name: round(args.rows / max(seconds, 1e-9)) for name, seconds in best.items()},
        "us_per_row": {name: round(seconds / args.rows * 1e6, 2) for name, seconds in best.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
