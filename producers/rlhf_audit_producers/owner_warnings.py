"""What the owner of feedback wants to know before it is sealed: counts of odd judgements, in constant memory.

- items on which the judgements do not agree;
- rows that repeat an earlier one (same annotator, item and judgement);
- annotation ids used twice;
- annotators who always give the same answer.

Kept are 64-bit hashes, at most ``MAX_KNOWN`` in each table; past that, new items
are not remembered and the summary says so. Two items with one hash would be
taken for one: with 2^18 of 2^64 that does not happen in practice, and a warning
is no verdict. Ids of annotators are shown, texts never.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_audit_producers.rows import MappedChunk
from rlhf_audit_schemas.codec import Column, Constant

MAX_KNOWN = 1 << 18  # about 20 MB a table
MAX_ANNOTATORS = 10_000
ENOUGH_ANSWERS = 20  # below it, equal answers are no surprise

_ANSWERS = ("score", "label", "axis_values", "axis_labels")
_CONTRADICTED = -1  # in place of a judgement: already counted


@dataclass(frozen=True, slots=True)
class OwnerWarnings:
    """The summary; counts are lower bounds where ``is_complete`` is False."""

    contradictory_items: int
    duplicate_rows: int
    repeated_ids: int
    constant_annotators: tuple[str, ...]
    annotators: int
    is_complete: bool

    def sentences(self) -> list[str]:
        """What there is to say, one sentence each; none if nothing is odd."""
        said = []
        if self.contradictory_items:
            said.append(f"{_counted(self.contradictory_items, 'item')} with judgements that differ from one another")
        if self.duplicate_rows:
            said.append(f"{_counted(self.duplicate_rows, 'row')} like an earlier one (annotator, item and judgement)")
        if self.repeated_ids:
            said.append(f"{_counted(self.repeated_ids, 'row')} with the annotation_id of an earlier row")
        if self.constant_annotators:
            shown = ", ".join(self.constant_annotators[:10])
            more = len(self.constant_annotators) - 10
            said.append(
                f"{_counted(len(self.constant_annotators), 'annotator')} gave the same answer in every row "
                f"(of at least {ENOUGH_ANSWERS}): {shown}{f' and {more} more' if more > 0 else ''}"
            )
        if said and not self.is_complete:
            said.append(
                f"only the first {MAX_KNOWN:,} distinct ones of each were compared: the counts are lower bounds"
            )
        return said


class OwnerObserver:
    """Sees every mapped row once, in file order."""

    def __init__(self, *, max_known: int = MAX_KNOWN) -> None:
        self._max = max_known
        self._judgement_of: dict[int, int] = {}
        self._seen: set[int] = set()
        self._ids: set[int] = set()
        self._answers: dict[str, int] = {}
        self._rows_of: Counter[str] = Counter()
        self._varied: set[str] = set()
        self._contradictory = self._duplicates = self._repeated = 0
        self._complete = True

    def observe(self, chunk: MappedChunk) -> None:
        """Take in the events of one chunk."""
        columns = chunk.columns
        if not chunk.count or "item" not in columns:
            return
        answers = _hashes([columns[name] for name in _ANSWERS])
        annotators: Sequence[str | None] = chunk.annotators or [None] * chunk.count
        if answers is not None and chunk.annotators is not None:
            self._observe_annotators(chunk.annotators, answers)
        chosen = columns["chosen_sha256"]
        judgements = _hashes([*(columns[name] for name in _ANSWERS), chosen])
        items = _items(columns)
        if items is not None and judgements is not None:
            self._observe_items(items, annotators, judgements)
        ids = columns["annotation_id"]
        if not isinstance(ids, Constant):
            self._observe_ids(ids)

    def summary(self) -> OwnerWarnings:
        """What was odd so far."""
        constant = sorted(
            name for name in self._answers if name not in self._varied and self._rows_of[name] >= ENOUGH_ANSWERS
        )
        return OwnerWarnings(
            self._contradictory,
            self._duplicates,
            self._repeated,
            tuple(constant),
            len(self._rows_of),
            self._complete,
        )

    def _observe_items(self, items: Sequence[Any], annotators: Sequence[str | None], judgements: Sequence[int]) -> None:
        known, limit = self._judgement_of, self._max
        for key, judgement, item in zip(map(hash, items), judgements, items, strict=True):
            first = known.get(key)
            if first is None:
                if item is None:
                    continue
                if len(known) < limit:
                    known[key] = judgement
                else:
                    self._complete = False
            elif first != judgement and first != _CONTRADICTED:
                known[key] = _CONTRADICTED
                self._contradictory += 1
        rows = [hash(row) for row in zip(items, annotators, judgements, strict=True) if row[0] is not None]
        self._duplicates += self._repeated_in(self._seen, rows)

    def _repeated_in(self, seen: set[int], hashes: Sequence[int]) -> int:
        """How many of these were seen before, here or in an earlier chunk."""
        fresh = set(hashes)
        repeated = len(hashes) - len(fresh)
        before = len(fresh)
        fresh -= seen
        repeated += before - len(fresh)
        room = self._max - len(seen)
        if len(fresh) > room:
            self._complete = False
            fresh = set(itertools.islice(fresh, max(room, 0)))
        seen |= fresh
        return repeated

    def _observe_ids(self, ids: Sequence[str | None]) -> None:
        self._repeated += self._repeated_in(self._ids, [hash(each) for each in ids if each is not None])

    def _observe_annotators(self, annotators: Sequence[str | None], answers: Sequence[int]) -> None:
        counts = Counter(annotators)
        for name, answer in set(zip(annotators, answers, strict=True)):
            if name is None:
                continue
            if name not in self._answers and len(self._answers) >= MAX_ANNOTATORS:
                self._complete = False
                continue
            if self._answers.setdefault(name, answer) != answer:
                self._varied.add(name)
        for name, count in counts.items():
            if name is not None and name in self._answers:
                self._rows_of[name] += count


def _hashes(columns: Sequence[Column]) -> list[int] | None:
    """One hash per row over the columns that vary; None if none does."""
    varying = [
        [tuple(value) for value in column] if column and type(column[0]) is list else column
        for column in columns
        if not isinstance(column, Constant)
    ]
    if not varying:
        return None
    return [hash(row) for row in zip(*varying, strict=True)]


def _items(columns: dict[str, Column]) -> list[Any] | Sequence[Any] | None:
    """What each row judges: its item, else prompt and response, else prompt and the pair in either order."""
    item = columns["item"]
    if not isinstance(item, Constant):
        return item
    chosen, rejected = columns["chosen_sha256"], columns["rejected_sha256"]
    prompt, response = columns["prompt_sha256"], columns["response_sha256"]
    if not isinstance(chosen, Constant) and not isinstance(rejected, Constant):
        prompts = [None] * len(chosen) if isinstance(prompt, Constant) else prompt
        return [
            None if a is None or b is None else (p, a, b) if a < b else (p, b, a)
            for p, a, b in zip(prompts, chosen, rejected, strict=True)
        ]
    if not isinstance(prompt, Constant) and not isinstance(response, Constant):
        return [None if b is None else (a, b) for a, b in zip(prompt, response, strict=True)]
    return None


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
