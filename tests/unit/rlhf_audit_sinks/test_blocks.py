"""Rows of a window: where each event stands, what a hostile one can reach, what an erased one leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from query_copies import annotation, write_trail
from rlhf_audit_ledger.batch import BATCH_TYPE, BatchBody, open_envelope
from rlhf_audit_ledger.merkle import root_of
from rlhf_audit_ledger.seal import Sealed
from rlhf_audit_schemas.codec import StrictCodec
from rlhf_audit_sinks.clickhouse.blocks import (
    FINDINGS_TABLE,
    MESSAGES_TABLE,
    WINDOWS_TABLE,
    blocks_of,
)

ANNOTATIONS = "audit_restricted.annotation"


def blocks(window: Sequence[Sealed]) -> dict[str, dict[str, list[Any]]]:
    """Values of each table's columns."""
    return {block.table: block.batch.to_pydict() for block in blocks_of(window).blocks}


def test_each_event_has_a_row_with_its_place_in_the_log(tmp_path: Path) -> None:
    (window,) = write_trail(tmp_path, [[annotation(n) for n in range(5)]])
    found = blocks(window)[ANNOTATIONS]
    leaves = [leaf for one in window for leaf in one.leaves]
    close = window[-1].close
    assert close is not None
    assert root_of(leaves) == close.window_root
    assert found["leaf_hash"] == [leaves[index - close.first_index] for index in found["leaf_index"]]
    assert found["seq"] == list(range(5))
    assert found["annotation_id"] == [f"a{n}" for n in range(5)]
    assert found["body"] == [annotation(n) for n in range(5)]


def test_the_row_of_the_window_comes_last_and_says_what_the_close_says(tmp_path: Path) -> None:
    (window,) = write_trail(tmp_path, [[annotation(1)]])
    found = blocks_of(window)
    assert [block.table for block in found.blocks] == [ANNOTATIONS, MESSAGES_TABLE, WINDOWS_TABLE]
    row = {name: values[0] for name, values in found.blocks[-1].batch.to_pydict().items()}
    assert (row["events"], row["window_root"], row["m"]) == (1, found.close.window_root, found.close.m)
    assert found.blocks[1].batch.to_pydict()["m"] == list(range(found.first_m, found.close.m + 1))


def test_hostile_bytes_become_a_finding_and_reach_no_other_row(tmp_path: Path) -> None:
    good = [annotation(n) for n in range(4)]
    hostile = [b"", b"\xff" * 40, good[0] + good[1], good[2][:-1], good[3] + b"\x00"]
    (window,) = write_trail(tmp_path, [[good[0], *hostile, *good[1:]]])
    found = blocks(window)
    assert found[ANNOTATIONS]["body"] == good
    assert found[ANNOTATIONS]["annotation_id"] == ["a0", "a1", "a2", "a3"]
    assert found[ANNOTATIONS]["seq"] == [0, 6, 7, 8]
    assert found[FINDINGS_TABLE]["body"] == hostile
    assert found[FINDINGS_TABLE]["seq"] == [1, 2, 3, 4, 5]
    assert set(found[FINDINGS_TABLE]["reason"]) == {"undecodable"}
    assert found[WINDOWS_TABLE]["findings"] == [5]


def test_an_erased_event_has_no_row_and_the_window_counts_it(tmp_path: Path) -> None:
    (window,) = write_trail(tmp_path, [[annotation(n) for n in range(3)]])
    first = window[0]
    assert first.record.value is not None
    encoded, signature = open_envelope(first.record.value)
    body = BatchBody.decode(encoded)
    erased = replace(body, events=[body.events[0], b"", body.events[2]])
    envelope = StrictCodec("envelope/event_batch.avsc")
    value = envelope.encode({"type": BATCH_TYPE, "body": erased.encode(), "signature": signature})
    found = blocks([replace(first, record=replace(first.record, value=value)), *window[1:]])
    assert found[ANNOTATIONS]["seq"] == [0, 2]
    assert found[WINDOWS_TABLE]["erased"] == [1]
    assert FINDINGS_TABLE not in found


def test_a_quarantined_message_says_why_and_has_no_event_row(tmp_path: Path) -> None:
    from query_copies import Collector
    from rlhf_audit_trail.local import LocalTrail

    windows = Collector()
    with LocalTrail(tmp_path, sinks=[windows]) as trail:
        trail.append("annotations", 0, [b"\x01 no batch at all"])
        trail.drain()
    found = blocks(windows.windows[0])
    assert found[MESSAGES_TABLE]["outcome"][0] == "quarantined"
    assert found[MESSAGES_TABLE]["reason"][0] == "undecodable"
    assert ANNOTATIONS not in found
