"""The training hooks with a trail behind them: what a training script imports.

    from rlhf_audit_trail import AuditCallback

    audit = AuditCallback("./rlhf-audit")
    trainer = DPOTrainer(..., callbacks=[audit])

Glue only: ``rlhf_audit_producers.hooks`` observes, ``AuditTrail`` records.
Importing this module loads transformers; ``watch`` does not need it.
"""

from __future__ import annotations

import os
from typing import Any

from rlhf_audit_producers.hooks import callback
from rlhf_audit_producers.hooks.lineage import audited
from rlhf_audit_trail.recording import AuditTrail
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY

__all__ = ["AuditCallback", "audited"]

_OF_THE_CALLBACK = frozenset({"gradients", "update_norm", "store_ids", "digest_model", "restored"})


class AuditCallback(callback.AuditCallback):
    """Records a training into a trail: a directory, or an ``AuditTrail`` that is open already.

    Further options are those of ``AuditTrail`` (``run_id``, ``strict``, ``store_text``...) where a directory is given,
    and of the callback: ``gradients``, ``update_norm``, ``store_ids``, ``digest_model``.
    """

    def __init__(self, trail: AuditTrail | str | os.PathLike[str] = DEFAULT_DIRECTORY, **options: Any) -> None:
        own = {name: value for name, value in options.items() if name in _OF_THE_CALLBACK}
        others = {name: value for name, value in options.items() if name not in _OF_THE_CALLBACK}
        if own.get("restored"):
            super().__init__(**own)
            return
        if isinstance(trail, AuditTrail):
            if others:
                raise TypeError(f"options of the trail, which is open already: {', '.join(sorted(others))}")
            self.trail = trail
        else:
            self.trail = AuditTrail(trail, **others)
        super().__init__(self.trail, **own)
