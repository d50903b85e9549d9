"""The front door: command line, settings and the one-process runtime.

Everything here is glue. No rule of the format lives in this package; rules live
in ``rlhf_audit_ledger`` (pure) and in the role packages, which this one may
import, always lazily: importing ``rlhf_audit_trail`` loads nothing but this
module, so a training process pays for what it uses and for nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_audit_trail.recording import AuditableRLHF, AuditTrail
    from rlhf_audit_trail.settings import Settings, load_settings
    from rlhf_audit_trail.training import AuditCallback, audited
    from rlhf_audit_trail.watching import watch

__version__ = "0.1.0"
__all__ = [
    "AuditCallback",
    "AuditTrail",
    "AuditableRLHF",
    "Settings",
    "__version__",
    "audited",
    "load_settings",
    "watch",
]

# PEP 562: public name -> module that defines it, imported at first use.
_EXPORTS = {
    "AuditCallback": "rlhf_audit_trail.training",
    "AuditTrail": "rlhf_audit_trail.recording",
    "AuditableRLHF": "rlhf_audit_trail.recording",
    "Settings": "rlhf_audit_trail.settings",
    "audited": "rlhf_audit_trail.training",
    "load_settings": "rlhf_audit_trail.settings",
    "watch": "rlhf_audit_trail.watching",
}


def __getattr__(name: str) -> object:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
