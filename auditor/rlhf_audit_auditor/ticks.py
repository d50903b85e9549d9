"""Ticks: which state of the global log their writer had seen (``docs/format.md`` section 2).

Size and root bound the time of a window from below: the state existed, sizes
never fall, and it came before the window's own checkpoint. A tick of size 0 saw no global log.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.global_log import RootAt
from rlhf_audit_ledger.control import Tick
from rlhf_audit_ledger.merkle import EMPTY_ROOT


class TickCheck:
    """Ticks of one partition, in order."""

    def __init__(self, root_at: RootAt, findings: Findings) -> None:
        self._root_at = root_at
        self._findings = findings
        self._last = (0, EMPTY_ROOT)

    def see(self, window: int, ticks: Sequence[Tick], index: int) -> None:
        """Valid ticks of a window whose checkpoint is leaf ``index`` of the global log."""
        for tick in ticks:
            seen = (tick.global_size, tick.global_root)
            if seen != self._last:
                self._check(window, tick, index)
                self._last = max(self._last, seen)

    def _check(self, window: int, tick: Tick, index: int) -> None:
        size = tick.global_size
        if size < self._last[0]:
            self._findings.add("tick", f"names global size {size}, one before it {self._last[0]}", window=window)
        elif size > index:
            message = f"names global size {size}, this window's own checkpoint is leaf {index}"
            self._findings.add("tick", message, window=window)
        else:
            root = EMPTY_ROOT if size == 0 else self._root_at(size)
            if root is not None and root != tick.global_root:
                message = f"names root {tick.global_root.hex()} at global size {size}, the log has {root.hex()}"
                self._findings.add("tick", message, window=window)
