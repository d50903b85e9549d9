"""Stored windows read back from the evidence and its vault: what a rebuilt store is fed with.

A window is given only if its partition's checkpoint covers it, its vault
object decrypts, and the leaves of what stands there give the window's root:
so a rebuilt query copy holds what was sealed, or this raises. It is no
``verify``: signatures and the chain are not checked here.

Erased events are missing in the newest generation of a vault object; their
leaves are taken from the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rlhf_audit_ledger.batch import BATCH_TYPE, BatchBody
from rlhf_audit_ledger.checkpoint import parse_checkpoint
from rlhf_audit_ledger.close import Close
from rlhf_audit_ledger.entries import event_entries
from rlhf_audit_ledger.header import SealHeader
from rlhf_audit_ledger.merkle import leaf_hashes, root_of
from rlhf_audit_ledger.note import split_note
from rlhf_audit_ledger.objects import SEGMENT, log_prefix, segment_name, vault_name
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_ledger.sealed import SealedRecord
from rlhf_audit_ledger.tiles import TileReader
from rlhf_audit_ledger.vault import VaultRecord, open_vault
from rlhf_audit_schemas.codec import StrictCodec
from rlhf_audit_schemas.errors import CouldNotCheckError, FormatError, TamperError
from rlhf_audit_stores.objects import NotStoredError, ObjectStore

_ENVELOPE = StrictCodec("envelope/event_batch.avsc")


class WindowBrokenError(TamperError):
    """Segment, vault object and log of a window do not fit together."""


class PayloadMissingError(CouldNotCheckError):
    """A window's vault object is not there: lost, or deleted without an erasure record. ``verify`` says the same."""


@dataclass(frozen=True, slots=True)
class StoredWindows:
    """The windows of one partition, as far as its checkpoint covers them."""

    objects: ObjectStore
    vault: ObjectStore
    vault_key: bytes
    stream: str
    partition: int

    def size(self) -> int:
        """Size that the partition's checkpoint states; 0 if there is none."""
        try:
            data = self.objects.get(f"{log_prefix(self.stream, self.partition)}/checkpoint")
        except NotStoredError:
            return 0
        return parse_checkpoint(split_note(data)[0]).size

    def has(self, window: int) -> bool:
        """Whether a segment of this window lies there; ``read`` says whether it is covered."""
        return self.objects.exists(segment_name(self.stream, self.partition, window))

    def read_from(self, window: int) -> Iterator[list[Sealed]]:
        """Windows from ``window`` on, as far as the checkpoint covers them.

        Raises WindowBrokenError or VaultError where what stands there contradicts the log, also by a segment that is
        missing; PayloadMissingError where the vault lacks an object; FormatError.
        """
        size = 0
        while self.has(window):
            size = max(size, 0) or self.size()
            found = self._read(window, size)
            if found is None:
                size = self.size()
                found = self._read(window, size)
                if found is None:
                    return
            yield found
            window += 1
        if self._covers(window) and not self.has(window):  # asked again: it may have been stored meanwhile
            raise WindowBrokenError(f"{segment_name(self.stream, self.partition, window)}: missing")

    def _covers(self, window: int) -> bool:
        """Whether the checkpoint's last close is of this window or of a later one."""
        size = self.size()
        if not size:
            return False
        prefix = log_prefix(self.stream, self.partition)
        reader = TileReader(size, lambda path: self.objects.get(f"{prefix}/{path}"))
        return Close.decode(reader.entry(size - 1)).window >= window

    def _read(self, window: int, size: int) -> list[Sealed] | None:
        name = segment_name(self.stream, self.partition, window)
        records = [SealedRecord.from_segment(raw) for raw in SEGMENT.decode(name, self.objects.get(name))]
        if records[-1].close is None:
            raise WindowBrokenError(f"{name}: does not end with a close")
        close = Close.decode(records[-1].close)
        if close.size > size:
            return None
        kept = self._vault_records(window)
        if len(kept) != len(records):
            raise WindowBrokenError(f"{name}: {len(records)} records, its vault object has {len(kept)}")
        index, found = close.first_index, []
        for record, secret in zip(records, kept, strict=True):
            one = self._sealed(record, secret, index, size)
            index += len(one.leaves)
            found.append(one)
        found[-1] = replace(found[-1], close=close)
        if root_of([leaf for one in found for leaf in one.leaves]) != close.window_root:
            raise WindowBrokenError(f"{name}: what the vault holds does not hash to the window's root")
        return found

    def _vault_records(self, window: int) -> list[VaultRecord]:
        generation = 0
        while self.vault.exists(vault_name(self.stream, self.partition, window, generation + 1)):
            generation += 1
        name = vault_name(self.stream, self.partition, window, generation)
        try:
            data = self.vault.get(name)
        except NotStoredError as error:
            raise PayloadMissingError(f"vault/{name}: missing, lost or deleted without an erasure record") from error
        return open_vault(f"vault/{name}", data, self.vault_key)

    def _sealed(self, record: SealedRecord, secret: VaultRecord, index: int, size: int) -> Sealed:
        header = SealHeader.decode(record.header)
        own = leaf_hashes(record.entries)
        batch = header.batch
        if batch is None or header.outcome not in ("accepted", "gap_filled"):
            return Sealed(replace(record, value=secret.value), header, (), own, None, secret.salt)
        value, body = _batch_of(secret)
        if len(body.events) != batch.count:
            raise WindowBrokenError(f"offset {header.offset}: {len(body.events)} events, sealed were {batch.count}")
        entries = event_entries(self.stream, batch.kind, batch.schema, body.events)
        if secret.erased is not None:
            entries = self._with_erased(entries, secret.erased, index + len(own), size)
        leaves = own + leaf_hashes(entries)
        return Sealed(replace(record, value=value), header, entries, leaves, None, secret.salt)

    def _with_erased(self, entries: list[bytes], erased: dict[str, object], first: int, size: int) -> list[bytes]:
        prefix = log_prefix(self.stream, self.partition)
        reader = TileReader(size, lambda path: self.objects.get(f"{prefix}/{path}"))
        positions = erased["erased"]
        if not isinstance(positions, list):
            raise FormatError("erased positions are no list")
        for at in positions:
            entries[at] = reader.entry(first + at)
        return entries


def _batch_of(secret: VaultRecord) -> tuple[bytes, BatchBody]:
    """Source value and body; an erased batch is wrapped as it was, with empty bytes in place of what is gone."""
    if secret.erased is not None:
        encoded = secret.erased["body"]
        if not isinstance(encoded, bytes):
            raise FormatError("body of an erased batch is no bytes")
        value = _ENVELOPE.encode({"type": BATCH_TYPE, "body": encoded, "signature": secret.erased["signature"]})
        return value, BatchBody.decode(encoded)
    if secret.value is None:
        raise WindowBrokenError(f"offset {secret.offset}: a batch without its value")
    raw = _ENVELOPE.decode(secret.value)
    return secret.value, BatchBody.decode(raw["body"])
