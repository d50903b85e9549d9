"""One version of the sealer on a partition's two logs: what is sealed is sealed again, then so many messages more.

    sealing_version.py FOLDER COUNT

Prints how many kinds of events this version knows and the last m. Exit status 7: the next message is of a format that
this version does not know.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from builders import make_sealer
from rlhf_audit_ledger.state import UnknownFormatError
from rlhf_audit_processors.recovery import recover
from rlhf_audit_processors.seal_loop import SealLoop
from rlhf_audit_schemas.kinds import shipped_schemas
from rlhf_audit_stores.objects import MemoryStore
from rlhf_audit_stores.sealedlog import SealedLog
from rlhf_audit_stores.sourcelog import SourceLog

STOPPED = 7


def main(folder: Path, count: int) -> int:
    source, sealed = SourceLog.open(folder / "source"), SealedLog.open(folder / "sealed")
    sealer = make_sealer()
    try:
        loop = SealLoop(sealer, recover(sealer, MemoryStore(), sealed, source).state, source, sealed)
        for _ in islice(loop.run(), count):
            pass
    except UnknownFormatError:
        return STOPPED
    finally:
        sealed.sync()
    print(len(shipped_schemas()), loop.state.m)  # noqa: T201 - a command of its own
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), int(sys.argv[2])))
