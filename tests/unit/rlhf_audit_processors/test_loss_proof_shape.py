"""The guard over the source text: nobody brings back a way of using Faust that loses events.

Measured: with plain ``async for``, ``take()``, a restarting supervisor or acknowledgements out of order, an agent that
raises loses messages that were never sealed. ``tests/kafka/test_sealer.py`` shows the same by its effect.
"""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.tables.manager import TableManager

import rlhf_audit_processors.kafka as package
from rlhf_audit_processors.kafka.faust_app import Patience, make_app, need_compiled_streams
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_stores.kafka.settings import KafkaSettings

FOLDER = Path(package.__file__ or "").parent
BANNED_CALLS = {
    "take": "loses a whole buffer",
    "noack_take": "hands out messages behind those that failed",
    "take_with_timestamp": "loses a whole buffer",
    "items": "acknowledges by itself",
    "Table": "recovery of tables never ends in known cases",
    "GlobalTable": "recovery of tables never ends in known cases",
    "SetTable": "recovery of tables never ends in known cases",
    "begin_transaction": "exactly-once mode swallows its own errors",
    "group_by": "acknowledges by itself",
    "through": "acknowledges by itself",
}
FIXED_OPTIONS = {
    "agent_supervisor": "mode.supervisors.CrashingSupervisor",
    "processing_guarantee": "at_least_once",
    "key_serializer": "raw",
    "value_serializer": "raw",
    "topic_allow_declare": False,
    "stream_wait_empty": False,
    "topic_disable_leader": True,
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(FOLDER.glob("*.py")):
        yield path.name, ast.parse(path.read_text(encoding="utf-8"))


def called(node: ast.AST) -> str | None:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return node.func.attr
        if isinstance(node.func, ast.Name):
            return node.func.id
    return None


def faults(name: str, tree: ast.Module) -> list[str]:
    """What would lose events, in words."""
    found = []
    for node in ast.walk(tree):
        call = called(node)
        if call in BANNED_CALLS:
            if call == "items" and _is_mapping(node):
                continue
            found.append(f"{name}: {call}() {BANNED_CALLS[call]}")
        if isinstance(node, ast.AsyncFor) and ast.unparse(node.iter) != "stream.noack().events()":
            found.append(f"{name}: async for over {ast.unparse(node.iter)} acknowledges by itself")
        if isinstance(node, ast.keyword) and node.arg == "concurrency":
            found.append(f"{name}: concurrency acknowledges out of order")
        if isinstance(node, ast.keyword) and node.arg in FIXED_OPTIONS:
            value = node.value.value if isinstance(node.value, ast.Constant) else ast.unparse(node.value)
            if value != FIXED_OPTIONS[node.arg]:
                found.append(f"{name}: {node.arg} is {value!r}")
    return found


def _is_mapping(node: ast.AST) -> bool:
    """``something.items()`` over a dictionary of ours: no stream is called so."""
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) != "stream"
    )


def test_the_package_uses_faust_in_the_loss_proof_shape_alone() -> None:
    assert [fault for name, tree in trees() for fault in faults(name, tree)] == []


@pytest.mark.parametrize(
    "text",
    [
        "async def agent(stream):\n    async for value in stream:\n        pass",
        "async def agent(stream):\n    async for event in stream.events():\n        pass",
        "async def agent(stream):\n    async for values in stream.take(10, within=1):\n        pass",
        "async def agent(stream):\n    async for values in stream.noack_take(10, within=1):\n        pass",
        "app.agent(topic, concurrency=4)",
        "app.Table('state')",
        "make(agent_supervisor='mode.supervisors.OneForOneSupervisor')",
        "make(processing_guarantee='exactly_once')",
    ],
)
def test_the_guard_sees_what_it_is_for(text: str) -> None:
    assert faults("example.py", ast.parse(text))


def test_messages_are_acknowledged_at_one_place_which_the_acker_alone_calls() -> None:
    acks, settles = [], []
    for name, tree in trees():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if called(node) == "ack":
                    acks.append((name, function.name))
                if called(node) == "settle":
                    settles.append((name, function.name))
    assert acks == [("owned.py", "settle")]
    assert settles == [("worker.py", "_acknowledge")]


def test_the_app_and_its_clients_are_set_as_the_design_says(tmp_path: Path) -> None:
    kafka = KafkaSettings("127.0.0.1:1", topic_prefix="x.")
    app: Any = make_app(kafka, instance="seal-0", patience=Patience(), data_dir=str(tmp_path))
    assert app.conf.id == "x.audit.seal"  # another group id would begin elsewhere
    assert app.conf.consumer_group_instance_id == "seal-0"
    assert app.conf.agent_supervisor.__name__ == "CrashingSupervisor"
    assert not app.conf.stream_wait_empty
    assert not app.conf.topic_allow_declare
    assert not app.in_transaction
    extra = app.transport.Producer._settings_extra(type("Producer", (), {"app": app})())
    assert (extra["acks"], extra["enable_idempotence"]) == ("all", True)
    assert extra["request_timeout_ms"] == 6_000


def test_a_start_waits_for_no_tables_and_still_starts_what_faust_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = make_app(KafkaSettings("127.0.0.1:1"), instance=None, patience=Patience(), data_dir=str(tmp_path))
    done: list[str] = []

    def noted(name: str) -> Callable[..., Awaitable[None]]:
        async def note(*_: object) -> None:
            done.append(name)

        return note

    monkeypatch.setattr(app.tables, "_recovery", SimpleNamespace(start=noted("recovery")))
    for name in ("sleep", "_update_channels"):
        monkeypatch.setattr(app.tables, name, noted(name))
    asyncio.run(app.tables.on_start())
    assert done == ["_update_channels", "recovery"]
    done.clear()
    asyncio.run(TableManager.on_start(app.tables))  # Faust's own, which waits: without that ours would not be needed
    assert done == ["sleep", "_update_channels", "recovery"]


def test_the_libraries_never_log_messages(tmp_path: Path) -> None:
    logging.getLogger("faust").setLevel(logging.DEBUG)
    make_app(KafkaSettings("127.0.0.1:1"), instance=None, patience=Patience(), data_dir=str(tmp_path))
    for name in ("faust.transport.consumer", "mode.services", "aiokafka.conn"):
        assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)


def test_patience_that_could_not_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="heartbeat"):
        Patience(session_s=20, request_s=10)


def test_without_the_compiled_iterator_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from faust import streams

    monkeypatch.setattr(streams, "_CStreamIterator", None)
    with pytest.raises(ConfigError, match="compiled part"):
        need_compiled_streams()
