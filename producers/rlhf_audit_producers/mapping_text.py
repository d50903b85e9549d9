r"""Mappings as people write them: flags, and a TOML or JSON file that says the same.

Flags (each may be repeated; ``\`` takes the meaning from ``, : = & + *`` behind it)::

    --map FIELD=COLUMN[,FIELD=COLUMN...]      a field from a column; a dotted path reads JSON inside it
    --map FIELD=COLUMN+COLUMN                 joined with | (annotation_id, annotator, item, group)
    --map FIELD==VALUE                        the same value in every row
    --scores COLUMN=VALUE:NUMBER,VALUE:NUMBER one rule per value; VALUE* matches a beginning; NUMBER may be null
    --scores 'COLUMN=VALUE&COLUMN=VALUE:NUMBER'  one rule over several columns
    --one-hot FIELD=COLUMN:VALUE,COLUMN:VALUE    the value of the one column that is set (score, label, axis.NAME)
    --one-hot 'FIELD=PREFIX*'                 all columns PREFIX<number>; the number is the value

File::

    kind = "annotation"
    null = ["-"]
    [map]
    annotator = "rater"
    item = ["doc", "segment"]
    labeler = {constant = "human"}
    [[scores]]
    when = {severity = "Minor", category = "Fluency/Punctuation*"}
    score = 0.1
    [one_hot.score]
    bad = 0
    good = 1

Only the syntax is judged here; ``mapping.check`` compares it with the file.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from rlhf_audit_producers.cells import number_in
from rlhf_audit_producers.mapping import AXIS, FieldSource, KindName, Mapping
from rlhf_audit_producers.nearest import nearest
from rlhf_audit_producers.scoring import Condition, OneHot, ScoreRule
from rlhf_audit_schemas.errors import ConfigError

KINDS: tuple[KindName, ...] = get_args(KindName)
_FILE_KEYS = ("kind", "map", "scores", "one_hot", "null", "store_text")


def from_flags(
    *,
    kind: KindName | None = None,
    maps: Sequence[str] = (),
    scores: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    nulls: Sequence[str] = (),
    store_text: bool = False,
    missing_columns_allowed: bool = False,
    base: Mapping | None = None,
) -> Mapping:
    """Flags on top of a mapping file; a field given by a flag replaces the file's. Raises ConfigError."""
    start = base or Mapping()
    sources = [source for text in maps for source in _sources(text)]
    named = {source.field for source in sources}
    spread = [_one_hot(text) for text in one_hot]
    named |= {one.field for one in spread}
    rules = tuple(rule for text in scores for rule in _rules(text))
    mapping = Mapping(
        kind=kind or start.kind,
        sources=(*(source for source in start.sources if source.field not in named), *sources),
        scores=rules or start.scores,
        one_hot=(*(one for one in start.one_hot if one.field not in named), *spread),
        store_text=store_text or start.store_text,
        more_nulls=(*start.more_nulls, *nulls),
        missing_columns_allowed=missing_columns_allowed,
    )
    return _encodable(mapping)


def from_file(path: Path) -> Mapping:
    """A mapping file, TOML or (``.json``) JSON. Raises ConfigError that names the place."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{path}: no such mapping file") from None
    try:
        found = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object with {', '.join(_FILE_KEYS)}")
    for key in found:
        if key not in _FILE_KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}{nearest(key, _FILE_KEYS)}; keys: {', '.join(_FILE_KEYS)}")
    try:
        return _encodable(_from_document(found))
    except (ConfigError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_document(found: dict[str, Any]) -> Mapping:
    kind = found.get("kind", "annotation")
    if kind not in KINDS:
        raise ConfigError(f"kind: expected {', '.join(KINDS)}, found {kind!r}")
    nulls = found.get("null", [])
    if not _all_strings(nulls):
        raise ConfigError("null: expected a list of strings")
    store_text = found.get("store_text", False)
    if not isinstance(store_text, bool):
        raise ConfigError("store_text: expected true or false")
    return Mapping(
        kind=kind,
        sources=tuple(_file_source(field, value) for field, value in _table(found, "map").items()),
        scores=tuple(_file_rule(rule) for rule in found.get("scores", [])),
        one_hot=tuple(_file_one_hot(field, value) for field, value in _table(found, "one_hot").items()),
        store_text=store_text,
        more_nulls=tuple(nulls),
    )


def _table(found: dict[str, Any], key: str) -> dict[str, Any]:
    table = found.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key}: expected a table")
    if isinstance(table.get("axis"), dict):  # in TOML, axis.fluency = ... is a table of its own
        table = {**table, **{AXIS + name: value for name, value in table["axis"].items()}}
        del table["axis"]
    return table


def _file_source(field: str, value: Any) -> FieldSource:
    if isinstance(value, str):
        return FieldSource(field, (value,))
    if _all_strings(value) and value:
        return FieldSource(field, tuple(value))
    if isinstance(value, dict) and value.keys() == {"constant"} and isinstance(value["constant"], str | int | float):
        return FieldSource(field, constant=str(value["constant"]))
    raise ConfigError(f'map.{field}: expected "column", ["column", "column"] or {{constant = "value"}}')


def _file_rule(rule: Any) -> ScoreRule:
    if not isinstance(rule, dict) or not rule.keys() <= {"when", "score"} or not isinstance(rule.get("when"), dict):
        raise ConfigError('scores: expected rules like {when = {column = "value"}, score = 1}')
    score = rule.get("score")
    if score == "null":
        score = None
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not rule["when"]):
        raise ConfigError('scores: a score is a number, or "null" to leave it out')
    conditions = tuple(_condition(column, str(value)) for column, value in rule["when"].items())
    return ScoreRule(conditions, None if score is None else float(score))


def _file_one_hot(field: str, value: Any) -> OneHot:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"one_hot.{field}: expected a table of columns and their values")
    return _checked_one_hot(OneHot(field, tuple(sorted((column, str(each)) for column, each in value.items()))))


def _sources(text: str) -> Iterable[FieldSource]:
    constant = _split(text, "==")
    if len(constant) == 2 and constant[0] and "=" not in constant[0]:
        yield FieldSource(_plain(constant[0]).strip(), constant=_plain(constant[1]))
        return
    for part in _split(text, ","):
        pair = _split(part, "=", 1)
        if len(pair) != 2 or not pair[0].strip() or not pair[1]:
            raise ConfigError(f"--map {text}: expected FIELD=COLUMN, or FIELD==VALUE for a constant")
        field, column = _plain(pair[0]).strip(), pair[1]
        if column.startswith("="):
            yield FieldSource(field, constant=_plain(column[1:]))
        else:
            yield FieldSource(field, tuple(_plain(each) for each in _split(column, "+")))


def _rules(text: str) -> Iterable[ScoreRule]:
    column = None
    for part in _split(text, ","):
        *left, number = _split(part, ":") if len(_split(part, ":")) > 1 else [part, ""]
        score = None if number.strip().lower() == "null" else number_in(number)
        if score is None and number.strip().lower() != "null":
            raise ConfigError(f"--scores {text}: {part!r} has no number behind its colon")
        conditions = []
        for condition in _split(":".join(left), "&"):
            pair = _split(condition, "=", 1)
            if len(pair) == 2:
                column = _plain(pair[0])
            if not column:
                raise ConfigError(f"--scores {text}: expected COLUMN=VALUE:NUMBER")
            conditions.append(_condition(column, pair[-1], escaped=True))
        yield ScoreRule(tuple(conditions), score)


def _condition(column: str, value: str, *, escaped: bool = False) -> Condition:
    is_prefix = value.endswith("*") and not (escaped and value.endswith("\\*"))
    value = value[:-1] if is_prefix else value
    return Condition(column, _plain(value) if escaped else value, is_prefix)


def _one_hot(text: str) -> OneHot:
    pair = _split(text, "=", 1)
    if len(pair) != 2 or not pair[0] or not pair[1]:
        raise ConfigError(f"--one-hot {text}: expected FIELD=COLUMN:VALUE,COLUMN:VALUE or 'FIELD=PREFIX*'")
    field = _plain(pair[0]).strip()
    parts = _split(pair[1], ",")
    if len(parts) == 1 and parts[0].endswith("*"):
        return OneHot(field, ((_plain(parts[0][:-1]) + "*", ""),))
    columns = []
    for part in parts:
        named = _split(part, ":")
        if len(named) != 2:
            raise ConfigError(f"--one-hot {text}: {part!r} is not COLUMN:VALUE")
        columns.append((_plain(named[0]), _plain(named[1])))
    return _checked_one_hot(OneHot(field, tuple(sorted(columns))))


def expanded(mapping: Mapping, columns: Sequence[str]) -> Mapping:
    """``PREFIX*`` of one-hot fields replaced by the columns of a file. Raises ConfigError if there are none."""
    spread = []
    for one in mapping.one_hot:
        name, value = one.columns[0]
        if len(one.columns) == 1 and value == "" and name.endswith("*") and name not in columns:
            numbered = re.compile(re.escape(name[:-1]) + r"[ _.-]?(-?\d+)")
            matches = [(column, numbered.fullmatch(column)) for column in columns]
            found = tuple(sorted((column, match[1]) for column, match in matches if match))
            if len(found) < 2:
                raise ConfigError(
                    f"--one-hot {one.field}={name}: fewer than two columns are called {name[:-1]}<number>"
                )
            one = _checked_one_hot(OneHot(one.field, found))
        spread.append(one)
    return replace(mapping, one_hot=tuple(spread))


def _checked_one_hot(one: OneHot) -> OneHot:
    if one.field not in ("score", "label") and not one.field.startswith(AXIS):
        raise ConfigError(f"one-hot columns give score, label or {AXIS}NAME, not {one.field!r}")
    if one.field == "score" and any(number_in(value) is None for _, value in one.columns):
        raise ConfigError("one-hot columns of score stand for numbers; map them to label instead")
    if len({column for column, _ in one.columns}) != len(one.columns):
        raise ConfigError(f"one-hot columns of {one.field}: a column is named twice")
    return one


def _split(text: str, separator: str, limit: int = 0) -> list[str]:
    """Split at separators that no backslash stands before; backslashes stay."""
    return re.split(rf"(?<!\\){re.escape(separator)}", text, maxsplit=limit)


def _plain(text: str) -> str:
    return re.sub(r"\\([,:=&+*\\])", r"\1", text)


def _all_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _encodable(mapping: Mapping) -> Mapping:
    """Flags in a broken locale hold bytes that are no text; they could not be sealed."""
    texts = [text for source in mapping.sources for text in (source.field, *source.columns, source.constant or "")]
    texts += [text for one in mapping.one_hot for pair in one.columns for text in (one.field, *pair)]
    texts += [text for rule in mapping.scores for each in rule.conditions for text in (each.column, each.value)]
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ConfigError("a mapping holds bytes that are not UTF-8") from None
    return mapping
