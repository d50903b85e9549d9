"""A local ledger ends its source logs with a signed switch and goes on elsewhere; both parts verify as one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from builders import Lane
from continuing import Continued, ListSealed, ListSource
from crash.fake_disk import CountingDisk, Crash, CrashingDisk
from crash.ingesting import HIDDEN_WORDS, ingest, write_rows
from examples import example
from rlhf_audit_ledger.ed25519 import SeedSigner
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.kafka.topics import TopicFacts
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_stores.stored_state import RefusedToGoOnError, stored_state
from rlhf_audit_trail.local import LocalTrail
from rlhf_audit_trail.source_switch import OtherTopicError, Switched, switch_to_kafka
from verifying import findings_of, report_of

CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
PARTITIONS = {"annotations": 4, "gradients": 4, "lifecycle": 1, "released": 4}


def topics(cluster: str = CLUSTER, **partitions: int) -> dict[str, TopicFacts]:
    """Source topics as brokers would describe them."""
    counts = PARTITIONS | partitions
    return {name: TopicFacts(f"audit.{name}", cluster, f"uuid of {name}", count) for name, count in counts.items()}


def switch(trail: Path, disk: Disk | None = None, **asked: Any) -> Switched:
    with LocalTrail(trail, disk=disk, is_leaving=True) as leaving:
        return switch_to_kafka(leaving, topics(**asked))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trail with two annotators' judgements, stored and published."""
    folder = tmp_path_factory.mktemp("local")
    ingest(folder / "trail", write_rows(folder / "rows.jsonl", 14, annotators=2), batch_events=4)
    return folder / "trail"


@pytest.fixture
def trail(local: Path, tmp_path: Path) -> Path:
    shutil.copytree(local, tmp_path / "trail")
    return tmp_path / "trail"


def test_used_partitions_are_switched_once_and_the_trail_verifies(trail: Path) -> None:
    first = switch(trail)
    assert "lifecycle/0" in first.now
    assert len(first.now) > 1
    assert sorted([*first.now, *first.unused]) == sorted(f"{s}/{n}" for s, c in PARTITIONS.items() for n in range(c))
    again = switch(trail)
    assert (again.now, again.before, again.unused) == ((), first.now, first.unused)
    report = report_of(trail)
    assert report.exit_code == 0, report.findings
    assert len([note for note in report.notes if "goes on in source log" in note]) == len(first.now)


def test_no_payload_stays_behind_in_the_local_logs(trail: Path) -> None:
    switch(trail)
    logs = [path for path in trail.glob("spool/*/*/*/*.log") if path.stat().st_size]
    assert logs
    assert all(path.stat().st_size < 512 for path in logs)
    assert not any(HIDDEN_WORDS.encode() in path.read_bytes() for path in logs)


def test_a_trail_that_was_switched_opens_for_nothing_else(trail: Path) -> None:
    switch(trail)
    with pytest.raises(ConfigError, match="goes on in Kafka"), LocalTrail(trail):
        pass
    with LocalTrail(trail, is_leaving=True) as leaving, pytest.raises(ConfigError, match="goes on in Kafka"):
        leaving.append("lifecycle", 0, [b"x"])
    assert findings_of(trail) == []


def test_topics_that_do_not_fit_switch_nothing(trail: Path) -> None:
    with pytest.raises(ConfigError, match="3 partitions, the genesis names 4"):
        switch(trail, annotations=3)
    with LocalTrail(trail, is_leaving=True) as leaving, pytest.raises(ConfigError, match="there is no topic"):
        switch_to_kafka(leaving, {})
    switch(trail)
    with pytest.raises(OtherTopicError, match="made again"):
        switch(trail, cluster="another cluster")
    assert findings_of(trail) == []


WAYS = [pytest.param(False, id="before the effect"), pytest.param(True, id="after the effect")]


@pytest.mark.parametrize("after", WAYS)
def test_dying_at_any_effect_of_the_switch_is_repaired_by_doing_it_again(
    after: bool, local: Path, tmp_path: Path
) -> None:
    def fresh(name: str) -> Path:
        shutil.copytree(local, tmp_path / name)
        return tmp_path / name

    counting = CountingDisk(RealDisk())
    whole = switch(fresh("whole"), counting)
    expected = [(name, stored(tmp_path / "whole", name)) for name in whole.now]
    for at in range(1 + after, len(counting.calls) + 1, 2):  # each second one: the other half is the other way's
        trail = fresh(f"{at}")
        with pytest.raises(Crash):
            switch(trail, CrashingDisk(RealDisk(), at=at, after=after))
        switched = switch(trail)
        assert sorted([*switched.now, *switched.before]) == sorted(whole.now)
        assert [(name, stored(trail, name)) for name in whole.now] == expected
        assert findings_of(trail) == []
        shutil.rmtree(trail)


def stored(trail: Path, name: str) -> tuple[bytes, int, int, int]:
    """Where the objects alone say that a partition goes on."""
    stream, _, number = name.partition("/")
    with LocalTrail(trail, is_leaving=True) as leaving:
        data = leaving.ledger.genesis_bytes
    found = stored_state(partition_settings(data, stream, int(number)), FolderStore(trail / "objects"))
    assert found is not None
    return found.state.source_id, found.state.next_offset, found.state.m, found.state.ticks.counter


def test_a_ledger_goes_on_from_its_objects_alone_and_verifies_as_one(trail: Path) -> None:
    switch(trail)
    source = ListSource(topics()["annotations"].source_id)
    name = next(part.name for part in (trail / "spool" / "annotations").iterdir() if part.is_dir())
    stored_m = stored(trail, f"annotations/{name}")[2]
    sealed = ListSealed(stored_m + 1)
    source.messages.append(SourceMessage(0, 1_760_000_000_000_000, b"the tick that topics apply writes"))
    part = Continued(trail, "annotations", int(name), source, sealed)
    assert (part.loop.state.next_offset, part.loop.has_work) == (1, False)
    before = report_of(trail)
    lane = Lane(part.settings, "ingest/kafka", 0, signer=SeedSigner(bytes(range(32))))
    event = KINDS["annotation"].codec.encode(example("annotation"))
    for round_ in range(2):
        for value in (lane.cut(2, events=(event, event), final=round_ == 1).value, part.tick(1_790_000_000_000_000)):
            source.messages.append(SourceMessage(source.next_offset, 1_790_000_000_000_000, value))
        assert [one.header.outcome for one in part.run()] == ["accepted", "control"]
        part = Continued(trail, "annotations", int(name), source, sealed)  # a restart in between
    again = switch(trail)  # long done, and nothing to do
    assert (again.now, len(again.before) > 1) == ((), True)
    after = report_of(trail)
    assert (after.exit_code, after.findings) == (0, [])
    assert (after.windows, after.events) == (before.windows + 2, before.events + 4)


def test_a_topic_that_was_made_again_is_refused(trail: Path) -> None:
    switch(trail)
    name = next(part.name for part in (trail / "spool" / "annotations").iterdir() if part.is_dir())
    sealed = ListSealed(stored(trail, f"annotations/{name}")[2] + 1)
    with pytest.raises(RefusedToGoOnError, match="another source log"):
        Continued(trail, "annotations", int(name), ListSource(b"x" * 16), sealed)
