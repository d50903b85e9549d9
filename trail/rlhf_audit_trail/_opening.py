"""Steps of opening a trail that a folder can fail, and how a training gets past them.

Where the folder cannot be used, a trail that is not strict is opened all the
same: it has a name, and says that it records nothing, or later, when there is room.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from rlhf_audit_producers.run_identity import RunIdentity, identify
from rlhf_audit_producers.spool import RecordingError
from rlhf_audit_schemas.errors import AuditTrailError, ConfigError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import make_folders_durably
from rlhf_audit_stores.filesystem import advice, network_file_system

logger = logging.getLogger(__name__)


def absolute(directory: str | os.PathLike[str]) -> Path:
    """The folder, wherever the program goes; as it is if the working folder is gone."""
    try:
        return Path(directory).absolute()
    except OSError:  # whatever is made in there says so
        return Path(directory)


def identified(
    spool: Path, disk: Disk, *, strict: bool, run_id: str | None, rank: int | None, world_size: int | None
) -> RunIdentity:
    """Who this process is; alone if nothing can be kept in the folder that would tell its ranks one name.

    Raises ConfigError if an id or a rank cannot be one, RecordingError if ``strict`` and the folder cannot be used.
    """
    try:
        make_folders_durably(disk, spool)
        return identify(spool, disk, run_id=run_id, rank=rank, world_size=world_size)
    except ConfigError:
        raise
    except Exception as error:
        if strict:
            raise RecordingError(f"the trail cannot be opened: {told(error)}") from error
        logger.warning("the folder of the trail cannot be written: %s", told(error))
        return identify(spool, None, run_id=run_id, rank=rank, world_size=world_size)


def warn_of_network(spool: Path, *, strict: bool) -> None:
    """Say what to do if the spool lies where locks may not hold. Raises RecordingError if ``strict``."""
    kind = network_file_system(spool)
    if kind is None:
        return
    text = advice(spool, kind)
    if strict:
        raise RecordingError(text)
    warnings.warn(text, stacklevel=4)


def told(error: Exception) -> str:
    """Our own messages never hold contents; those of others might."""
    return str(error) if isinstance(error, (AuditTrailError, OSError)) else type(error).__name__
