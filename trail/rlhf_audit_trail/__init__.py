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

__version__ = "0.1.0"
__all__ = ["AuditTrail", "AuditableRLHF", "Settings", "__version__", "load_settings"]

# PEP 562: public name -> module that defines it, imported at first use.
_EXPORTS = {
    "AuditTrail": "rlhf_audit_trail.recording",
    "AuditableRLHF": "rlhf_audit_trail.recording",
    "Settings": "rlhf_audit_trail.settings",
    "load_settings": "rlhf_audit_trail.settings",
}


def __getattr__(name: str) -> object:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
