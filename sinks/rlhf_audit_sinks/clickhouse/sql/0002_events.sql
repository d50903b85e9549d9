-- One table per event kind. Columns are those that the kind's schema gives (columns.py); a test compares them.

CREATE TABLE IF NOT EXISTS audit_restricted.annotation
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
    `ts` DateTime64(6, 'UTC'),
    `annotation_id` Nullable(String),
    `annotator` LowCardinality(Nullable(String)),
    `labeler` LowCardinality(Nullable(String)),
    `judged_at` Nullable(DateTime64(6, 'UTC')),
    `item` Nullable(String),
    `group` LowCardinality(Nullable(String)),
    `run_id` LowCardinality(String),
    `prompt_sha256` Nullable(FixedString(32)),
    `prompt_text` Nullable(String),
    `response_sha256` Nullable(FixedString(32)),
    `response_text` Nullable(String),
    `chosen_sha256` Nullable(FixedString(32)),
    `chosen_text` Nullable(String),
    `rejected_sha256` Nullable(FixedString(32)),
    `rejected_text` Nullable(String),
    `ranking_sha256` Array(FixedString(32)),
    `ranking_texts` Array(String),
    `score` Nullable(Float64),
    `label` LowCardinality(Nullable(String)),
    `axis_names` Array(String),
    `axis_values` Array(Nullable(Float64)),
    `axis_labels` Array(Nullable(String)),
    `input_sha256` Nullable(FixedString(32)),
    `input_line` Nullable(Int64)
)
ENGINE = MergeTree
ORDER BY (run_id, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.correction
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
    `ts` DateTime64(6, 'UTC'),
    `annotation_id` String,
    `annotator` LowCardinality(Nullable(String)),
    `corrected_at` Nullable(DateTime64(6, 'UTC')),
    `score` Nullable(Float64),
    `label` LowCardinality(Nullable(String)),
    `chosen_sha256` Nullable(FixedString(32)),
    `rejected_sha256` Nullable(FixedString(32)),
    `reason` LowCardinality(Nullable(String)),
    `input_sha256` Nullable(FixedString(32)),
    `input_line` Nullable(Int64)
)
ENGINE = MergeTree
ORDER BY (annotation_id, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.withdrawal
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
    `ts` DateTime64(6, 'UTC'),
    `annotation_id` String,
    `annotator` LowCardinality(Nullable(String)),
    `withdrawn_at` Nullable(DateTime64(6, 'UTC')),
    `reason` LowCardinality(Nullable(String)),
    `input_sha256` Nullable(FixedString(32)),
    `input_line` Nullable(Int64)
)
ENGINE = MergeTree
ORDER BY (annotation_id, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.producer_start
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
    `ts` DateTime64(6, 'UTC'),
    `event_producer` LowCardinality(String),
    `event_epoch` Int64,
    `public_key` Nullable(FixedString(32)),
    `software` LowCardinality(String),
    `purpose` LowCardinality(String),
    `run_id` LowCardinality(String),
    `previous_epoch` Nullable(Int64),
    `previous_lanes.stream` Array(String),
    `previous_lanes.partition` Array(Int32),
    `previous_lanes.next_seq` Array(Int64),
    `input_sha256` Nullable(FixedString(32)),
    `mapping_sha256` Nullable(FixedString(32))
)
ENGINE = MergeTree
ORDER BY (event_producer, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.heartbeat
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
    `ts` DateTime64(6, 'UTC'),
    `event_producer` LowCardinality(String),
    `event_epoch` Int64,
    `lanes.stream` Array(String),
    `lanes.partition` Array(Int32),
    `lanes.next_seq` Array(Int64)
)
ENGINE = MergeTree
ORDER BY (event_producer, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.producer_end
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
    `ts` DateTime64(6, 'UTC'),
    `event_producer` LowCardinality(String),
    `event_epoch` Int64,
    `lanes.stream` Array(String),
    `lanes.partition` Array(Int32),
    `lanes.next_seq` Array(Int64),
    `rows` Int64,
    `bad_rows` Int64,
    `reason` LowCardinality(String)
)
ENGINE = MergeTree
ORDER BY (event_producer, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.producer_lost
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
    `ts` DateTime64(6, 'UTC'),
    `event_producer` LowCardinality(String),
    `event_epoch` Int64,
    `lanes.stream` Array(String),
    `lanes.partition` Array(Int32),
    `lanes.next_seq` Array(Int64),
    `found_by` String,
    `reason` LowCardinality(String)
)
ENGINE = MergeTree
ORDER BY (event_producer, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.loss
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
    `ts` DateTime64(6, 'UTC'),
    `event_producer` LowCardinality(String),
    `event_epoch` Int64,
    `event_stream` LowCardinality(String),
    `event_partition` Int32,
    `first_seq` Int64,
    `count` Int64,
    `reason` LowCardinality(String),
    `input_sha256` Nullable(FixedString(32)),
    `input_line` Nullable(Int64)
)
ENGINE = MergeTree
ORDER BY (event_producer, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.fault
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
    `ts` DateTime64(6, 'UTC'),
    `event_producer` LowCardinality(String),
    `input_sha256` Nullable(FixedString(32)),
    `input_line` Nullable(Int64),
    `reason` LowCardinality(String),
    `row_sha256` Nullable(FixedString(32)),
    `row_bytes` Int64
)
ENGINE = MergeTree
ORDER BY (event_producer, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;
