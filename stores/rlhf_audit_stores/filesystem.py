"""What kind of file system a folder lies on: a spool wants a local one.

``statfs(2)`` tells by a magic number (linux/magic.h and the manual page of the
call). On network file systems a sync is slow, locks may not exclude processes
of other nodes, and a name that was created exclusively may not be. Systems
without that call are taken as local.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_NETWORK = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x013111A8: "IBRIX",
    0xAAD7AAEA: "PanFS",
}


def network_file_system(folder: Path) -> str | None:
    """Name of the network file system that holds ``folder``, or None for a local one; the folder must exist."""
    return _NETWORK.get(_magic(folder))


def advice(folder: Path, kind: str) -> str:
    """What to do about it, in one sentence."""
    return (
        f"{folder} lies on a network file system ({kind}), where locks and syncs cannot be relied on: give each node a "
        "folder on a local disk (for example below /var/tmp), or a path of its own, and copy objects/ afterwards"
    )


def _magic(folder: Path) -> int:
    if not sys.platform.startswith("linux"):
        return 0
    buffer = ctypes.create_string_buffer(256)  # struct statfs is 120 bytes; its first field is the type
    statfs = getattr(ctypes.CDLL(None), "statfs", None)
    if statfs is None or statfs(str(folder).encode(), buffer) != 0:
        return 0
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF
