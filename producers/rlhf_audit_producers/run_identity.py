"""Which run this process belongs to, and which rank it is, without asking the other ranks.

First found wins: what the caller says; ``RLHF_AUDIT_RUN_ID``, which a process
that opens a trail leaves to its children; ``TORCHELASTIC_RUN_ID`` (torchrun);
``SLURM_JOB_ID``; a name that is made once. The first four are the same in every
rank and after every restart, so a restart is a new epoch of the same run.

torchrun without ``--rdzv-id`` says ``none``, and ``torch.multiprocessing.spawn``
says nothing: then all ranks of a node find the same name in a file that is
created once for their common parent process. A rank is what has ``RANK`` in its
environment, or a process group of several in torch. Ranks on several nodes need an id of the first four kinds.

Nothing here knows of checkpoints: a run that resumes from one is a run of its
own and names its parent (``AuditTrail(parent_run_id=...)``).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.disk import Disk
from rlhf_audit_stores.durable import AlreadyStoredError, create_file_durably

RUN_ID_VARIABLE = "RLHF_AUDIT_RUN_ID"
RUNS_FOLDER = "runs"
MAX_RUN_ID_BYTES = 160  # a producer id, <run>/<rank>/<n>, has at most 200
_UNSAID = frozenset({"", "none"})  # torchrun's default id
_RANKS = ("RANK", "SLURM_PROCID")
_WORLDS = ("WORLD_SIZE", "SLURM_NTASKS")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """``source`` says where the run id came from."""

    run_id: str
    rank: int
    world_size: int
    source: str

    @property
    def producer(self) -> str:
        """Producer id of the rank itself; other processes of it add ``/1`` and so on."""
        return f"{self.run_id}/{self.rank}"


def identify(
    spool: Path,
    disk: Disk | None,
    *,
    run_id: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> RunIdentity:
    """The identity of this process. Raises ConfigError if an id or a rank cannot be one.

    Without a disk a name that has to be made is this process's alone.
    """
    environ = os.environ if environ is None else environ
    torch_rank, torch_world = _torch_ranks()
    found_rank = _first_number(rank, environ, _RANKS, torch_rank, 0)
    found_world = _first_number(world_size, environ, _WORLDS, torch_world, 1)
    is_rank = "RANK" in environ or (torch_world or 1) > 1
    found, source = _run_id(spool, disk, run_id, environ, is_rank=is_rank)
    if not found or _utf8_bytes(found) > MAX_RUN_ID_BYTES or any(ord(char) < 33 for char in found):
        raise ConfigError(f"run id: expected 1 to {MAX_RUN_ID_BYTES} bytes without spaces, from {source}")
    if not 0 <= found_rank < max(found_world, found_rank + 1):
        raise ConfigError(f"rank: expected 0 or more, found {found_rank}")
    return RunIdentity(found, found_rank, max(found_world, 1), source)


def _utf8_bytes(text: str) -> int:
    """Length; endless for half a surrogate pair, which no UTF-8 holds."""
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return sys.maxsize


def _run_id(
    spool: Path, disk: Disk | None, given: str | None, environ: Mapping[str, str], *, is_rank: bool
) -> tuple[str, str]:
    if given is not None:
        return given, "argument"
    if (inherited := environ.get(RUN_ID_VARIABLE, "")) not in _UNSAID:
        return inherited, RUN_ID_VARIABLE
    if (elastic := environ.get("TORCHELASTIC_RUN_ID", "")) not in _UNSAID:
        return elastic, "TORCHELASTIC_RUN_ID"
    if (job := environ.get("SLURM_JOB_ID", "")) not in _UNSAID:
        return f"slurm-{job}", "SLURM_JOB_ID"
    process = os.getppid() if is_rank else os.getpid()
    return (_made() if disk is None else _made_once(spool, disk, process)), "made once"


def _made_once(spool: Path, disk: Disk, process: int) -> str:
    """The name for the processes that share this one: created by the first, read by the others."""
    key = f"{socket.gethostname()} {process} {_started(process)}"
    path = spool / RUNS_FOLDER / hashlib.sha256(key.encode("utf-8")).hexdigest()[:32]
    with suppress(AlreadyStoredError):
        create_file_durably(disk, path, _made().encode("ascii"))
    return disk.read(path).decode("ascii")


def _made() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def _started(process: int) -> str:
    """When a process began, in clock ticks since the machine did: process numbers come again."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot} {stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""


def _first_number(
    given: int | None, environ: Mapping[str, str], names: tuple[str, ...], torch_says: int | None, default: int
) -> int:
    if given is not None:
        return given
    for name in names:
        text = environ.get(name, "")
        if text:
            if not text.isdecimal():
                raise ConfigError(f"environment {name}: expected a whole number, found {text[:20]!r}")
            return int(text)
    return default if torch_says is None else torch_says


def _torch_ranks() -> tuple[int | None, int | None]:
    """What an initialised process group says; torch is looked at only if the program itself has loaded it."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None, None
    return distributed.get_rank(), distributed.get_world_size()
