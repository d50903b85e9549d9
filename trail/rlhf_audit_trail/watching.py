"""``watch`` with a trail behind it; needs torch alone."""

from __future__ import annotations

import os
from typing import Any

from rlhf_audit_producers.hooks.plain import TrainingWatch
from rlhf_audit_trail.recording import AuditTrail
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY

__all__ = ["TrainingWatch", "watch"]


def watch(
    model: Any, optimizer: Any, trail: AuditTrail | str | os.PathLike[str] = DEFAULT_DIRECTORY, **options: Any
) -> TrainingWatch:
    """Record every step of ``optimizer`` from now on, into a directory or an open trail."""
    opened = trail if isinstance(trail, AuditTrail) else AuditTrail(trail)
    return TrainingWatch(model, optimizer, opened, **options)
