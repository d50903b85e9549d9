"""The bar that ``progress.track`` draws: everything that needs rich, kept out of the way of those who do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class CountColumn(ProgressColumn):
    """Units done, of how many, and units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        done = f"{int(task.completed):,}"
        of = "" if task.total is None else f"/{int(task.total):,}"
        speed = task.finished_speed or task.speed
        rate = "" if speed is None else f" · {speed:,.0f}/s"
        return Text(f"{done}{of} {self._unit}{rate}")


class BarMeter:
    """Passes counts on to one task of a rich display."""

    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, count: int) -> None:
        self._display.advance(self._task, count)

    def describe(self, text: str) -> None:
        self._display.update(self._task, description=text)


@contextmanager
def shown_meter(total: int | None, description: str, unit: str) -> Iterator[BarMeter]:
    """Draw on stderr until the block ends; the last state stays on the screen."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        CountColumn(unit),
        TimeElapsedColumn() if total is None else TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True, force_terminal=True), refresh_per_second=5) as display:
        yield BarMeter(display, display.add_task(description, total=total))
