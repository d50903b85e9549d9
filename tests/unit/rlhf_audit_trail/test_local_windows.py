"""When the one-process runtime closes windows: by a clock that nobody sets, once their time is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders import START_US
from query_copies import annotation, batch
from rlhf_audit_processors.window_clock import Instant
from rlhf_audit_trail.local import LocalTrail

WINDOW_US = 10_000_000


class Clock:
    """Both clocks of a machine whose wall clock may be set."""

    def __init__(self) -> None:
        self.passed_us = self.set_by_us = 0

    def __call__(self) -> Instant:
        return Instant(START_US + self.passed_us + self.set_by_us, self.passed_us)


@pytest.mark.parametrize("set_by_us", [0, -3_600_000_000, 3_600_000_000], ids=["kept", "back", "forward"])
def test_a_window_closes_when_its_time_is_over_whatever_the_clock_is_set_to(tmp_path: Path, set_by_us: int) -> None:
    clock = Clock()
    with LocalTrail(tmp_path, clock=clock) as trail:
        for number, windows in ((0, 1), (1, 2)):
            trail.append("annotations", 0, [batch(trail, [annotation(number)], producer=f"p{number}")])
            trail.work()
            clock.set_by_us += set_by_us
            clock.passed_us += WINDOW_US - 1
            trail.work_on_idle()
            assert trail.windows_stored == windows - 1
            clock.passed_us += 1
            trail.work_on_idle()
            assert trail.windows_stored == windows


def test_an_idle_partition_gets_no_window(tmp_path: Path) -> None:
    clock = Clock()
    with LocalTrail(tmp_path, clock=clock) as trail:
        trail.part("annotations", 0)
        clock.passed_us += 10 * WINDOW_US
        trail.work_on_idle()
        assert trail.windows_stored == 0
