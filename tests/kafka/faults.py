"""What goes wrong in a chaos run, drawn from a seed: a schedule that can be repeated."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fault = Literal[
    "sealer kill",
    "sealer term",
    "sealer stop",
    "broker kill",
    "broker term",
    "broker and sealer kill",
    "shipper kill",
    "shipper term",
    "objects sink kill",
    "objects sink stop",
    "clickhouse sink kill",
    "clickhouse outage",
    "sequencer kill",
]

# How often each is drawn in a schedule of 24. A broker fault takes the longest: the next waits for every replica.
WEIGHTS: dict[Fault, int] = {
    "sealer kill": 4,
    "sealer term": 2,
    "sealer stop": 2,
    "broker kill": 2,
    "broker term": 1,
    "broker and sealer kill": 2,
    "shipper kill": 2,
    "shipper term": 1,
    "objects sink kill": 2,
    "objects sink stop": 1,
    "clickhouse sink kill": 2,
    "clickhouse outage": 2,
    "sequencer kill": 1,
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault, what it hits, and how long after the one before has passed."""

    fault: Fault
    target: int
    pause_s: float


def schedule(seed: int, count: int) -> Sequence[Planned]:
    """``count`` faults in the given shares, in an order drawn from ``seed``."""
    draw = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    deck: list[Fault] = []
    while len(deck) < count:
        one = [fault for fault, weight in WEIGHTS.items() for _ in range(weight)]
        draw.shuffle(one)
        deck += one
    return [Planned(fault, draw.randrange(3), draw.uniform(0.5, 3.0)) for fault in deck[:count]]


def summary(planned: Sequence[Planned]) -> str:
    """How many of each."""
    return ", ".join(f"{count} {fault}" for fault, count in Counter(one.fault for one in planned).most_common())
