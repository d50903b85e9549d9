"""Hears of steps that a gradient scaler leaves out: no hook of the optimizer is called for those.

``torch.amp.GradScaler.step`` is wrapped at first use, for the whole process: nothing tells
which scaler will step an optimizer, and the steps it skips are mostly the first ones. The
wrapper calls the original with the very arguments, looks whether gradients overflowed without
the optimizer having been stepped, and returns what came back.

Fused optimizers are stepped in any case and leave the update out themselves (``gradient_hook``).
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, Protocol

from rlhf_audit_producers.hooks.tensor_table import innermost


class SkipListener(Protocol):
    """Watches one optimizer."""

    @property
    def optimizer(self) -> Any:
        """The innermost optimizer."""

    @property
    def steps_begun(self) -> int:
        """How often it has been stepped so far."""

    def saw_skip(self) -> None:
        """A scaler did not step it; MUST NOT raise unless the trail is strict."""


_listeners: weakref.WeakSet[Any] = weakref.WeakSet()
_is_installed = False


def listen(listener: SkipListener) -> None:
    """Tell ``listener`` of skipped steps, until ``forget``."""
    _install()
    _listeners.add(listener)


def forget(listener: SkipListener) -> None:
    """No longer."""
    _listeners.discard(listener)


def _install() -> None:
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    from torch.amp import GradScaler

    original: Any = GradScaler.step

    @functools.wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        inner = innermost(optimizer)
        watching = [(one, one.steps_begun) for one in _listeners if one.optimizer is inner]
        result = original(self, optimizer, *args, **kwargs)
        for one, begun in watching:
            if one.steps_begun == begun and _has_overflowed(self, optimizer):
                one.saw_skip()
        return result

    GradScaler.step = step


def _has_overflowed(scaler: Any, optimizer: Any) -> bool:
    """Opacus does not step the inner optimizer for every part of a batch either: that is no skipped step."""
    found = getattr(scaler, "_found_inf_per_device", None)
    return found is not None and any(float(one) for one in found(optimizer).values())
