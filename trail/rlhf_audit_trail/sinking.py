"""What a sink of a trail is made of: ledger, keys, brokers, and one of the two stores.

A sink needs the genesis (from the objects) and two keys: ``quarantine`` and
``vault``. It signs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_audit_ledger.settings import PartitionSettings, partition_settings
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_sinks.window_stores import ClickHouseWindows, ObjectsWindows, WindowStore
from rlhf_audit_stores.keys import load_secret
from rlhf_audit_stores.objects import ObjectStore
from rlhf_audit_trail.founding import Ledger
from rlhf_audit_trail.places import clickhouse_password, open_vault

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink
    from rlhf_audit_trail.settings import Settings

logger = logging.getLogger(__name__)

ALARMS = "alarms"


def all_partitions(ledger: Ledger) -> list[PartitionSettings]:
    """Every partition that the genesis names."""
    return [
        partition_settings(ledger.genesis_bytes, stream, number)
        for stream, count in ledger.genesis.partition_counts.items()
        for number in range(count)
    ]


@contextmanager
def open_window_store(kind: str, directory: Path, settings: Settings, objects: ObjectStore) -> Iterator[WindowStore]:
    """The store ``objects`` or ``clickhouse``. Raises EngineBusyError if another process has the embedded engine."""
    vault, key = open_vault(settings), load_secret(directory / "keys" / "vault.key")
    if kind == "objects":
        yield ObjectsWindows(objects, vault, key)
        return
    with ExitStack() as stack:
        clients = _Clients(directory, settings, stack)
        yield ClickHouseWindows(
            clients.connect, objects=objects, vault=vault, vault_key=key, disconnect=clients.disconnect
        )


class _Clients:
    """Connections to the server that the settings name, or to the engine in this process, which is opened at once."""

    def __init__(self, directory: Path, settings: Settings, stack: ExitStack) -> None:
        self._settings = settings
        self._password = clickhouse_password(directory, settings)
        self._engine = None
        self._client: Client | None = None
        if settings.clickhouse_host:
            return
        from rlhf_audit_sinks.clickhouse.engine import EmbeddedEngine
        from rlhf_audit_trail.query_engine import ReadPool
        from rlhf_audit_trail.query_server import QueryServer

        self._engine = EmbeddedEngine(directory)
        stack.callback(self._engine.close)
        pool = ReadPool(self._engine.data)
        stack.callback(pool.close)
        server = QueryServer(self._engine.folder, pool, port=settings.query_port)
        stack.callback(server.close)

    def connect(self) -> ClickHouseSink:
        from rlhf_audit_sinks.clickhouse.engine import server_client
        from rlhf_audit_sinks.clickhouse.sink import ClickHouseSink

        settings = self._settings
        if self._engine is not None:
            self._client = self._engine.client()
        else:
            self._client = server_client(
                settings.clickhouse_host,
                settings.clickhouse_port,
                user=settings.clickhouse_user,
                password=self._password,
                is_secure=settings.clickhouse_secure == "on",
            )
        return ClickHouseSink(self._client)

    def disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def check_kind(kind: str, settings: Settings) -> None:
    """Raises ConfigError if the settings speak against this sink."""
    if kind == "clickhouse" and settings.clickhouse == "off":
        raise ConfigError("clickhouse is off in the settings: set it to on, or do not run this sink")
