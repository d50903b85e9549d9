"""The query copy on the real engine: every row once, whatever dies or lies, and the same again from the evidence."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from query_copies import annotation, require_chdb, write_trail
from rlhf_audit_ledger.batch import BatchBody
from rlhf_audit_ledger.objects import parse_vault_name, segment_name, vault_name
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_ledger.vault import open_vault
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_sinks.clickhouse.blocks import Block
from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine, EngineBusyError
from rlhf_audit_sinks.clickhouse.migrations import check_tables
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_trail import cli
from rlhf_audit_trail.places import StoredTrail
from rlhf_audit_trail.query_copy import Evidence, catch_up

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink

pytestmark = [
    pytest.mark.service,
    pytest.mark.filterwarnings("default"),  # what pandas and the engine warn of is not ours
]

SEED, KILLS = 4, 12
_STORING_CHILD = Path(__file__).with_name("storing_child.py")


_open: list[Copy] = []


@pytest.fixture(autouse=True)
def _needs_engine() -> Iterator[None]:
    """One engine per process: what a failed test left open would fail all that follow."""
    require_chdb()
    yield
    while _open:
        _open[-1].close()


class Copy:
    """An open query copy."""

    def __init__(self, trail: Path) -> None:
        from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink

        self.engine = EmbeddedEngine(trail)
        self.client: Client = self.engine.client()
        self.sink: ClickHouseSink = ClickHouseSink(self.client)
        _open.append(self)

    def close(self) -> None:
        if self not in _open:
            return
        _open.remove(self)
        self.client.close()
        self.engine.close()

    def count(self, table: str) -> int:
        return int(self.client.query(f"SELECT count() FROM {table}").result_rows[0][0])  # noqa: S608 - our own table


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    opened = Copy(tmp_path / "copy")
    yield opened
    opened.close()


def contents(client: Client) -> dict[str, tuple[int, int]]:
    """Table -> rows and a hash over all of them, of everything the sink writes."""
    tables = client.query(
        "SELECT database, name FROM system.tables WHERE database IN ('audit', 'audit_restricted') "
        "AND name != 'migrations'"
    ).result_rows
    found = {}
    for database, name in tables:
        query = f"SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM {database}.{name}"  # noqa: S608 - ours
        row = client.query(query).result_rows[0]
        found[f"{database}.{name}"] = (int(row[0]), int(row[1]))
    return found


def test_storing_a_window_again_adds_nothing(tmp_path: Path, copy: Copy) -> None:
    windows = write_trail(tmp_path / "trail", [[annotation(n) for n in range(50)]] * 3)
    for window in windows:
        copy.sink.store(window)
    before = contents(copy.client)
    for window in windows:
        copy.sink.store(window)
    assert contents(copy.client) == before
    assert before["audit_restricted.annotation"][0] == 150


def test_a_sink_that_lost_its_memory_adds_nothing_either(tmp_path: Path, copy: Copy) -> None:
    """The tokens alone must do it: here nothing remembers that the window is there."""
    (window,) = write_trail(tmp_path / "trail", [[annotation(n) for n in range(50)]])
    copy.sink.store(window)
    before = contents(copy.client)
    copy.sink._next.clear()
    copy.sink.store(window)
    assert contents(copy.client) == before


def test_a_crash_between_two_blocks_is_repaired_by_storing_the_window_again(tmp_path: Path) -> None:
    (window,) = write_trail(tmp_path / "trail", [[annotation(n) for n in range(50)] + [b"hostile"]])
    close = window[-1].close
    assert close is not None
    for dies_at in range(1, 6):
        opened = Copy(tmp_path / f"copy{dies_at}")
        opened.sink._insert = DyingInsert(opened.sink._insert, dies_at)  # type: ignore[method-assign,assignment]  # dies
        with suppress(KeyboardInterrupt):
            opened.sink.store(window)
        opened.close()
        opened = Copy(tmp_path / f"copy{dies_at}")
        assert opened.sink.stored_up_to("annotations", close.partition) == (1 if dies_at > 4 else 0)
        opened.sink.store(window)
        assert opened.count("audit_restricted.annotation") == 50
        assert opened.count("audit_restricted.findings") == 1
        assert opened.count("audit.messages") == len(window)
        assert opened.count("audit.windows") == 1
        opened.close()


class DyingInsert:
    """Passes inserts on; at the n-th the process dies instead."""

    def __init__(self, insert: Callable[[Block, str], None], dies_at: int) -> None:
        self._insert, self._left = insert, dies_at

    def __call__(self, block: Block, token: str) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        self._insert(block, token)


def test_kill_nine_in_mid_insert_loses_nothing_and_doubles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - a schedule, no secret
    trail = tmp_path / "trail"
    lanes = [[annotation(n) for n in range(number * 400, number * 400 + 400)] for number in range(60)]
    windows = write_trail(trail, lanes, drain_each=True)
    kills = 0
    while True:  # the first kills hit any moment, then it may finish
        child = subprocess.Popen([sys.executable, str(_STORING_CHILD), str(trail)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        if child.stdout.readline() != b"open\n":
            child.communicate()
            pytest.fail("the storing child did not start")
        try:
            child.communicate(timeout=chance.uniform(0.02, 0.3) if kills < KILLS else None)
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            kills += 1
    opened = Copy(trail)
    with capsys.disabled():
        sys.stdout.write(f"\nseed {SEED}: {kills} kills while {len(windows)} windows were inserted\n")
    assert kills == KILLS
    assert opened.count("audit_restricted.annotation") == 60 * 400
    assert opened.count("audit.windows") == len(windows)
    assert opened.count("audit.messages") == sum(map(len, windows))
    assert list((trail / "clickhouse" / "tmp").iterdir()) == []
    live = contents(opened.client)
    opened.close()
    assert live == _restored(trail)


def _restored(trail: Path) -> dict[str, tuple[int, int]]:
    assert cli.main(["restore", str(trail)]) == 0
    opened = Copy(trail)
    found = contents(opened.client)
    opened.close()
    return found


def test_a_forged_second_version_of_a_window_stays_visible_as_a_fork(tmp_path: Path, copy: Copy) -> None:
    (honest,) = write_trail(tmp_path / "honest", [[annotation(n) for n in range(10)]])
    (forged,) = write_trail(tmp_path / "forged", [[annotation(n, score=99.0) for n in range(10)]])
    copy.sink.store(honest)
    copy.sink.store(forged)
    copy.sink.store(honest)
    forks = copy.client.query(
        "SELECT leaf_index FROM audit_restricted.annotation GROUP BY stream, partition, leaf_index "
        "HAVING uniqExact(leaf_hash) > 1"
    ).result_rows
    assert len(forks) == 10
    assert copy.count("audit_restricted.annotation") == 20
    assert copy.count("audit.windows") == 2


def test_a_hostile_event_is_a_finding_and_its_neighbours_are_themselves(tmp_path: Path, copy: Copy) -> None:
    good = [annotation(n) for n in range(3)]
    (window,) = write_trail(tmp_path / "trail", [[good[0], good[0] + good[1], b"", good[1], b"\xff" * 99, good[2]]])
    copy.sink.store(window)
    rows = copy.client.query(
        "SELECT seq, annotation_id, score, body = unhex({b0:String}) FROM audit_restricted.annotation ORDER BY seq",
        parameters={"b0": good[0].hex()},
    ).result_rows
    assert rows == [(0, "a0", 0.0, 1), (3, "a1", 0.5, 0), (5, "a2", 1.0, 0)]
    found = copy.client.query("SELECT seq, reason FROM audit_restricted.findings ORDER BY seq").result_rows
    assert found == [(1, "undecodable"), (2, "undecodable"), (4, "undecodable")]


def test_times_and_numbers_arrive_unchanged_however_odd(tmp_path: Path, copy: Copy) -> None:
    ticks = [-(1 << 62), -1, 0, 1_760_000_000_123_456, (1 << 63) - 1]
    (window,) = write_trail(tmp_path / "trail", [[annotation(1, ts_us=at, judged_at_us=at) for at in ticks]])
    copy.sink.store(window)
    rows = copy.client.query(
        "SELECT toUnixTimestamp64Micro(ts), toUnixTimestamp64Micro(judged_at) FROM audit_restricted.annotation "
        "ORDER BY seq"
    ).result_rows
    assert rows == [(at, at) for at in ticks]


def test_a_table_without_its_deduplication_window_is_refused(copy: Copy) -> None:
    copy.client.command("ALTER TABLE audit.windows MODIFY SETTING non_replicated_deduplication_window = 0")
    with pytest.raises(ConfigError, match=r"audit\.windows lacks non_replicated_deduplication_window"):
        check_tables(copy.client)


def test_one_process_has_the_engine_and_another_is_told_so(tmp_path: Path) -> None:
    first = EmbeddedEngine(tmp_path)
    with pytest.raises(EngineBusyError):
        EmbeddedEngine(tmp_path)
    first.close()
    EmbeddedEngine(tmp_path).close()


def test_what_a_crash_left_in_the_private_folder_is_swept_at_the_next_opening(tmp_path: Path) -> None:
    folder = tmp_path / "clickhouse" / "tmp"
    folder.mkdir(parents=True)
    (folder / "left.raw").write_bytes(b"an erased event")
    engine = EmbeddedEngine(tmp_path)
    assert list(folder.iterdir()) == []
    engine.close()


def test_an_erased_event_is_gone_after_a_restore_and_the_rest_is_the_same(tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(5)]])
    _erase(trail, [1, 3])
    assert cli.main(["restore", str(trail)]) == 0
    opened = Copy(trail)
    rows = opened.client.query("SELECT seq FROM audit_restricted.annotation ORDER BY seq").result_rows
    assert [row[0] for row in rows] == [0, 2, 4]
    assert opened.client.query("SELECT erased, events FROM audit.windows").result_rows == [(2, 5)]
    assert opened.count("audit_restricted.findings") == 0
    opened.close()


def _erase(trail: Path, positions: Sequence[int]) -> None:
    """Write generation 1 of the only annotation window without these events."""
    from rlhf_audit_ledger.batch import batch_digest, open_envelope
    from rlhf_audit_ledger.objects import VAULT

    key = bytes(load_secret(trail / "keys" / "vault.key"))
    (path,) = (trail / "vault" / "annotations").rglob("*.0")
    ref = parse_vault_name(str(path.relative_to(trail / "vault")))
    assert ref is not None
    records = open_vault(f"vault/{vault_name(ref.stream, ref.partition, ref.window)}", path.read_bytes(), key)
    name = vault_name(ref.stream, ref.partition, ref.window, 1)
    encoded = []
    for record in records:
        value: object = record.value
        if record.value is not None and record.value[:1] == b"\x01":
            body_bytes, signature = open_envelope(record.value)
            body = BatchBody.decode(body_bytes)
            events = [b"" if at in positions else event for at, event in enumerate(body.events)]
            value = {
                "body": replace(body, events=events).encode(),
                "erased": list(positions),
                "digest": batch_digest(body_bytes),
                "signature": signature,
            }
        encoded.append(VAULT.codec.encode({"salt": record.salt, "offset": record.offset, "value": value}))
    path.with_name(path.name.removesuffix(".0") + ".1").write_bytes(_sealed(f"vault/{name}", encoded, key))
    path.unlink()


def _sealed(name: str, encoded: list[bytes], key: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from rlhf_audit_ledger import vault
    from rlhf_audit_ledger.domain import sha256
    from rlhf_audit_ledger.objects import VAULT

    plaintext = VAULT.encode(name, encoded)
    digest = sha256(vault._PLAIN, plaintext)
    head = bytes((vault.SUITE,)) + vault.vault_key_id(key) + digest
    cipher = AESGCM(vault._object_key(key, name, digest))
    return head + cipher.encrypt(vault._NONCE, plaintext, vault._associated(name, head))


def test_a_window_that_was_tampered_with_is_not_taken_and_the_others_are(tmp_path: Path) -> None:
    from rlhf_audit_schemas.errors import TamperError

    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(5)]] * 3)
    (path,) = (trail / "vault" / "annotations" / "1").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    opened = Copy(trail)
    evidence = Evidence.of(StoredTrail.of(trail))
    assert catch_up(opened.sink, evidence) == 2
    with pytest.raises(TamperError):
        catch_up(opened.sink, evidence)
    assert opened.count("audit_restricted.annotation") == 10
    opened.close()


def test_sealed_windows_and_those_read_back_give_the_same_tables(tmp_path: Path) -> None:
    trail, opened = tmp_path / "trail", Copy(tmp_path / "copy")
    windows: Sequence[Sequence[Sealed]] = write_trail(
        trail, [[annotation(n) for n in range(20)], [b"odd"], [annotation(7)]], drain_each=True
    )
    for window in windows:
        opened.sink.store(window)
    direct = contents(opened.client)
    opened.close()
    assert _restored(trail) == direct


def test_counts_by_sql_are_those_of_the_files(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gzip
    import json

    trail = str(tmp_path / "trail")
    events = shared_data / "derived" / "sxs_mqm_zhen_events.shared.jsonl.gz"
    pairs = shared_data / "derived" / "pairs_qa_feedback.shared.jsonl.gz"
    maps = ["--map", "annotator=rater,judged_at=ts_ms,item=global_seg_id,group=system,label=severity"]
    assert cli.main(["ingest", str(events), *maps, "--out", trail]) == 0
    assert cli.main(["ingest", str(pairs), "--out", trail]) == 0
    capsys.readouterr()
    query = "SELECT annotator, label, count() AS n FROM annotation WHERE annotator IS NOT NULL GROUP BY ALL"
    assert cli.main(["sql", trail, query, "--json"]) == 0
    found = {(row["annotator"], row["label"]): row["n"] for row in json.loads(capsys.readouterr().out)}
    with gzip.open(events, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert found == Counter((row["rater"], row["severity"]) for row in rows)
    assert sum(found.values()) == 18_566
    assert cli.main(["sql", trail, "SELECT count() FROM annotation WHERE annotator IS NULL", "--format", "CSV"]) == 0
    assert capsys.readouterr().out == "1950\n"


@pytest.fixture
def shared_data() -> Path:
    import os

    named = os.environ.get("RLHF_AUDIT_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.mark.parametrize(("what", "status"), [("flipped", 1), ("gone", 3), ("segment gone", 1)])
def test_a_restore_says_what_it_could_not_restore_and_restores_the_rest(
    tmp_path: Path, what: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(5)]] * 3)
    place = trail / ("objects" if what == "segment gone" else "vault")
    name = segment_name("annotations", 1, 0) if what == "segment gone" else vault_name("annotations", 1, 0)
    path = place / name
    path.chmod(0o600)
    if what == "flipped":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    assert cli.main(["verify", str(trail), "--no-memory"]) == status
    capsys.readouterr()
    assert cli.main(["restore", str(trail), "--json"]) == status
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["windows"], found["is_complete"]) == (2, False)
    assert name in said.err
    assert "not all was restored" in said.err
    opened = Copy(trail)
    assert opened.count("audit_restricted.annotation") == 10
    opened.close()


def test_a_copy_that_does_not_load_is_called_damaged_at_once_and_a_restore_mends_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a disk that was full while the copy was first made leaves behind."""
    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(5)]])
    assert cli.main(["restore", str(trail)]) == 0
    (metadata,) = (trail / "clickhouse" / "data" / "store").glob("*/*/messages.sql")
    metadata.write_bytes(b"")
    capfd.readouterr()
    assert cli.main(["sql", str(trail), "SELECT 1"]) == 3
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("Empty query") <= 1, "it was tried again and again"
    assert f"damaged (code 36): `rlhf-audit restore {trail}` makes it anew" in said.err
    assert cli.main(["status", str(trail)]) == 0
    assert "is damaged" in capfd.readouterr().out
    assert cli.main(["restore", str(trail)]) == 0
    assert cli.main(["sql", str(trail), "SELECT count() AS n FROM annotation", "--json"]) == 0
    assert '"n": 5' in capfd.readouterr().out


def test_on_a_full_disk_the_state_is_told_without_the_copy_and_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clickhouse_connect.driver.exceptions import DatabaseError

    def full(client: object) -> None:
        raise DatabaseError("Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)")

    trail = tmp_path / "trail"
    write_trail(trail, [[annotation(n) for n in range(5)]])
    monkeypatch.setattr("rlhf_audit_sinks.clickhouse.sink.migrate", full)
    assert cli.main(["status", str(trail)]) == 0
    shown = capsys.readouterr().out
    assert "1 window," in shown
    assert "ClickHouse  not asked" in shown
    assert "the disk is full" in shown
    assert cli.main(["sql", str(trail), "SELECT 1"]) == 3
    said = capsys.readouterr().err
    assert "could not check" in said
    assert "the disk is full" in said
    assert "internal error" not in said


def test_without_room_for_the_copys_folder_sealing_goes_on(tmp_path: Path) -> None:
    from rlhf_audit_trail.query_copy_feed import query_copy_sinks
    from rlhf_audit_trail.settings import load_settings

    (tmp_path / "clickhouse").write_bytes(b"in the way")
    said: list[str] = []
    with query_copy_sinks(tmp_path, load_settings(tmp_path), say=said.append) as sinks:
        assert sinks == []
    assert "does not start and catches up later" in said[0]
