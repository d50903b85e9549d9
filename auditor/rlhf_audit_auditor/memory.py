"""What this verifier accepted before: the last global checkpoint of each ledger, kept outside every trail.

It is what makes a second look worth more than the first: whoever holds the key
can rewrite a whole trail, but not so that it extends what was seen. Written
only after a check that passed; a verifier that must not remember passes none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_auditor.evidence import UnreadableError

STATE_VARIABLE = "RLHF_AUDIT_STATE"


@dataclass(frozen=True, slots=True)
class Memory:
    """A folder with ``seen/<ledger_id>.checkpoint``."""

    folder: Path

    def path(self, ledger_id: bytes) -> Path:
        """Where the checkpoint of a ledger stands."""
        return self.folder / "seen" / f"{ledger_id.hex()}.checkpoint"

    def read(self, ledger_id: bytes) -> bytes | None:
        """The checkpoint accepted last. Raises UnreadableError if there is one that cannot be read."""
        try:
            return self.path(ledger_id).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnreadableError(f"{self.path(ledger_id)}: {error.strerror}") from error

    def write(self, ledger_id: bytes, checkpoint: bytes) -> None:
        """Replace the checkpoint at once, never by a torn one."""
        path = self.path(ledger_id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".tmp-", delete=False) as file:
            file.write(checkpoint)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)


def default_memory(environ: Mapping[str, str]) -> Memory:
    """The folder that RLHF_AUDIT_STATE names, else ``rlhf-audit`` in the user's state folder."""
    if named := environ.get(STATE_VARIABLE):
        return Memory(Path(named))
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Memory(Path(base) / "rlhf-audit")
