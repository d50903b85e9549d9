"""Object stores: one small Protocol, and where evidence may lie.

``MemoryStore`` for tests, ``FolderStore`` for a folder (fsynced by ourselves),
``ObstoreStore`` for S3, Google Cloud Storage and Azure; ``open_store`` makes the
one that the settings name. They share a contract test
(``tests/contract/test_object_stores.py``), not code.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores._folder_store import FolderStore
from rlhf_audit_stores._object_store import (
    BadNameError,
    MemoryStore,
    NotStoredError,
    ObjectInfo,
    ObjectStore,
    SwapLostError,
    Version,
    check_name,
)
from rlhf_audit_stores._obstore_store import ObstoreStore
from rlhf_audit_stores.durable import AlreadyStoredError

if TYPE_CHECKING:
    from rlhf_audit_stores.disk import Disk

_ANSWER_S = timedelta(seconds=20)  # a store that is silent for longer is down: whoever waits has a group to serve


def open_store(folder: Path, url: str = "", *, disk: Disk | None = None, mode: int = 0o644) -> ObjectStore:
    """The store at ``url`` (``s3://bucket/prefix``), or the folder if that is empty.

    Keys and endpoint of a bucket come from the environment, as its own tools read them (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT_URL``, ...); plain HTTP only if ``AWS_ALLOW_HTTP`` says so. Raises ConfigError for a URL that no
    store here can be made of.
    """
    if not url:
        return FolderStore(folder, disk, mode=mode)
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    # Options given here replace the environment's, this one included: without it a server of one's own is refused.
    is_plain_allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    try:
        return ObstoreStore(
            from_url(
                url,
                client_options={"timeout": _ANSWER_S, "allow_http": is_plain_allowed},
                retry_config={"max_retries": 2, "retry_timeout": _ANSWER_S},
            )
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{url}: no object store: {type(error).__name__}") from error


__all__ = [
    "AlreadyStoredError",
    "BadNameError",
    "FolderStore",
    "MemoryStore",
    "NotStoredError",
    "ObjectInfo",
    "ObjectStore",
    "ObstoreStore",
    "SwapLostError",
    "Version",
    "check_name",
    "open_store",
]
