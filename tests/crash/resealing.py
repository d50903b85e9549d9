"""Seal a copy of the source logs again, alone in memory, and compare with what a trail stored.

The comparison covers partition logs, checkpoints, segments and vault objects;
the global log is left out, since its order depends on time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from crash.fake_disk import PassingDisk
from rlhf_audit_ledger.globallog import genesis_of
from rlhf_audit_ledger.seal import Sealed, Sealer, seal_all
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_ledger.state import first_state
from rlhf_audit_ledger.tiles import Edge, TileReader
from rlhf_audit_sinks.evidence import EvidenceSink
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.keys import load_keys
from rlhf_audit_stores.objects import FolderStore, MemoryStore
from rlhf_audit_stores.sourcelog import SourceLog


class KeepingDisk(PassingDisk):
    """Keeps a copy of every source-log segment that it is told to delete."""

    def __init__(self, inner: Disk, copy: Path) -> None:
        super().__init__(inner)
        self._copy = copy

    def unlink(self, path: Path) -> None:
        if path.parent.name == "source" and path.suffix == ".log":
            kept = self._copy / path.parent.parent.parent.name / path.parent.parent.name / path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            if not kept.exists():
                part = kept.with_suffix(".part")  # whoever is killed here leaves no half copy under the name
                part.write_bytes(path.read_bytes())
                part.replace(kept)
        super().unlink(path)


def genesis_bytes(trail: Path) -> bytes:
    """Genesis of a trail, from leaf 0 of its global log."""
    store = FolderStore(trail / "objects")
    size = int(store.get("global/checkpoint").split(b"\n", 2)[1])
    return genesis_of(TileReader(size, lambda path: store.get(f"global/{path}")).entry(0))


def sealed_again(trail: Path, copy: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """For each partition of ``trail``: its name and the objects that a fresh sealing of its source log makes.

    ``copy`` is where a KeepingDisk kept deleted segments; what still lies in the trail is added to it.
    """
    keys = load_keys(trail / "keys")
    genesis = genesis_bytes(trail)
    for folder in sorted((trail / "spool").glob("*/*/source")):
        stream, partition = folder.parent.parent.name, int(folder.parent.name)
        whole = copy / stream / str(partition)
        shutil.copytree(folder, whole, dirs_exist_ok=True)
        source = SourceLog.open(whole, RealDisk())
        sealer = Sealer(partition_settings(genesis, stream, partition), keys.quarantine_key, keys.log)
        objects, vault = MemoryStore(), MemoryStore()
        sink = EvidenceSink(
            sealer.settings, objects=objects, vault=vault, vault_key=keys.vault_key, edge=Edge.empty(), version=None
        )
        state = first_state(sealer.settings, source.source_id)
        window: list[Sealed] = []
        for message in source.read_from(0):
            state, sealed = seal_all(sealer, state, message)
            for one in sealed:
                window.append(one)
                if one.close is not None:
                    sink.store(window)
                    window = []
        source.close()
        made = {f"objects/{info.name}": objects.get(info.name) for info in objects.list("")}
        made |= {f"vault/{info.name}": vault.get(info.name) for info in vault.list("")}
        yield sealer.settings.name, made


def differences(trail: Path, copy: Path) -> list[str]:
    """Names that a fresh sealing makes and the trail lacks or holds with other bytes, and those it has beyond it.

    A partial tile that only one of the two still holds is no difference: when those go is a matter of timing.
    """
    found: list[str] = []
    expected: dict[str, bytes] = {}
    for _, made in sealed_again(trail, copy):
        expected |= made
    for name, data in expected.items():
        path = trail / name
        if not path.exists():
            if ".p/" not in name:
                found.append(f"missing {name}")
        elif path.read_bytes() != data:
            found.append(f"differs {name}")
    for root in ("objects/logs", "objects/segments", "vault"):
        for path in sorted((trail / root).rglob("*")):
            name = str(path.relative_to(trail))
            if path.is_file() and name not in expected and ".p/" not in name:
                found.append(f"unexpected {name}")
    return found
