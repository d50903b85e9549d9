"""``python -m rlhf_audit_trail``: the same as ``rlhf-audit``."""

from __future__ import annotations

from rlhf_audit_trail.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
