-- What the ledger says of itself: windows and messages are public, findings hold bodies.
-- The leaf or close hash stands in every sorting key: a second version of a row stays visible as a fork.
CREATE DATABASE IF NOT EXISTS audit ENGINE = Atomic;
CREATE DATABASE IF NOT EXISTS audit_restricted ENGINE = Atomic;

-- One row per window, inserted after everything else of the window.
CREATE TABLE IF NOT EXISTS audit.windows
(
    `stream` LowCardinality(String),
    `partition` UInt32,
    `window` UInt64,
    `close_hash` FixedString(32),
    `ledger_id` FixedString(16),
    `first_index` UInt64,
    `end_index` UInt64,
    `opened_at` DateTime64(6, 'UTC'),
    `closed_at` DateTime64(6, 'UTC'),
    `events` UInt64,
    `accepted` UInt64,
    `duplicate` UInt64,
    `gap_filled` UInt64,
    `conflict` UInt64,
    `quarantined` UInt64,
    `control` UInt64,
    `ignored` UInt64,
    `hole` UInt64,
    `open_gaps` UInt64,
    `erased` UInt64,
    `findings` UInt64,
    `window_root` FixedString(32),
    `source_id` FixedString(16),
    `first_offset` UInt64,
    `next_offset` UInt64,
    `m` UInt64,
    `link` FixedString(32),
    `lanes` UInt32,
    `lanes_digest` FixedString(32),
    `previous_close` Nullable(UInt64),
    `tick_counter` UInt64,
    `tick_number` Int64,
    `closed_number` Int64,
    `log_size` UInt64,
    `checkpoint` String,
    `close` String
)
ENGINE = MergeTree
ORDER BY (stream, partition, window, close_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

-- One row per source message: what became of it.
CREATE TABLE IF NOT EXISTS audit.messages
(
    `stream` LowCardinality(String),
    `partition` UInt32,
    `window` UInt64,
    `m` UInt64,
    `source_offset` UInt64,
    `end_offset` Nullable(UInt64),
    `ts` DateTime64(6, 'UTC'),
    `outcome` LowCardinality(String),
    `reason` LowCardinality(String),
    `first_leaf_index` UInt64,
    `leaves` UInt32,
    `producer` LowCardinality(String),
    `epoch` UInt32,
    `first_seq` UInt64,
    `events` UInt32,
    `kind` LowCardinality(String),
    `schema` UInt16,
    `final` Bool,
    `signature` LowCardinality(String),
    `prev_batch` FixedString(32),
    `batch_digest` FixedString(32),
    `value_digest` FixedString(32),
    `link` FixedString(32)
)
ENGINE = MergeTree
ORDER BY (stream, partition, m, link)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

-- Events whose bytes do not decode exactly, or whose kind is not known: kept, and in no other table.
CREATE TABLE IF NOT EXISTS audit_restricted.findings
(
    `stream` LowCardinality(String),
    `partition` UInt32,
    `window` UInt64,
    `leaf_index` UInt64,
    `leaf_hash` FixedString(32),
    `producer` LowCardinality(String),
    `epoch` UInt32,
    `seq` UInt64,
    `schema` UInt16,
    `body` String,
    `kind` UInt16,
    `reason` String
)
ENGINE = MergeTree
ORDER BY (stream, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;
