"""A small set of judgements that the project makes itself: for the demo and nothing else.

The same bytes every time. Two rows are broken on purpose, so that the demo
shows what becomes of them.
"""

from __future__ import annotations

import json
import random

_TASKS = ("Summarise", "Explain", "Translate", "Rewrite", "Shorten")
_TOPICS = ("tides", "compilers", "bread", "glaciers", "bees", "bridges", "auctions", "lenses", "maps", "sleep")
_RATERS = ("rater-a", "rater-b", "rater-c", "rater-d", "rater-e", "rater-f")
_FIRST_US = 1_760_000_000_000_000  # a fixed day in 2025, microseconds UTC
_SEED = 7


def judgements(rows: int = 1200) -> str:
    """JSONL text of ``rows`` judgements and two broken lines."""
    draw = random.Random(_SEED)  # noqa: S311 - a demo has to look the same every time; nothing secret is drawn here
    lines = []
    for number in range(rows):
        item = number // len(_RATERS)
        prompt = f"{_TASKS[item % len(_TASKS)]} how {_TOPICS[item // len(_TASKS) % len(_TOPICS)]} work, take {item}."
        quality = draw.gauss(3.4, 0.8)
        lines.append(
            json.dumps(
                {
                    "annotation_id": f"demo-{number:05d}",
                    "annotator": _RATERS[number % len(_RATERS)],
                    "judged_at": _FIRST_US // 1_000_000 + number * 41,
                    "item": f"item-{item:04d}",
                    "prompt": prompt,
                    "response": f"Answer {item} to: {prompt}",
                    "score": max(1, min(5, round(quality))),
                }
            )
        )
    lines.insert(rows // 3, '{"annotation_id": "demo-broken", "annotator": "rater-a", ')
    lines.insert(rows // 2, '["not", "an", "object"]')
    return "\n".join(lines) + "\n"
