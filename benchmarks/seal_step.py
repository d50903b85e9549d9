"""Events per second through the pure seal step, the store side of it, and the hashing both rest on.

    python benchmarks/seal_step.py [--events 400000] [--repeat 3]

Events of 200 bytes in batches of 1,024, one partition, one core. Baselines of
the same run: raw hashlib over the same events, and ``cp`` of the stored
objects. What was sealed is checked by folding it again. Prints JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from machine import machine

from rlhf_audit_ledger.batch import NO_BATCH, BatchBody, encode_batch
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.fold import fold
from rlhf_audit_ledger.genesis import DEFAULT_PARTITIONS, Genesis, KeyRole, SchemaEntry, StreamSettings, ledger_id
from rlhf_audit_ledger.merkle import CompactRange, leaf_hashes
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.seal import Sealed, Sealer, seal
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_ledger.tiles import Edge
from rlhf_audit_schemas.kinds import shipped_schemas
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.objects import FolderStore

EVENT_BYTES, BATCH = 200, 1024
ROOT, LOG, TICKER, LANE = (SeedSigner(bytes([n]) * 32) for n in range(1, 5))


def sealer() -> tuple[Sealer, bytes]:
    """A sealer of annotations/0 and its ledger id."""
    genesis = Genesis(
        log_name="bench.local",
        nonce=bytes(32),
        ts_us=1,
        root_key=ROOT.public_key,
        log_key=LOG.public_key,
        signers=(KeyRole("ticker", TICKER.public_key),),
        streams=tuple(StreamSettings(name, count, 10_000_000) for name, count in DEFAULT_PARTITIONS.items()),
        schemas=tuple(SchemaEntry(*entry) for entry in shipped_schemas()),
    ).encode()
    return Sealer(partition_settings(genesis, "annotations", 0), bytes(32), LOG), ledger_id(genesis)


def batches(ledger: bytes, events: list[bytes], count: int) -> list[bytes]:
    """Source values of ``count`` batches of one lane; the same events again and again, under other numbers."""
    values, previous = [], NO_BATCH
    for number in range(count):
        key = LANE.public_key if number == 0 else None
        body = BatchBody(
            ledger, "bench/0", 0, "annotations", 0, number * BATCH, 0x0101, 1, previous, key, None, False, events
        )
        encoded = encode_batch(body, LANE)
        values.append(encoded.value)
        previous = encoded.digest
    return values


def cpu(act: object) -> tuple[float, object]:
    """CPU seconds of a call and its result."""
    before = time.process_time()
    result = act()  # type: ignore[operator]  # any callable without arguments
    return time.process_time() - before, result


def one_round(count: int, place: Path) -> dict[str, float]:
    """Events per CPU second of each stage."""
    sealing, ledger = sealer()
    events = [os.urandom(EVENT_BYTES) for _ in range(BATCH)]
    total = count * BATCH
    encode_s, values = cpu(lambda: batches(ledger, events, count))
    assert isinstance(values, list)
    raw_s, _ = cpu(lambda: [hashlib.sha256(event).digest() for _ in range(count) for event in events])
    leaves = leaf_hashes(events)
    tree_s, _ = cpu(lambda: [CompactRange().extend(leaves) for _ in range(count)])

    def run() -> tuple[SealState, list[Sealed]]:
        state, sealed = first_state(sealing.settings, bytes(16)), []
        for offset, value in enumerate(values):
            state, one = seal(sealing, state, SourceMessage(offset, offset * 1000, value))
            sealed.append(one)
        return state, sealed

    seal_s, result = cpu(run)
    assert isinstance(result, tuple)
    state, sealed = result

    def again() -> SealState:
        now = first_state(sealing.settings, bytes(16))
        for one in sealed:
            now = fold(sealing.settings, now, one.record, lambda _, one=one: one.event_entries)[1].state  # type: ignore[misc]
        return now

    fold_s, folded = cpu(again)
    assert folded == state, "what was sealed does not fold to the same state"
    sink = EvidenceSink(
        sealing.settings,
        objects=FolderStore(place / "objects"),
        vault=FolderStore(place / "vault"),
        vault_key=bytes(32),
        edge=Edge.empty(),
        version=None,
    )
    ends = [at for at, one in enumerate(sealed) if one.close is not None]
    stored = (ends[-1] + 1) * BATCH

    def store() -> None:
        start = 0
        for end in ends:
            sink.store(sealed[start : end + 1])
            start = end + 1

    began = time.perf_counter()
    store_cpu, _ = cpu(store)
    store_s = time.perf_counter() - began
    began = time.perf_counter()
    for name in ("objects", "vault"):
        subprocess.run(["cp", "-r", str(place / name), str(place / f"copy of {name}")], check=True)
    copy_s = time.perf_counter() - began
    return {
        "hashlib one SHA-256 per event": total / raw_s,
        "Merkle nodes alone": total / tree_s,
        "encode and sign batches": total / encode_s,
        "seal step": total / seal_s,
        "fold again": total / fold_s,
        "store, per CPU second": stored / store_cpu,
        "store, per second, fsynced": stored / store_s,
        "copy the stored files, not fsynced": stored / copy_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    rounds = []
    for _ in range(args.repeat):
        with tempfile.TemporaryDirectory() as place:
            rounds.append(one_round(max(130, args.events // BATCH), Path(place)))
    best = {name: round(max(one[name] for one in rounds)) for name in rounds[0]}
    base = best["hashlib one SHA-256 per event"]
    result = {
        "benchmark": "seal_step",
        "machine": machine(),
        "events": args.events,
        "event_bytes": EVENT_BYTES,
        "batch": BATCH,
        "events_per_s": best,
        "ratio_to_hashlib": {name: round(value / base, 3) for name, value in best.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
