"""ClickHouse's own Kafka engine reads a topic, in a process of its own; prints the rows as JSON lines.

    clickhouse_child.py FOLDER BROKER TOPIC REGISTRY ROWS COLUMNS

Creating the Kafka table raises an error in the embedded engine, and the table is there and works: what counts is that
it exists. It cannot be selected from directly; a materialized view moves its rows into a plain table.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from chdb import session

folder, broker, topic, registry, rows, columns = sys.argv[1:]
clickhouse: Any = session.Session(folder)  # type: ignore[no-untyped-call]  # the package has no types
clickhouse.query("CREATE DATABASE reading ENGINE = Atomic")
names = ", ".join(column.split(" ")[0] for column in columns.split(", "))
queue = f"""CREATE TABLE reading.queue ({columns}) ENGINE = Kafka SETTINGS
    kafka_broker_list = '{broker}', kafka_topic_list = '{topic}', kafka_group_name = '{topic}.clickhouse',
    kafka_format = 'AvroConfluent', format_avro_schema_registry_url = '{registry}',
    input_format_avro_allow_missing_fields = 1, kafka_flush_interval_ms = 1000"""
with suppress(Exception):  # "Shutdown was called": looked at below
    clickhouse.query(queue)
if str(clickhouse.query("EXISTS TABLE reading.queue")).strip() != "1":
    sys.exit("the Kafka table is not there")
target = f"CREATE TABLE reading.rows ({columns}, at UInt64) ENGINE = MergeTree ORDER BY at"
clickhouse.query(target)
view = f"CREATE MATERIALIZED VIEW reading.mover TO reading.rows AS SELECT {names}, _offset AS at FROM reading.queue"  # noqa: S608
clickhouse.query(view)
deadline = time.monotonic() + 90
while int(str(clickhouse.query("SELECT count() FROM reading.rows"))) < int(rows) and time.monotonic() < deadline:
    time.sleep(0.2)
shown = ", ".join(f"hex(toString(assumeNotNull({name}))) AS {name}" for name in names.split(", "))
print(clickhouse.query(f"SELECT {shown}, at FROM reading.rows ORDER BY at", "JSONEachRow"))  # noqa: S608, T201
sys.stdout.flush()
clickhouse.close()
