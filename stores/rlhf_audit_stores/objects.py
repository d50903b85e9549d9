"""Object stores: one small Protocol, and where evidence may lie.

``MemoryStore`` for tests, ``FolderStore`` for a folder (fsynced by ourselves),
``ObstoreStore`` for S3, Google Cloud Storage and Azure. They share a contract
test (``tests/contract/test_object_stores.py``), not code.
"""

from __future__ import annotations

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
]
