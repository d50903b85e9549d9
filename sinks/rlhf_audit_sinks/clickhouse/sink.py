"""The ClickHouse sink: every window's rows exactly once, whatever dies in between.

1. A window is cut into one block per table (``blocks``); no block spans two windows.
2. Each block is inserted under a token that names its place and its content:
   ``<topic>/<partition>/<first m>-<last m>/<close, 16 hex>/<table>``. The server
   drops a block whose token it knows, so a retry adds nothing; a forged or
   re-sealed window has another close, so it arrives and shows as a fork.
3. The window's own row in ``audit.windows`` comes last: it says that all is there.

On start the sink goes on from the tables' own maximum window per partition;
what a crash left of the next window is inserted again under the same tokens.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.errors import TransportError
from rlhf_audit_sinks.clickhouse.arrow import encode
from rlhf_audit_sinks.clickhouse.blocks import Block, WindowBlocks, blocks_of
from rlhf_audit_sinks.clickhouse.engine import is_no_room
from rlhf_audit_sinks.clickhouse.migrations import migrate

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

logger = logging.getLogger(__name__)

TOPIC = "audit.sealed"


class ClickHouseError(TransportError):
    """ClickHouse did not take a block; the same call again is safe."""


class ClickHouseSink:
    """Stores windows of any number of partitions, in order within each. Used by one thread."""

    def __init__(self, client: Client) -> None:
        """Applies missing migrations. Raises ConfigError if the tables are not as exactness needs them.

        Raises ClickHouseError if ClickHouse does not answer or has no room.
        """
        from clickhouse_connect.driver.exceptions import ClickHouseError as ClientError

        self._client = client
        try:
            migrate(client)
            rows = client.query("SELECT stream, partition, max(window) FROM audit.windows GROUP BY ALL").result_rows
        except ClientError as error:
            raise ClickHouseError(f"the tables cannot be made or read, {_code(error)}") from None
        self._next: dict[tuple[str, int], int] = {(stream, part): window + 1 for stream, part, window in rows}
        self.rows_stored = 0

    def stored_up_to(self, stream: str, partition: int) -> int:
        """Id of the first window of the partition that is not stored: all before it are."""
        return self._next.get((stream, partition), 0)

    def look_again(self, stream: str, partition: int) -> None:
        """Ask the tables anew how far a partition is: another process may have stored windows of it."""
        rows = self._client.query(
            "SELECT max(window) + 1 FROM audit.windows "
            "WHERE stream = {stream:String} AND partition = {partition:UInt32} HAVING count() > 0",
            parameters={"stream": stream, "partition": partition},
        ).result_rows
        self._next[stream, partition] = rows[0][0] if rows else 0

    def close_hashes(self, stream: str, partition: int, window: int) -> set[bytes]:
        """Leaf hash of the close of every version of a window that is stored; more than one is a fork."""
        rows = self._client.query(
            "SELECT close_hash FROM audit.windows WHERE stream = {stream:String} AND partition = {partition:UInt32} "
            "AND window = {window:UInt64}",
            parameters={"stream": stream, "partition": partition, "window": window},
        ).result_rows
        return {row[0] for row in rows}

    def store(self, window: Sequence[Sealed]) -> None:
        """Store all records since the last close, the last of which closes the window; durable when it returns.

        Storing a window again adds nothing; another window under the same id is added beside the first one, so that
        both can be seen. Raises ClickHouseError if ClickHouse does not answer: call again.
        """
        with _collector_paused():
            self._store(blocks_of(window))

    def _store(self, found: WindowBlocks) -> None:
        close = found.close
        if close.window < self.stored_up_to(close.stream, close.partition) and self._has(found):
            return
        for block in found.blocks:
            self._insert(block, token(found, block))
        self._next[close.stream, close.partition] = max(
            close.window + 1, self.stored_up_to(close.stream, close.partition)
        )
        logger.info("window stored: %s/%d %d rows=%d", close.stream, close.partition, close.window, close.events)

    def _has(self, found: WindowBlocks) -> bool:
        close = found.close
        if found.close_hash in self.close_hashes(close.stream, close.partition, close.window):
            return True
        logger.error(
            "a second version of window %s/%d %d: stored beside the first", close.stream, close.partition, close.window
        )
        return False

    def _insert(self, block: Block, name: str) -> None:
        from clickhouse_connect.driver.exceptions import ClickHouseError as ClientError

        try:
            self._client.raw_insert(
                block.table,
                column_names=block.batch.schema.names,
                insert_block=encode(block.batch),
                settings={
                    "async_insert": 0,
                    "insert_deduplicate": 1,
                    "insert_deduplication_token": name,
                    "min_insert_block_size_rows": 0,
                    "min_insert_block_size_bytes": 0,
                },
                fmt="ArrowStream",
            )
        except ClientError as error:
            # The server's message may quote a value: its code is enough.
            raise ClickHouseError(f"{block.table}: insert of {name} failed, {_code(error)}") from None
        self.rows_stored += block.rows


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No cyclic garbage is made here, but so many objects that looking for it takes half the time (measured)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def token(found: WindowBlocks, block: Block) -> str:
    """Deduplication token of a block: a pure function of where it stands and what it holds."""
    close = found.close
    place = f"{TOPIC}.{close.stream}/{close.partition}/{found.first_m}-{close.m}"
    return f"{place}/{found.close_hash[:8].hex()}/{block.part}"


def _code(error: Exception) -> str:
    code = getattr(error, "code", None)
    said = type(error).__name__ if code is None else f"code {code}"
    return f"the disk is full ({said})" if is_no_room(str(error)) else said
