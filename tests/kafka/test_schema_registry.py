"""Schemas of our three records in a real Confluent-compatible registry: registered once, guarded, never waited for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from builders import Lane, make_sealer, seal_values, tick_value
from rlhf_audit_schemas.codec import schema_bytes
from rlhf_audit_stores.kafka.registry import (
    SUBJECTS,
    Registry,
    RegistryError,
    SchemaIds,
    apply_subjects,
    check_subjects,
)
from rlhf_audit_stores.kafka.wire import SCHEMA_FILES, strip_header

pytestmark = pytest.mark.service
SEALER = make_sealer()
BATCH = Lane(SEALER.settings).cut(3).value
TICK = tick_value(SEALER.settings, 1)
SEALED = seal_values(SEALER, [BATCH])[1][0].record.encode()
NOBODY = "http://127.0.0.1:9/apis/ccompat/v7"  # the discard port: nobody listens


@pytest.fixture
def registry(registry_url: str, client: SchemaRegistryClient) -> Iterator[Registry]:
    with Registry(registry_url) as registry:
        yield registry


@pytest.fixture
def client(registry_url: str) -> Iterator[SchemaRegistryClient]:
    """A client of the test's own, and a registry without subjects."""
    client = SchemaRegistryClient({"url": registry_url})
    for subject in client.get_subjects():
        client.delete_subject(subject)
    yield client
    client.close()


def changed(record: str, field: dict[str, object]) -> Schema:
    schema = json.loads(schema_bytes(SCHEMA_FILES[record]))  # type: ignore[index]
    schema["fields"].append(field)
    return Schema(json.dumps(schema), "AVRO")


def test_applying_registers_each_record_once_under_its_own_name(
    registry: Registry, client: SchemaRegistryClient
) -> None:
    assert len([wrong for wrong in check_subjects(registry) if "not registered" in wrong]) == len(SUBJECTS)
    ids = apply_subjects(registry)
    assert sorted(client.get_subjects()) == sorted(SUBJECTS.values())
    assert len(set(ids.values())) == len(SUBJECTS)
    assert check_subjects(registry) == []
    assert apply_subjects(registry) == ids
    assert [len(client.get_versions(subject)) for subject in SUBJECTS.values()] == [1, 1, 1]


def test_a_change_that_old_messages_do_not_fit_is_refused(registry: Registry, client: SchemaRegistryClient) -> None:
    apply_subjects(registry)
    subject = SUBJECTS["EventBatch"]
    with pytest.raises(SchemaRegistryError):
        client.register_schema(subject, changed("EventBatch", {"name": "more", "type": "long"}))
    client.register_schema(subject, changed("EventBatch", {"name": "more", "type": "long", "default": 0}))
    assert check_subjects(registry) == []


def test_checking_names_a_subject_that_takes_anything(registry: Registry, client: SchemaRegistryClient) -> None:
    apply_subjects(registry)
    client.set_compatibility(SUBJECTS["Control"], "NONE")
    (wrong,) = check_subjects(registry)
    assert "rlhf_audit.Control: compatibility NONE" in wrong


def test_checking_names_a_subject_that_holds_another_schema(registry: Registry, client: SchemaRegistryClient) -> None:
    apply_subjects(registry)
    subject = SUBJECTS["SealedRecord"]
    client.delete_subject(subject)
    client.set_compatibility(subject, "FULL")
    client.register_schema(subject, changed("SealedRecord", {"name": "more", "type": "long"}))
    (wrong,) = check_subjects(registry)
    assert "rlhf_audit.SealedRecord: our schema is not registered" in wrong


def test_ids_stay_known_when_the_registry_is_gone(registry_url: str, registry: Registry, tmp_path: Path) -> None:
    """What once was answered is enough for ever: a worker that starts without a registry writes the same headers."""
    ids = apply_subjects(registry)
    SchemaIds(tmp_path / "ids", registry_url).ask(registry)
    later = SchemaIds(tmp_path / "ids", registry_url)
    assert later.is_complete
    for value, record in ((BATCH, "EventBatch"), (TICK, "Control"), (SEALED, "SealedRecord")):
        message = later.header(value)
        assert message == b"\0" + ids[record].to_bytes(4, "big") + value  # type: ignore[index]
        assert strip_header(message) == value


def test_before_the_first_answer_messages_get_single_object_headers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = SchemaIds(tmp_path / "ids", NOBODY)
    with caplog.at_level(logging.WARNING), Registry(NOBODY) as registry:
        ids.ask(registry)
        with pytest.raises(RegistryError, match="no answer"):
            check_subjects(registry)
    assert "single-object headers" in caplog.text
    assert not ids.is_complete
    assert ids.header(BATCH)[:2] == b"\xc3\x01"


def test_ids_of_another_registry_are_not_taken_over(registry_url: str, registry: Registry, tmp_path: Path) -> None:
    ids = SchemaIds(tmp_path / "ids", registry_url)
    ids.keep(apply_subjects(registry))
    assert not SchemaIds(tmp_path / "ids", NOBODY).is_complete
    assert SchemaIds(tmp_path / "ids", None).header(BATCH)[:2] == b"\xc3\x01"
