"""Confluent-compatible Schema Registry: one subject per record, BACKWARD, ids remembered.

Subjects are named by RecordNameStrategy (``rlhf_audit.EventBatch``,
``rlhf_audit.Control``, ``rlhf_audit.SealedRecord``): a source topic holds two
records, and a ledger's topics all hold the same three, so a subject per topic
would say less and be more.

Nothing that seals waits for a registry. An id never changes once it was given,
so ``SchemaIds`` keeps the last known ones in a file, per registry URL; only
before the first answer are there none, and then messages get a single-object
header, with a warning. Ids decide nothing about what is sealed (``wire``).

Compatibility is set before the first schema: a registry that checks nothing
(Apicurio's default) would take any change, and readers would break later.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_schemas.errors import ConfigError, TransportError
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_stores.durable import make_folders_durably, replace_file_durably
from rlhf_audit_stores.kafka.settings import SecretFile
from rlhf_audit_stores.kafka.wire import SCHEMA_FILES, RecordName, record_of, with_header
from rlhf_audit_stores.keys import read_private_text

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

logger = logging.getLogger(__name__)

SUBJECTS: Final[Mapping[RecordName, str]] = {record: f"rlhf_audit.{record}" for record in SCHEMA_FILES}
SAFE_LEVELS: Final = ("BACKWARD", "BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE")  # new readers read what is old
IDS_FILE: Final = "schema_ids.json"
_CLIENT: Final[Mapping[str, object]] = {"timeout": 5.0, "max.retries": 1, "retries.wait.ms": 200}
_NOT_FOUND: Final = 404
_REFUSED: Final = (401, 403)
T = TypeVar("T")


class RegistryError(TransportError):
    """The registry did not answer, or answered with an error; trying again may help."""


class RefusedByRegistryError(ConfigError):
    """The registry knows who asks and refuses, or does not take the schema: a right or a setting has to change."""


class Registry:
    """A registry by its URL. ``settings`` are passed to the client: ``ssl.ca.location``, ``basic.auth.user.info``.

    A secret stands in a file of its own.
    """

    def __init__(self, url: str, settings: Mapping[str, object] | None = None) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self.url = url
        passed = {
            name: read_private_text(value.path) if isinstance(value, SecretFile) else value
            for name, value in (settings or {}).items()
        }
        try:
            client: SchemaRegistryClient = SchemaRegistryClient({**_CLIENT, "url": url, **passed})
        except (ValueError, TypeError) as error:
            raise ConfigError(f"schema_registry_url: the client does not take {url!r} or its settings") from error
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def register(self, record: RecordName) -> int:
        """The id of a record's schema, registered if it is new; compatibility is set first."""
        subject = SUBJECTS[record]
        with _answering(f"{self.url}: subject {subject}"):
            if self._level(subject) not in SAFE_LEVELS:
                self._client.set_compatibility(subject, SAFE_LEVELS[0])
            return int(self._client.register_schema(subject, _schema(record)))

    def look_up(self, record: RecordName) -> int | None:
        """The id of a record's schema; None if it is not registered."""
        subject = SUBJECTS[record]
        with _answering(f"{self.url}: subject {subject}"):
            found = _or_none(lambda: self._client.lookup_schema(subject, _schema(record)))
            return None if found is None or found.schema_id is None else int(found.schema_id)

    def level(self, record: RecordName) -> str | None:
        """Compatibility that a record's subject has of its own; None if it has none."""
        with _answering(f"{self.url}: subject {SUBJECTS[record]}"):
            return self._level(SUBJECTS[record])

    def _level(self, subject: str) -> str | None:
        level = _or_none(lambda: self._client.get_compatibility(subject))
        return None if level is None else str(level)


def apply_subjects(registry: Registry) -> dict[RecordName, int]:
    """Set compatibility and register every schema; repeating it changes nothing. For ``topics apply``."""
    return {record: registry.register(record) for record in SUBJECTS}


def check_subjects(registry: Registry) -> list[str]:
    """What is wrong with the subjects, in words a person can act on; nothing if all is well. For ``topics check``.

    Raises RegistryError if the registry does not answer.
    """
    wrong = []
    for record, subject in SUBJECTS.items():
        level = registry.level(record)
        if registry.look_up(record) is None:
            wrong.append(f"subject {subject}: our schema is not registered there: run `rlhf-audit topics apply`")
        if level not in SAFE_LEVELS:
            found = "no compatibility of its own" if level is None else f"compatibility {level}"
            wrong.append(f"subject {subject}: {found}, expected BACKWARD: run `rlhf-audit topics apply`")
    return wrong


class SchemaIds:
    """Ids for the messages of one worker; ``header`` never asks the registry and never fails."""

    def __init__(self, path: Path, url: str | None, disk: Disk | None = None) -> None:
        """``path`` is the file of the last known ids, ``url`` None: no registry, single-object headers."""
        self._path, self._url = path, url
        self._disk = RealDisk() if disk is None else disk
        self._ids = {} if url is None else self._read(url)

    @property
    def is_complete(self) -> bool:
        """Whether every record has an id, or none needs one."""
        return self._url is None or len(self._ids) == len(SUBJECTS)

    def ask(self, registry: Registry, records: Iterable[RecordName] = tuple(SUBJECTS)) -> None:
        """Ask for ids that are not known yet and keep them; a registry that does not answer is a warning."""
        known = dict(self._ids)
        for record in records:
            try:
                found = self._ids.get(record) or registry.look_up(record)
            except (RegistryError, RefusedByRegistryError) as error:
                logger.warning("schema registry: %s; going on with %s", error, self._fallback)
                return
            if found is None:
                logger.warning("schema registry: %s is not registered; run `rlhf-audit topics apply`", SUBJECTS[record])
            else:
                self._ids[record] = found
        if self._ids != known:
            self._write()

    def keep(self, ids: Mapping[RecordName, int]) -> None:
        """Remember ids as ``apply_subjects`` gave them."""
        self._ids |= ids
        self._write()

    def header(self, value: bytes, record: RecordName | None = None) -> bytes:
        """The message for a value: behind the id of its schema, or behind a single-object header where none is known.

        ``record`` saves looking what the value is.
        """
        record = record_of(value) if record is None else record
        return value if record is None else with_header(value, schema_id=self._ids.get(record), record=record)

    @property
    def _fallback(self) -> str:
        return "the ids known from before" if self._ids else "single-object headers"

    def _read(self, url: str) -> dict[RecordName, int]:
        if not self._disk.exists(self._path):
            return {}
        try:
            raw: dict[str, Any] = json.loads(self._disk.read(self._path))
            found = raw.get(url, {})
            return {record: int(found[record]) for record in SUBJECTS if record in found}
        except (ValueError, TypeError, AttributeError):
            logger.warning("%s is not readable: asking the registry again", self._path)
            return {}

    def _write(self) -> None:
        make_folders_durably(self._disk, self._path.parent)
        data = json.dumps({str(self._url): self._ids}).encode("ascii")
        replace_file_durably(self._disk, self._path, data)


def _schema(record: RecordName) -> Schema:
    from confluent_kafka.schema_registry import Schema

    return Schema(schema_bytes(SCHEMA_FILES[record]).decode("utf-8"), "AVRO")


def _or_none(ask: Callable[[], T]) -> T | None:
    """The answer, or None where the registry says that there is no such thing."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    try:
        return ask()
    except SchemaRegistryError as error:
        if error.http_status_code == _NOT_FOUND:
            return None
        raise


@contextmanager
def _answering(where: str) -> Iterator[None]:
    """The client's errors as ours, without its messages: they may hold whatever a server answers."""
    from confluent_kafka.schema_registry import SchemaRegistryError
    from confluent_kafka.schema_registry.common._httpx_compat import httpx  # whichever of two it has

    try:
        yield
    except SchemaRegistryError as error:
        if error.http_status_code in _REFUSED:
            raise RefusedByRegistryError(f"{where}: refused with {error.http_status_code}") from error
        if error.http_status_code in (409, 422):
            raise RefusedByRegistryError(f"{where}: not compatible with what is registered there") from error
        raise RegistryError(f"{where}: error {error.http_status_code}") from error
    except (httpx.HTTPError, OSError) as error:
        raise RegistryError(f"{where}: no answer ({type(error).__name__})") from error
