"""Training hooks: what a trainer, an optimizer or a reward function is observed with.

A hook observes. It changes no tensor, no random state and no control flow, and
hands what it saw to a ``Recording`` (the trail gives the real one), which only
queues. What fails in here is logged once and declared; it never reaches the
training, unless the trail is strict.

Importing this package loads neither torch nor transformers; ``callback`` and
``audited`` do, so they are imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_audit_producers.hooks.callback import AuditCallback
    from rlhf_audit_producers.hooks.lineage import audited
    from rlhf_audit_producers.hooks.plain import TrainingWatch, watch
    from rlhf_audit_producers.hooks.recording import Recording
    from rlhf_audit_producers.hooks.rollouts import recorded_rewards

__all__ = ["AuditCallback", "Recording", "TrainingWatch", "audited", "recorded_rewards", "watch"]

_EXPORTS = {
    "AuditCallback": "callback",
    "Recording": "recording",
    "TrainingWatch": "plain",
    "audited": "lineage",
    "recorded_rewards": "rollouts",
    "watch": "plain",
}


def __getattr__(name: str) -> object:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
