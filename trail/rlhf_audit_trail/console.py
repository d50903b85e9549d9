"""Writing for people, over rich."""

from __future__ import annotations

from typing import NoReturn

from rich.console import Console


class PeopleConsole(Console):
    """A console that leaves it to the command what a reader who has gone means.

    rich would end the process with status 1, which here says that something was tampered with.
    """

    def on_broken_pipe(self) -> NoReturn:
        """Raises BrokenPipeError."""
        raise BrokenPipeError
