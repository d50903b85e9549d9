"""Ids of laptop clusters, which Kafka's own tool reads from a command line."""

from __future__ import annotations

import uuid

import pytest

from rlhf_audit_trail import kafka_cluster


def test_a_cluster_id_never_looks_like_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [uuid.UUID(bytes=bytes([0xF8, *range(15)])), uuid.UUID(bytes=bytes(range(16)))]
    monkeypatch.setattr(uuid, "uuid4", lambda: drawn.pop(0))
    assert kafka_cluster.new_cluster_id() == "AAECAwQFBgcICQoLDA0ODw"
    assert drawn == []
