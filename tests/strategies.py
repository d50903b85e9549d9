"""Random source logs for property tests: loss, lateness, repetition, forks, ticks, rubbish and jumps."""

from __future__ import annotations

from hypothesis import strategies as st

from builders import SOURCE_ID, START_US, WINDOW_US, Lane, schema_value, switch_value, tick_value
from rlhf_audit_ledger.message import SourceMessage
from rlhf_audit_ledger.settings import PartitionSettings

ACTIONS = (
    *("batch",) * 6,
    *("tick",) * 3,
    *(
        "lose",
        "late",
        "again",
        "fork",
        "end",
        "reopen",
        "flush",
        "old tick",
        "rubbish",
        "null",
        "jump",
        "schema",
        "switch",
    ),
)
PRODUCERS = ("ingest/aa", "ingest/bb", "run/0")


class _World:
    """Turns actions into source values, so that most of them mean something."""

    def __init__(self, settings: PartitionSettings) -> None:
        self.settings = settings
        self.lanes = [Lane(settings, name) for name in PRODUCERS]
        self.lost: list[bytes] = []
        self.sent: list[bytes] = []
        self.counter = 0
        self.sources = 0
        self.now_us = START_US

    def value(self, action: str, which: int) -> bytes | None:
        lane = self.lanes[which % len(self.lanes)]
        if action in ("batch", "end"):
            batch = lane.cut(1 + which % 4, final=action == "end")
            self.sent.append(batch.value)
            return batch.value
        if action == "lose":
            self.lost.append(lane.cut(1 + which % 3).value)
            return lane.cut().value
        if action == "late" and self.lost:
            return self.lost.pop(which % len(self.lost))
        if action == "again" and self.sent:
            return self.sent[which % len(self.sent)]
        if action == "fork":
            return lane.other(1, events=(b"other",), first_seq=max(0, lane.next_body.first_seq - 1)).value
        if action == "reopen":
            body = lane.next_body
            self.lanes[which % len(self.lanes)] = lane = Lane(self.settings, body.producer, body.epoch + 1)
            return lane.cut().value
        if action in ("tick", "flush"):
            self.counter += 1
            self.now_us += which % 3 * WINDOW_US // 2
            return self._tick(self.counter, flush=action == "flush")
        if action == "old tick":
            return self._tick(self.counter, flush=True)
        if action == "switch":
            return self._switch(which)
        if action == "schema":
            return schema_value(self.settings, 2 + which % 2)
        return None if action == "null" else b"rubbish %d" % which

    @property
    def source_id(self) -> bytes:
        """The log that is being written; each is used once."""
        return bytes((n + 16 * self.sources) % 256 for n in SOURCE_ID)

    def _switch(self, next_offset: int) -> bytes:
        before = self.source_id
        self.sources += 1
        self.counter = 0
        return switch_value(self.settings, source_id=before, new_source_id=self.source_id, next_offset=next_offset)

    def _tick(self, counter: int, *, flush: bool) -> bytes:
        return tick_value(self.settings, counter, self.now_us, flush=flush, source_id=self.source_id)


def message_lists(settings: PartitionSettings, max_size: int = 25) -> st.SearchStrategy[list[SourceMessage]]:
    """Source logs of one partition, one after another where it is switched; offsets jump now and then."""
    moves = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), max_size=max_size)
    return moves.map(lambda drawn: _played(settings, drawn))


def _played(settings: PartitionSettings, moves: list[tuple[str, int]]) -> list[SourceMessage]:
    world, source, offset = _World(settings), list[SourceMessage](), 0
    for action, which in moves:
        if action == "jump":
            offset += 1 + which
            continue
        source.append(SourceMessage(offset, START_US + 1_000 * offset, world.value(action, which)))
        offset = which if action == "switch" else offset + 1
    return source
