"""From the columns of a call to event bodies: what happens at once, and what the writer's thread does later.

At once: copy the columns, check that they fit each other, add up their size.
Later: digest texts, draw salts, encode. A column may be anything with
``tolist`` (an array, a tensor on the CPU) or a sequence. A conversation (a
list of messages) stands for its canonical JSON: sorted keys, no spaces, UTF-8.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from numbers import Integral
from typing import Any

from rlhf_audit_producers.spool_claims import rows_digest
from rlhf_audit_schemas.codec import Constant, schema_bytes
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_schemas.kinds import Kind

_SALT_BYTES = 16
_DIGEST_BYTES = 32
_NAMES = frozenset({str, type(None)})
_NUMBERS = frozenset({float, int, type(None)})


@dataclass(slots=True)
class Rows:
    """The columns of a call. ``texts`` become ``<name>_sha256`` and ``<name>_text``."""

    count: int
    columns: dict[str, Any]
    texts: dict[str, list[Any]] = field(default_factory=dict)
    rankings: list[list[Any]] | None = None
    annotators: list[str | None] | None = None
    has_ids: bool = False  # ids that mean the same on every rank
    bytes_held: int = 0


def annotation_rows(
    *,
    prompts: Any,
    responses: Any,
    rewards: Any,
    chosen: Any,
    rejected: Any,
    rankings: Any,
    axes: Mapping[str, Any] | None,
    labels: Any,
    annotators: Any,
    ids: Any,
    items: Any,
    groups: Any,
    judged_at_us: Any,
    labeler: str | None,
) -> Rows:
    """Rows of ``AuditTrail.log_annotations``. Raises ConfigError if columns do not fit each other."""
    texts = _texts({"prompt": prompts, "response": responses, "chosen": chosen, "rejected": rejected})
    columns = _listed(
        {
            "score": None if rewards is None else _numbers(rewards),
            "label": labels,
            "annotation_id": _as_strings(ids),
            "item": _names(items),
            "judged_at_us": None if judged_at_us is None else _numbers(judged_at_us),
        }
    )
    ranked = None if rankings is None else [list(one) for one in rankings]
    rated = {name: _numbers(values) for name, values in (axes or {}).items()}
    lengths = {name: len(values) for name, values in {**texts, **columns}.items()}
    lengths |= {f"axis {name}": len(values) for name, values in rated.items()}
    if ranked is not None:
        lengths["rankings"] = len(ranked)
    count = _one_length(lengths)
    if not (columns.keys() & {"score", "label"} or rated or ranked or texts.keys() >= {"chosen", "rejected"}):
        raise ConfigError("log_annotations: expected rewards, labels, chosen and rejected, rankings or axes")
    annotator_list = _spread(annotators, count, "annotators")
    group_list = _spread(groups, count, "groups")
    if annotator_list is not None:
        columns["annotator"] = annotator_list
    if group_list is not None:
        columns["group"] = group_list
    if labeler is not None:
        columns["labeler"] = Constant(labeler)
    if rated:
        columns["axis_names"] = Constant(list(rated))
        columns["axis_values"] = [list(values) for values in zip(*rated.values(), strict=True)]
        columns["axis_labels"] = Constant([None] * len(rated))
    return Rows(
        count,
        columns,
        texts,
        ranked,
        annotator_list,
        "annotation_id" in columns,
        _size(texts) + (sum(_size({"": one}) for one in ranked) if ranked else 0) + 128 * count,
    )


def rollout_rows(*, prompts: Any, completions: Any, rewards: Mapping[str, Any], step: int | None, ids: Any) -> Rows:
    """Rows of ``AuditTrail.log_rollouts``. Raises ConfigError if columns do not fit each other."""
    texts = _texts({"prompt": prompts, "completion": completions})
    judged = {name: _numbers(values) for name, values in rewards.items()}
    id_list = _as_strings(ids)
    lengths = {name: len(values) for name, values in texts.items()}
    lengths |= {f"rewards {name}": len(values) for name, values in judged.items()}
    if id_list is not None:
        lengths["ids"] = len(id_list)
    count = _one_length(lengths)
    columns: dict[str, Any] = {
        "function_names": Constant(list(judged)),
        "rewards": [list(values) for values in zip(*judged.values(), strict=True)] if judged else Constant([]),
        "step": Constant(step),
    }
    if id_list is not None:
        columns["rollout_id"] = id_list
    return Rows(count, columns, texts, bytes_held=_size(texts) + 128 * count)


class RowsEncoder:
    """What the writer's thread makes of a call. ``common`` is what this process adds to each row."""

    def __init__(self, kind: Kind, rows: Rows, common: Mapping[str, Any], *, store_text: bool) -> None:
        self._kind, self._rows, self._store_text = kind, rows, store_text
        self._common = {name: value for name, value in common.items() if name in kind.codec.fields}

    def encode(self) -> list[bytes]:
        """Event bodies in the order of the rows; fields of the schema that no column names are null or empty."""
        return self._bodies(self._common, os.urandom(_SALT_BYTES * self._rows.count))

    def claim(self) -> bytes:
        """Names all that annotations say, the same on each rank of a run: 16 bytes."""
        return rows_digest(self._bodies(self._common | {"ts_us": 0}, bytes(_SALT_BYTES * self._rows.count)))

    def _bodies(self, common: Mapping[str, Any], salts: bytes) -> list[bytes]:
        columns: dict[str, Any] = {name: Constant(value) for name, value in {**defaults(self._kind), **common}.items()}
        columns |= self._digested
        columns |= self._rows.columns
        columns["salt"] = [salts[at : at + _SALT_BYTES] for at in range(0, len(salts), _SALT_BYTES)]
        return self._kind.codec.encode_columns(columns, self._rows.count)

    @cached_property
    def _digested(self) -> dict[str, Any]:
        rows, columns = self._rows, dict[str, Any]()
        for name, values in rows.texts.items():
            columns[f"{name}_sha256"] = [_digest(value) for value in values]
            if self._store_text:
                columns[f"{name}_text"] = [value if isinstance(value, str) else None for value in values]
        if rows.rankings is not None:
            columns["ranking_sha256"] = [[_digest(value) for value in one] for one in rows.rankings]
            if self._store_text and all(isinstance(value, str) for one in rows.rankings for value in one):
                columns["ranking_texts"] = rows.rankings
        return columns


def first_length(*columns: object) -> int:
    """Rows of a call as far as its first column tells, before anything has looked at it."""
    for column in columns:
        if isinstance(column, Sized):
            with suppress(TypeError):  # an array without dimensions
                return len(column)
    return 1


def completed(kind: Kind, fields: Mapping[str, Any], **common: Any) -> dict[str, Any]:
    """One event with what may be left out filled in."""
    record = {**defaults(kind), **fields}
    for name, value in common.items():
        if name in kind.codec.fields:
            record.setdefault(name, value)
            if record[name] is None:
                record[name] = value
    return record


def held_bytes(record: Mapping[str, Any]) -> int:
    """About how much memory an event holds while it waits."""
    return 256 + sum(len(value) for value in record.values() if isinstance(value, (bytes, str)))


@cache
def defaults(kind: Kind) -> Mapping[str, Any]:
    """Null or empty for every field of a kind that may be."""
    found: dict[str, Any] = {}
    for one in json.loads(schema_bytes(kind.path(kind.schema)))["fields"]:
        if isinstance(one["type"], list) and one["type"][0] == "null":
            found[one["name"]] = None
        elif isinstance(one["type"], dict) and one["type"].get("type") == "array":
            found[one["name"]] = []
    return found


def _digest(value: Any) -> bytes | None:
    if isinstance(value, str):
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
    if value is None or (isinstance(value, bytes) and len(value) == _DIGEST_BYTES):
        return value
    raise TypeError("expected a text or the 32 bytes of its SHA-256")


def _list(values: Any) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _listed(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _list(values) for name, values in columns.items() if values is not None}


def _numbers(values: Any) -> list[Any]:
    """A column of numbers; those of an array or a tensor of one value each are read at once."""
    listed = _list(values)
    if set(map(type, listed)) <= _NUMBERS:
        return listed
    return [one.item() if hasattr(one, "item") else one for one in listed]


def _as_strings(ids: Any) -> list[str] | None:
    return None if ids is None else [str(one) for one in _list(ids)]


def _names(values: Any) -> list[Any] | None:
    """A column of names; whole numbers are names too. What is neither stays, and cannot be encoded."""
    if values is None:
        return None
    listed = _list(values)
    return listed if set(map(type, listed)) <= _NAMES else [_name(one) for one in listed]


def _name(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return value
    return str(int(value))


def _spread(values: Any, count: int, name: str) -> list[Any] | None:
    """A column of names, or one for all rows."""
    if isinstance(values, (str, Integral)):
        return [_name(values)] * count
    spread = _names(values)
    if spread is None:
        return None
    if len(spread) != count:
        raise ConfigError(f"{name}: {len(spread)} values for {count} rows")
    return spread


def _one_length(lengths: Mapping[str, int]) -> int:
    if len(set(lengths.values())) > 1:
        raise ConfigError("columns differ in length: " + ", ".join(f"{name} {n}" for name, n in lengths.items()))
    return next(iter(lengths.values()), 0)


def _size(texts: Mapping[str, Sequence[Any]]) -> int:
    return sum(sum(len(value) for value in values if isinstance(value, (str, bytes))) for values in texts.values())


def _texts(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of texts; conversations are written down at once, since their messages may change."""
    return {
        name: [
            json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            if isinstance(value, (list, dict))
            else value
            for value in values
        ]
        if any(isinstance(value, (list, dict)) for value in values)
        else values
        for name, values in _listed(columns).items()
    }
