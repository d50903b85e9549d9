"""The commands of ``rlhf-audit``: one module each, named like the command.

A command module has ``HELP`` (one line), ``add_arguments(parser)`` and
``run(args) -> int`` (0 checked and fine, 1 tampered or false, 3 could not
check; 2, usage, is raised as ``ConfigError``), and may have ``EXAMPLES``, the
lines shown under ``--help``. It imports what is heavy inside ``run``, since all
modules are loaded to print one command's help.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    import argparse

# In the order of --help. A name here is a module in this folder; a dash is an underscore there.
NAMES: Final[tuple[str, ...]] = (
    "demo",
    "ingest",
    "local",
    "verify",
    "forge",
    "sql",
    "report",
    "dashboard",
    "runs",
    "status",
    "tail",
    "restore",
    "ship",
    "spool",
    "seal",
    "sink",
    "sequence",
    "kafka",
    "topics",
    "keys",
    "config",
)


class Command(Protocol):
    """What every command module offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare flags and positionals."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit status. Results on stdout, everything else on stderr."""


def load(name: str) -> Command:
    """The module of a command in ``NAMES``."""
    return cast(Command, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
