"""``rlhf-audit seal`` that raises once, somewhere in the middle: ``sealer_child.py WHERE MARKER WORDS...``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_audit_processors.kafka import links, owned
from rlhf_audit_processors.seal_loop import SealLoop
from rlhf_audit_trail.cli import main

AFTER = 17  # calls


def once(call: Callable[..., Any], marker: Path) -> Callable[..., Any]:
    """The same call, which raises at its n-th time unless an earlier process did."""
    count = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == AFTER and not marker.exists():
            marker.touch()
            raise RuntimeError("raised by the test")
        return call(*arguments, **named)

    return wrapped


def run(where: str, marker: Path, words: list[str]) -> int:
    owner: Any
    owner, name = {
        "agent": (owned.Inbox, "put"),
        "loop": (SealLoop, "run"),
        "send": (links.Links, "send"),
    }[where]
    setattr(owner, name, once(getattr(owner, name), marker))
    return main(["-v", *words])


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
