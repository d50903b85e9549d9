-- The kinds of training. Packed columns keep their bytes; their aliases show numbers.

CREATE TABLE IF NOT EXISTS audit_restricted.rollout
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `step` Nullable(Int64),
    `rollout_id` Nullable(String),
    `prompt_sha256` Nullable(FixedString(32)),
    `prompt_text` Nullable(String),
    `completion_sha256` Nullable(FixedString(32)),
    `completion_text` Nullable(String),
    `function_names` Array(String),
    `rewards` Array(Nullable(Float64))
)
ENGINE = MergeTree
ORDER BY (run_id, ts, rank, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.gradient_stats
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `step` Int64,
    `table_sha256` FixedString(32),
    `tensor_count` Int32,
    `placement` LowCardinality(String),
    `coverage` String,
    `method` LowCardinality(String),
    `sampling_stride` Nullable(Int32),
    `sampling_phase` Nullable(Int32),
    `is_clipped` Nullable(Bool),
    `clip_factor` Nullable(Float64),
    `max_grad_norm` Nullable(Float64),
    `total_norm` Nullable(Float64),
    `squared_norm_f64le` String,
    `max_abs_f64le` String,
    `mean_f64le` String,
    `zero_fraction_f64le` String,
    `non_finite_i64le` String,
    `element_count_i64le` String,
    `squared_norm` Array(Float64) ALIAS reinterpret(`squared_norm_f64le`, 'Array(Float64)'),
    `max_abs` Array(Float64) ALIAS reinterpret(`max_abs_f64le`, 'Array(Float64)'),
    `mean` Array(Float64) ALIAS reinterpret(`mean_f64le`, 'Array(Float64)'),
    `zero_fraction` Array(Float64) ALIAS reinterpret(`zero_fraction_f64le`, 'Array(Float64)'),
    `non_finite` Array(Int64) ALIAS reinterpret(`non_finite_i64le`, 'Array(Int64)'),
    `element_count` Array(Int64) ALIAS reinterpret(`element_count_i64le`, 'Array(Int64)')
)
ENGINE = MergeTree
ORDER BY (run_id, step, rank, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.tensor_table
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `table_sha256` FixedString(32),
    `names` Array(String),
    `layers` Array(String),
    `shapes` Array(String),
    `dtypes` Array(String),
    `placements` Array(String),
    `local_counts` Array(Int64),
    `global_counts` Array(Int64)
)
ENGINE = MergeTree
ORDER BY (run_id, rank, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.policy_update
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `step` Int64,
    `event_epoch` Nullable(Float64),
    `is_logged` Bool,
    `loss` Nullable(Float64),
    `local_loss` Nullable(Float64),
    `learning_rate` Nullable(Float64),
    `grad_norm` Nullable(Float64),
    `reward` Nullable(Float64),
    `reward_std` Nullable(Float64),
    `reward_chosen` Nullable(Float64),
    `reward_rejected` Nullable(Float64),
    `reward_margin` Nullable(Float64),
    `reward_accuracy` Nullable(Float64),
    `kl` Nullable(Float64),
    `entropy` Nullable(Float64),
    `completion_tokens` Nullable(Float64),
    `num_tokens` Nullable(Float64),
    `metric_names` Array(String),
    `metric_values` Array(Float64),
    `update_norm` Nullable(Float64),
    `update_norm_method` Nullable(String),
    `annotation_ids` Array(String),
    `annotation_ids_sha256` Nullable(FixedString(32)),
    `annotation_count` Nullable(Int64),
    `was_skipped` Bool,
    `step_us` Nullable(Int64),
    `audit_us` Nullable(Int64)
)
ENGINE = MergeTree
ORDER BY (run_id, step, rank, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.checkpoint
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `step` Int64,
    `role` String,
    `name` String,
    `parent_run_id` Nullable(String),
    `parent_step` Nullable(Int64),
    `parent_files_sha256` Nullable(FixedString(32)),
    `file_names` Array(String),
    `file_sizes` Array(Int64),
    `file_sha256` Array(FixedString(32)),
    `files_sha256` FixedString(32),
    `tensor_root` Nullable(FixedString(32)),
    `tensor_count` Nullable(Int64),
    `is_complete` Bool,
    `metric_names` Array(String),
    `metric_values` Array(Float64),
    `digest_us` Int64
)
ENGINE = MergeTree
ORDER BY (run_id, step, rank, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.run_start
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `world_size` Int32,
    `expected_ranks` Array(Int32),
    `parent_run_id` Nullable(String),
    `resumed_from` Nullable(String),
    `resumed_step` Nullable(Int64),
    `trainer` LowCardinality(Nullable(String)),
    `algorithm` LowCardinality(Nullable(String)),
    `objective` Nullable(String),
    `model_name` Nullable(String),
    `model_class` Nullable(String),
    `model_config_sha256` Nullable(FixedString(32)),
    `model_parameters_sha256` Nullable(FixedString(32)),
    `reference_model_name` Nullable(String),
    `reference_parameters_sha256` Nullable(FixedString(32)),
    `reward_names` Array(String),
    `parameter_count` Nullable(Int64),
    `trainable_count` Nullable(Int64),
    `hyperparameters_json` Nullable(String),
    `max_grad_norm` Nullable(Float64),
    `seed` Nullable(Int64),
    `max_steps` Nullable(Int64),
    `per_device_batch` Nullable(Int64),
    `accumulation_steps` Nullable(Int64),
    `dataset_rows` Nullable(Int64),
    `dataset_fingerprint` Nullable(String),
    `lineage` String,
    `gradient_hook` String,
    `privacy_json` Nullable(String),
    `code_commit` Nullable(String),
    `is_code_dirty` Nullable(Bool),
    `packages` Array(String),
    `python` String,
    `platform` String,
    `device` Nullable(String),
    `device_count` Nullable(Int32)
)
ENGINE = MergeTree
ORDER BY (run_id, rank, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS audit_restricted.run_end
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
    `run_id` LowCardinality(String),
    `rank` Int32,
    `outcome` String,
    `reason` LowCardinality(Nullable(String)),
    `error_type` Nullable(String),
    `steps` Int64,
    `epochs` Nullable(Float64),
    `train_loss` Nullable(Float64),
    `policy_updates` Int64,
    `gradient_stats` Int64,
    `rollouts` Int64,
    `checkpoints` Int64,
    `missed` Int64,
    `train_us` Int64,
    `audit_us` Int64
)
ENGINE = MergeTree
ORDER BY (run_id, rank, ts, partition, leaf_index, leaf_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 10000;
