"""Where the demo happens: its folder, its console, and commands that are shown before they run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_MARKER = ".made-by-rlhf-audit-demo"


@dataclass(slots=True)
class Stage:
    """One demo. ``worst`` is the highest exit status of the commands that had to succeed."""

    out: Path
    console: Console
    flags: Sequence[str] = ()
    """Flags that every command with a progress bar is given."""
    worst: int = 0
    _chapters: int = field(default=0, init=False)

    @property
    def trail(self) -> Path:
        return self.out / "trail"

    @property
    def kept(self) -> Path:
        return self.out / "kept-elsewhere"

    def chapter(self, title: str) -> None:
        """Begin the next chapter."""
        self._chapters += 1
        self.console.print()
        self.console.rule(f"[bold]{self._chapters}. {title}", align="left")

    def say(self, text: str) -> None:
        """A line of the story; markup is not looked for."""
        self.console.print(text, markup=False)

    def table(self, names: Sequence[str], rows: Sequence[Sequence[str | int]]) -> None:
        """Aligned columns, numbers to the right, nothing cut."""
        from rlhf_audit_trail.query_ask import Rows, table_lines

        types = ["UInt64" if isinstance(cell, int) else "String" for cell in (rows[0] if rows else names)]
        for line in table_lines(Rows(list(names), types, [list(row) for row in rows])):
            self.say(line)

    @contextmanager
    def busy(self, text: str) -> Iterator[Callable[[str], None]]:
        """Something moves while nothing is printed, on a terminal; gives what changes the words beside it."""
        if not self.console.is_terminal or "off" in self.flags:
            yield lambda text: None
            return
        with self.console.status(text) as status:
            yield lambda text: status.update(text)

    def show_command(self, words: Sequence[str]) -> None:
        """What is about to run, as a user would type it."""
        self.console.print(f"$ {shlex.join(words)}", style="dim", markup=False)

    def run(self, *arguments: str | Path) -> int:
        """Run one ``rlhf-audit`` command in this process, after showing it. Interrupted, the demo is."""
        from rlhf_audit_trail.cli import INTERRUPTED, main

        words = [str(argument) for argument in arguments]
        self.show_command(["rlhf-audit", *words])
        self.console.print()
        status = main(words)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        self.worst = max(self.worst, status)
        return status


def make_anew(out: Path) -> None:
    """An empty folder; only one that an earlier demo made is deleted. Raises ConfigError for any other."""
    if out.exists():
        if not (out / _MARKER).exists():
            raise ConfigError(f"{out} exists and was not made by the demo: name another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).touch()
