"""Any bytes under any name: a finding, never an exception, never a pass."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from evidence_world import World, full_world
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.verify import Options
from rlhf_audit_schemas.errors import CouldNotCheckError
from rlhf_audit_stores.objects import MemoryStore


@cache
def world() -> World:
    """One world for all examples; each puts back what it changed."""
    with tempfile.TemporaryDirectory() as folder:
        return full_world(Path(folder) / "world")


def places() -> list[tuple[MemoryStore, str]]:
    made = world()
    return [(store, info.name) for store in (made.objects, made.vault) for info in store.list("")]


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_an_object_that_is_cut_grown_emptied_or_replaced_is_refused(data: st.DataObject) -> None:
    store, name = data.draw(st.sampled_from(places()), label="object")
    honest = store.get(name)
    other_store, other = data.draw(st.sampled_from(places()), label="other")
    changed = data.draw(
        st.one_of(
            st.integers(0, len(honest) - 1).map(lambda size: honest[:size]),
            st.binary(min_size=1, max_size=40).map(lambda tail: honest + tail),
            st.binary(max_size=60),
            st.just(other_store.get(other)),
            st.tuples(st.integers(0, len(honest)), st.binary(min_size=1, max_size=5)).map(
                lambda cut: honest[: cut[0]] + cut[1] + honest[cut[0] :]
            ),
        ),
        label="contents",
    )
    store.delete(name)
    store.put(name, changed)
    try:
        report = world().verify()
    finally:
        store.delete(name)
        store.put(name, honest)
    assert report.exit_code == (0 if changed == honest else 1)
    for finding in report.findings:
        assert "ingest/00 event" not in finding.message  # what an event of this world says


@given(taken=st.sets(st.integers(0, 40), min_size=1))
@settings(max_examples=60, deadline=None)
def test_whatever_is_missing_is_missed(taken: set[int]) -> None:
    found = places()
    gone = [found[at % len(found)] for at in sorted(taken)]
    kept = {(id(store), name): store.get(name) for store, name in gone}
    for store, name in gone:
        store.delete(name)
    try:
        code = world().verify().exit_code
    except CouldNotCheckError:
        code = 3
    finally:
        for store, name in gone:
            if name not in {info.name for info in store.list("")}:
                store.put(name, kept[id(store), name])
    assert code != 0 or all(".p/" in name for _, name in gone)  # partial tiles of earlier sizes may go
    assert world().verify(Options()).exit_code == 0


def test_a_name_cannot_write_on_the_terminal() -> None:
    findings = Findings()
    findings.add("unexplained", "odd", obj="a\x1b[31mred\udcff\u202e")
    assert findings.found[0].place == "a\\x1b[31mred\\udcff\\x202e"
