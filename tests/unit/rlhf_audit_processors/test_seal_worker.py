"""A takeover of several partitions: one whose state does not come holds up no other, and loses nothing meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import SOURCE_ID, TICKER, Lane, make_sealer, messages, sealed_from
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.state import SealState, first_state
from rlhf_audit_processors.kafka import worker as module
from rlhf_audit_processors.kafka.global_head import GlobalHead
from rlhf_audit_processors.kafka.worker import SealPlan, SealWorker
from rlhf_audit_schemas.errors import AuditTrailError
from rlhf_audit_stores.disk import RealDisk
from rlhf_audit_stores.health import WorkerHealth
from rlhf_audit_stores.kafka.errors import BrokerError
from rlhf_audit_stores.kafka.settings import KafkaSettings
from rlhf_audit_stores.kafka.topics import TopicFacts, source_topic
from rlhf_audit_stores.objects import FolderStore
from rlhf_audit_stores.stored_state import RefusedToGoOnError
from surroundings import Around

SEALERS = {("annotations", number): make_sealer(partition=number) for number in (1, 2)}
LATE, PROMPT = ("annotations", 1), ("annotations", 2)
TOPIC = source_topic("", "annotations")


class Links(Around):
    """The worker's way to brokers that are not there, over the ``Around`` of one partition."""

    def __init__(self, source: Sequence[SourceMessage]) -> None:
        super().__init__(source)
        self.gone_to: list[dict[tuple[str, int], int]] = []
        self.places: list[tuple[str, int]] = []
        self.done = asyncio.Event()

    async def send(self, stream: str, partition: int, record: bytes) -> asyncio.Future[object]:
        self.places.append((stream, partition))
        return await super().send(stream, partition, record)

    async def in_thread(self, call: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)

    async def go_to(self, offsets: dict[tuple[str, int], int]) -> None:
        self.gone_to.append(dict(offsets))

    def records_of(self, place: tuple[str, int]) -> list[bytes]:
        return [record for where, (record, _) in zip(self.places, self.sent, strict=True) if where == place]


class Head:
    def read(self) -> GlobalHead:
        return GlobalHead(0, bytes(32))


class World:
    """A worker that was just given two partitions; ``release`` lets the late one's state be read."""

    late_error: AuditTrailError | None

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, error: AuditTrailError | None = None) -> None:
        self.release = threading.Event()
        self.error, self.late_error = error, None  # while it is late, and once it was
        self.source = {place: _source_of(place, 5) for place in SEALERS}
        self.health = WorkerHealth("seal")
        plan = SealPlan(
            kafka=KafkaSettings("127.0.0.1:9"),
            sealers=SEALERS,
            ticker=TICKER,
            topics={"annotations": TopicFacts(TOPIC, "c", "t", 3)},
            objects=FolderStore(folder, RealDisk()),
            heads=Head(),
            header=lambda record, _: record,
            data_dir=folder,
        )
        self.worker = SealWorker(plan, self.health)
        self.links = Links(self.source[LATE])
        self.worker._links = self.links  # type: ignore[assignment]  # the brokers' side, by hand
        self.worker._head = SimpleNamespace(renew=lambda: None)  # type: ignore[assignment]
        self.assignment = assignment = [SimpleNamespace(topic=TOPIC, partition=number) for _, number in SEALERS]
        consumer = SimpleNamespace(assignment=lambda: assignment)
        self.worker._app = SimpleNamespace(consumer_generation_id=1, consumer=consumer)  # type: ignore[assignment]
        monkeypatch.setattr(self.worker, "_read_state", self._read_state)
        monkeypatch.setattr(module, "WAIT_FOR_STATES_S", 0.1)
        monkeypatch.setattr(module, "RETRY_S", 0.01)

    def _read_state(self, place: tuple[str, int]) -> SealState:
        if place == LATE:
            if self.error is not None and not self.release.is_set():
                raise self.error
            self.release.wait(30)
            if self.late_error is not None:
                raise self.late_error
        return first_state(SEALERS[place].settings, SOURCE_ID)

    async def deliver(self, place: tuple[str, int], delivered: Sequence[SourceMessage]) -> None:
        """What Faust's agent does with them."""

        async def events() -> Any:
            for each in delivered:
                message = SimpleNamespace(
                    topic=TOPIC,
                    partition=place[1],
                    generation_id=1,
                    offset=each.offset,
                    timestamp=each.ts_us / 1_000_000,
                    value=each.value,
                )
                yield SimpleNamespace(message=message, ack=lambda: True)

        await self.worker._agent(SimpleNamespace(noack=lambda: SimpleNamespace(events=events)))

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            if holds():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it did not come to that")

    def expected(self, place: tuple[str, int]) -> list[bytes]:
        return [one.record.encode() for one in sealed_from(SEALERS[place], self.source[place])[1]]


def _source_of(place: tuple[str, int], count: int) -> list[SourceMessage]:
    lane = Lane(SEALERS[place].settings)
    return messages([lane.cut().value for _ in range(count)])


@pytest.mark.parametrize("error", [None, BrokerError("no leader")], ids=["hangs", "no-leader"])
def test_a_partition_whose_state_is_late_holds_up_no_other_and_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: AuditTrailError | None
) -> None:
    async def main() -> None:
        world = World(tmp_path, monkeypatch, error)
        await world.worker._take_over()
        assert world.links.gone_to == [{PROMPT: 0}]
        assert "is not taken over yet" in (world.health.unready() or "")
        await world.deliver(PROMPT, world.source[PROMPT])
        await world.deliver(LATE, world.source[LATE][2:])  # Faust stood anywhere
        await world.until(lambda: len(world.links.records_of(PROMPT)) == 5)
        assert world.links.records_of(LATE) == []
        world.release.set()
        await world.until(lambda: len(world.links.records_of(LATE)) == 5)
        assert world.links.records_of(PROMPT) == world.expected(PROMPT)
        assert world.links.records_of(LATE) == world.expected(LATE)
        assert world.links.read[0] == (0, 2), "what Faust passed over is read by the plain reader"
        assert world.health.unready() is None
        world.worker._stop_all()

    asyncio.run(main())


@pytest.mark.parametrize("error", [BrokerError("no leader"), RefusedToGoOnError("a fork")], ids=["gone", "refused"])
def test_what_an_older_generation_still_reads_says_nothing_of_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: AuditTrailError
) -> None:
    async def main() -> None:
        world = World(tmp_path, monkeypatch)
        world.late_error = error
        older = asyncio.ensure_future(world.worker._take_over())
        await asyncio.sleep(0.01)
        await world.worker._on_partitions_revoked()
        world.links.generation = world.worker._app.consumer_generation_id = 2
        world.assignment[:] = [one for one in world.assignment if one.partition == PROMPT[1]]
        await older
        await world.worker._take_over()
        assert world.health.unready() is None
        world.release.set()
        await world.until(lambda: len(world.worker._background) <= 1)
        assert (world.health.unready(), world.worker._refused) == (None, {})
        world.worker._stop_all()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["revoked", "stopped"])
def test_a_late_partition_is_not_begun_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    async def main() -> None:
        world = World(tmp_path, monkeypatch)
        await world.worker._take_over()
        await world.deliver(LATE, world.source[LATE])
        if end == "revoked":
            await world.worker._on_partitions_revoked()  # the group still has the generation until it joined again
        else:
            world.worker._stop.set()
            world.worker._stop_all()
        world.release.set()
        await world.until(lambda: len(world.worker._background) == 0)
        assert LATE not in world.worker._owned
        assert world.links.records_of(LATE) == []

    asyncio.run(main())


def test_a_late_partition_that_went_to_somebody_else_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(tmp_path, monkeypatch)
        await world.worker._take_over()
        world.links.generation = 2
        world.release.set()
        await world.until(lambda: len(world.worker._background) <= 1)
        assert LATE not in world.worker._owned
        world.worker._stop_all()

    asyncio.run(main())


def test_while_a_state_is_late_no_more_than_an_inbox_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(tmp_path, monkeypatch)
        await world.worker._take_over()
        one = world.source[LATE][0]
        await world.deliver(LATE, [SourceMessage(offset, one.ts_us, one.value) for offset in range(300)])
        assert world.links.paused == [True]
        world.release.set()
        await world.until(lambda: LATE in world.worker._owned)
        world.worker._stop_all()

    asyncio.run(main())
