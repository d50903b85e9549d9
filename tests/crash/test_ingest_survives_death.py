"""Die at every write, sync, link and rename of ingest, seal loop, sink and sequencer; go on; nothing is lost or twice.

After each death a new process ingests the same file to its end. Then: every row
of the file is sealed once, the sealed bytes equal a fresh sealing of the source
logs (kept by the test), and `verify` finds nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from crash.fake_disk import CountingDisk, Crash, CrashingDisk, FullDisk, VolatileDisk
from crash.ingesting import HIDDEN_WORDS, ingest, write_rows
from crash.resealing import KeepingDisk, differences, genesis_bytes
from rlhf_audit_ledger.batch import BatchBody, open_envelope
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.objects import SEGMENT, parse_segment_name
from rlhf_audit_ledger.vault import open_vault
from rlhf_audit_schemas.kinds import KINDS, KINDS_BY_NUMBER
from rlhf_audit_stores.disk import DiskFullError, RealDisk
from rlhf_audit_stores.keys import load_keys
from rlhf_audit_stores.objects import FolderStore
from verifying import findings_of

ROWS, BAD_EVERY, BATCH = 14, 7, 4
BAD_ROWS = ROWS // BAD_EVERY


def sealed_lines(trail: Path, kind: str) -> list[int]:
    """Input lines of all sealed events of a kind, read from the payloads."""
    keys = load_keys(trail / "keys")
    vault = FolderStore(trail / "vault")
    lines = []
    for info in FolderStore(trail / "objects").list("segments/"):
        ref = parse_segment_name(info.name)
        assert ref is not None
        name = f"{ref.stream}/{ref.partition}/{ref.window:012d}.0"
        records = SEGMENT.decode(info.name, FolderStore(trail / "objects").get(info.name))
        payloads = open_vault(f"vault/{name}", vault.get(name), keys.vault_key)
        for record, payload in zip(records, payloads, strict=True):
            header = SealHeader.decode(record["header"])
            batch = header.batch
            if batch is None or KINDS_BY_NUMBER[batch.kind].name != kind or header.outcome == "duplicate":
                continue
            assert payload.value is not None
            body = BatchBody.decode(open_envelope(payload.value)[0])
            lines += [KINDS[kind].codec.decode(event)["input_line"] for event in body.events]
    return lines


def check(trail: Path, copy: Path) -> None:
    """The trail is whole: each row once, bytes as a fresh sealing makes them, nothing that `verify` minds."""
    bad = {line for line in range(1, ROWS + 1) if line % BAD_EVERY == 0}
    assert Counter(sealed_lines(trail, "annotation")) == Counter(set(range(1, ROWS + 1)) - bad)
    assert Counter(sealed_lines(trail, "fault")) == Counter(bad)
    assert differences(trail, copy) == []
    assert findings_of(trail) == []


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS, bad_every=BAD_EVERY, annotators=2)


@pytest.fixture(scope="module")
def effects(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many effects one undisturbed ingest has."""
    counting = CountingDisk(RealDisk())
    ingest(tmp_path_factory.mktemp("whole") / "trail", rows, disk=counting, batch_events=BATCH)
    return len(counting.calls)


WAYS = [
    pytest.param(False, False, id="before the effect"),
    pytest.param(True, False, id="after the effect"),
    pytest.param(False, True, id="half-way in a write"),
]


@pytest.mark.parametrize(("after", "torn"), WAYS)
def test_dying_at_any_effect_loses_no_row_and_doubles_none(
    after: bool, torn: bool, rows: Path, effects: int, tmp_path: Path
) -> None:
    for at in range(1, effects + 1):
        trail, copy = tmp_path / f"{at}" / "trail", tmp_path / f"{at}" / "copy"
        crashing = CrashingDisk(RealDisk(), at=at, after=after, torn=torn)
        try:
            ingest(trail, rows, disk=KeepingDisk(crashing, copy), batch_events=BATCH)
        except Crash:
            ingest(trail, rows, disk=KeepingDisk(RealDisk(), copy), batch_events=BATCH)
        check(trail, copy)


@pytest.mark.parametrize("torn", [False, True], ids=["nothing unsynced survives", "some of it survives"])
def test_a_power_cut_at_any_effect_loses_no_row_and_doubles_none(
    torn: bool, rows: Path, effects: int, tmp_path: Path
) -> None:
    chance = random.Random(20261125)  # noqa: S311 - a schedule that can be repeated
    for at in range(1, effects + 1):
        trail, copy = tmp_path / f"{at}" / "trail", tmp_path / f"copy of {at}"  # the copy outlives the power cut
        trail.parent.mkdir()
        volatile = VolatileDisk(trail.parent)
        crashing = CrashingDisk(volatile, at=at, after=chance.random() < 0.5)
        try:
            ingest(trail, rows, disk=KeepingDisk(crashing, copy), batch_events=BATCH)
        except Crash:
            volatile.power_cut(chance if torn else None)
            ingest(trail, rows, disk=KeepingDisk(RealDisk(), copy), batch_events=BATCH)
        check(trail, copy)


def test_dying_again_and_again_still_seals_every_row_once(rows: Path, effects: int, tmp_path: Path) -> None:
    trail, copy = tmp_path / "trail", tmp_path / "copy"
    chance = random.Random(7)  # noqa: S311 - a schedule that can be repeated
    deaths = 0
    for _ in range(8):  # a restart has fewer effects than the first run, so some of these deaths come too late
        crashing = CrashingDisk(RealDisk(), at=chance.randrange(40, effects // 3), after=chance.random() < 0.5)
        try:
            ingest(trail, rows, disk=KeepingDisk(crashing, copy), batch_events=BATCH)
        except Crash:
            deaths += 1
    assert deaths > 2
    ingest(trail, rows, disk=KeepingDisk(RealDisk(), copy), batch_events=BATCH)
    check(trail, copy)


@pytest.mark.parametrize("kibibytes", [1, 4, 8, 12, 16, 24, 32, 40, 48])
def test_a_full_disk_is_a_clear_error_and_work_goes_on_after_space_is_made(
    kibibytes: int, rows: Path, tmp_path: Path
) -> None:
    trail, copy = tmp_path / "trail", tmp_path / "copy"
    full = FullDisk(RealDisk(), after_bytes=kibibytes * 1024)
    said = ""
    try:
        ingest(trail, rows, disk=KeepingDisk(full, copy), batch_events=BATCH)
    except DiskFullError as error:
        said = str(error)
    if said or kibibytes < 24:
        assert "disk full" in said
        if (trail / "objects" / "global" / "checkpoint").exists():
            assert genesis_bytes(trail)
            assert findings_of(trail) == []  # nothing is signed that is not there
        ingest(trail, rows, disk=KeepingDisk(RealDisk(), copy), batch_events=BATCH)
    check(trail, copy)


@pytest.mark.parametrize("store_text", [False, True])
def test_after_an_ingest_no_text_lies_anywhere_but_encrypted_in_the_vault(
    store_text: bool, rows: Path, tmp_path: Path
) -> None:
    trail = tmp_path / "trail"
    ingest(trail, rows, batch_events=BATCH, store_text=store_text)
    needle = HIDDEN_WORDS.encode()
    files = [path for path in trail.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if needle in path.read_bytes()] == []
    assert all(name.name.count(".") == 1 for name in files if "vault" in name.parts[:-1] and name.parent.name.isdigit())
    for log in trail.glob("spool/*/*/source/*.log"):
        assert log.stat().st_size < 2048, f"{log}: more than the record that a restart needs"
    for log in trail.glob("spool/*/*/sealed/*.log"):
        assert log.stat().st_size < 256, f"{log}: stored records were kept"
    keys = load_keys(trail / "keys")
    vault = FolderStore(trail / "vault")
    stored = [
        record.value or b""
        for info in vault.list("")
        for record in open_vault(f"vault/{info.name}", vault.get(info.name), keys.vault_key)
    ]
    assert any(needle in value for value in stored) is store_text
