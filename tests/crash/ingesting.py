"""One ingest into a real trail, for tests that kill it: everything fixed but the disk under it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_producers.ingest import Recording, ingest_file
from rlhf_audit_producers.ingest_report import IngestReport
from rlhf_audit_producers.input_file import InputFile
from rlhf_audit_producers.layout import sniff
from rlhf_audit_producers.mapping import by_names
from rlhf_audit_producers.mapping_text import from_flags
from rlhf_audit_stores.disk import Disk
from rlhf_audit_trail.local import LocalTrail

HIDDEN_WORDS = "what nobody may find outside the vault"


def write_rows(path: Path, rows: int, *, bad_every: int = 0, annotators: int = 7) -> Path:
    """JSONL of ``rows`` judgements by ``annotators``; every ``bad_every``-th line is broken."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            if bad_every and number % bad_every == bad_every - 1:
                file.write('{"annotator": \n')
                continue
            row = {
                "annotation_id": f"a{number}",
                "annotator": f"rater{number % annotators}",
                "prompt": f"{HIDDEN_WORDS} {number}",
                "score": number % 5,
            }
            file.write(json.dumps(row) + "\n")
    return path


def ingest(
    trail: Path,
    file: Path,
    *,
    disk: Disk | None = None,
    batch_events: int = 64,
    store_text: bool = False,
) -> IngestReport:
    """Ingest ``file`` into ``trail`` as the command does; the signing key is new in every process, as there."""
    with InputFile(file) as source, LocalTrail(trail, disk=disk) as recorder:
        source.hash()
        sniffed = sniff(source)
        mapping = by_names(from_flags(store_text=store_text), sniffed)
        recording = Recording(
            SeedSigner(os.urandom(32)), batch_events, "test", lambda: 1_760_000_000_000_000, os.urandom
        )
        return ingest_file(source, sniffed, mapping, recorder, recording)
