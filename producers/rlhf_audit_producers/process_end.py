"""What has to be done before a process ends, however it leaves.

Children of ``multiprocessing`` leave through ``os._exit``, past ``atexit``,
after finalizers of their own; so do those of ``multiprocess``, its relative
that ``datasets`` starts. What ``atexit`` does elsewhere is done there by such a
finalizer. A process that is killed, or calls ``os._exit`` itself, does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

Owner = TypeVar("Owner")

_LIBRARIES = ("multiprocessing", "multiprocess")
HOOKS_PRIORITY, SPOOL_PRIORITY = 110, 100  # higher ones come first: a hook's last words go into the spool


def before_child_ends(action: Callable[[], None], *, priority: int) -> None:
    """In a child of these libraries, do this at its end. Does nothing elsewhere: ``atexit`` is enough there."""
    for process, util in _loaded():
        if process.parent_process() is not None:
            util.Finalize(None, action, exitpriority=priority)


def when_child_begins(owner: Owner, action: Callable[[Owner], None]) -> None:
    """Do this when a child of these libraries has begun that holds ``owner``.

    Finalizers that it got before are gone by then: it inherits an owner, or gets it as an argument, before it begins.
    """
    for _, util in _loaded():
        util.register_after_fork(owner, action)


def fatal_error() -> type[BaseException] | None:
    """Class of what this process dies of; to be asked at its end. None if it just ends."""
    error = getattr(sys, "last_type", None) or sys.exc_info()[0]  # nobody caught it; in a child it is on its way
    return None if error is None or issubclass(error, SystemExit) else error


def _loaded() -> Iterator[tuple[Any, Any]]:
    """Modules ``process`` and ``util`` of those that this program uses; a child has loaded its own."""
    for name in _LIBRARIES:
        process, util = sys.modules.get(f"{name}.process"), sys.modules.get(f"{name}.util")
        if isinstance(process, ModuleType) and isinstance(util, ModuleType):
            yield process, util
