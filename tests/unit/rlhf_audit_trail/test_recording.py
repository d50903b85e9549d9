"""``AuditTrail`` in one process, without a runtime: what is recorded, refused, and never reaches the training."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_ledger.batch import BatchBody
from rlhf_audit_producers.run_identity import RUN_ID_VARIABLE
from rlhf_audit_producers.spool import RecordingError
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_schemas.kinds import KINDS_BY_NUMBER
from rlhf_audit_stores.disk import Handle, RealDisk
from rlhf_audit_trail import AuditableRLHF, AuditTrail, runtime_start
from rlhf_audit_trail import _opening as opening_module
from rlhf_audit_trail import recording as recording_module
from spooling import spooled, spooled_events


@pytest.fixture(autouse=True)
def _no_run_id_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RUN_ID_VARIABLE, "RANK", "WORLD_SIZE", "SLURM_JOB_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    with AuditTrail(tmp_path, "run", runtime=False) as opened:
        yield opened


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def annotation_batches(directory: Path) -> list[tuple[str, BatchBody]]:
    return [(stream, body) for stream, body in spooled(directory) if stream == "annotations"]


def judgements(trail: AuditTrail) -> list[dict[str, Any]]:
    assert trail.flush()
    return spooled_events(trail.directory, "annotation")


def test_rewards_are_recorded_row_by_row_with_digests_and_no_text(trail: AuditTrail) -> None:
    trail.log_annotations(
        prompts=["p0", "p1"], responses=["r0", "r1"], rewards=[0.5, 1], annotators=["ann", None], ids=["i0", "i1"]
    )
    rows = sorted(judgements(trail), key=lambda row: row["annotation_id"])
    assert [row["prompt_sha256"] for row in rows] == [sha("p0"), sha("p1")]
    assert [row["response_sha256"] for row in rows] == [sha("r0"), sha("r1")]
    assert [row["score"] for row in rows] == [0.5, 1.0]
    assert [row["annotator"] for row in rows] == ["ann", None]
    assert {row["prompt_text"] for row in rows} == {None}
    assert {row["run_id"] for row in rows} == {"run"}
    assert len({row["salt"] for row in rows}) == 2


def test_text_is_stored_only_if_asked_for(tmp_path: Path) -> None:
    with AuditTrail(tmp_path, "run", runtime=False, store_text=True) as trail:
        trail.log_annotations(prompts=["p"], chosen=["c"], rejected=["r"])
        (row,) = judgements(trail)
        assert (row["prompt_text"], row["chosen_text"], row["rejected_text"]) == ("p", "c", "r")


def test_pairs_rankings_and_axes_are_judgements_too(trail: AuditTrail) -> None:
    trail.log_annotations(chosen=["c"], rejected=["r"], labeler="ai")
    trail.log_annotations(prompts=["p"], rankings=[["best", "worst"]])
    trail.log_annotations(responses=["r"], axes={"help": [1.0], "harm": [None]})
    pair, ranked, rated = judgements(trail)
    assert (pair["chosen_sha256"], pair["rejected_sha256"], pair["labeler"]) == (sha("c"), sha("r"), "ai")
    assert ranked["ranking_sha256"] == [sha("best"), sha("worst")]
    assert (rated["axis_names"], rated["axis_values"]) == (["help", "harm"], [1.0, None])


def test_a_digest_stands_for_a_text(trail: AuditTrail) -> None:
    trail.log_annotations(prompts=[sha("secret")], rewards=[1.0])
    assert judgements(trail)[0]["prompt_sha256"] == sha("secret")


class Tensor:
    """Something with ``tolist``, as arrays and tensors have."""

    def tolist(self) -> list[float]:
        return [0.25, 0.75]


def test_arrays_and_tensors_are_columns(trail: AuditTrail) -> None:
    trail.log_annotations(rewards=Tensor())  # type: ignore[arg-type]  # duck-typed on purpose
    assert [row["score"] for row in judgements(trail)] == [0.25, 0.75]


class WholeNumber:
    """What numpy's integers are: no ``int``, but registered as whole numbers."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __int__(self) -> int:
        return self.value


Integral.register(WholeNumber)


def test_whole_numbers_are_names(trail: AuditTrail) -> None:
    trail.log_annotations(
        rewards=[1.0, 2.0],
        ids=[1, 2],
        items=[3, WholeNumber(4)],  # type: ignore[list-item]  # duck-typed on purpose
        annotators=[WholeNumber(7), None],  # type: ignore[list-item]  # the same
        groups=5,
    )
    rows = sorted(judgements(trail), key=lambda row: row["item"])
    assert [(row["annotation_id"], row["item"], row["annotator"], row["group"]) for row in rows] == [
        ("1", "3", "7", "5"),
        ("2", "4", None, "5"),
    ]


@pytest.mark.parametrize("annotator", [True, 1.5, b"ann", ["ann"], "\ud800"])
def test_an_annotator_that_is_no_name_costs_its_rows_and_no_more(annotator: Any, trail: AuditTrail) -> None:
    trail.log_annotations(rewards=[1.0, 2.0], annotators=["ann", annotator])
    assert trail.flush()
    trail.log_annotations(rewards=[3.0], annotators=["ann"])
    assert [row["score"] for row in judgements(trail)] == [3.0]
    losses = spooled_events(trail.directory, "loss")
    assert {loss["reason"] for loss in losses} == {"encode_failed"}
    assert sum(loss["count"] for loss in losses) == 2


def test_a_single_number_where_a_column_belongs_stops_nothing(trail: AuditTrail) -> None:
    class Scalar:
        def __len__(self) -> int:
            raise TypeError("an array without dimensions")

    trail.log_annotations(rewards=Scalar())  # type: ignore[arg-type]  # wrong on purpose
    assert judgements(trail) == []
    assert [loss["count"] for loss in spooled_events(trail.directory, "loss")] == [1]


class OneValue:
    """A number of an array, or a tensor without dimensions."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return self.value


def test_numbers_of_arrays_are_numbers(trail: AuditTrail) -> None:
    one: Any = OneValue(0.5)
    trail.log_annotations(rewards=[one, 1.0], axes={"help": [one, None]})
    trail.log_rollouts(prompts=["p"], completions=["c"], rewards={"f": [one]})
    one.value = 2.0
    assert [(row["score"], row["axis_values"]) for row in judgements(trail)] == [(0.5, [0.5]), (1.0, [None])]
    assert [row["rewards"] for row in spooled_events(trail.directory, "rollout")] == [[0.5]]


def test_lists_may_be_changed_by_the_caller_afterwards(trail: AuditTrail) -> None:
    prompts, rewards = ["before"], [1.0]
    trail.log_annotations(prompts=prompts, rewards=rewards)
    prompts[0], rewards[0] = "after", 2.0
    (row,) = judgements(trail)
    assert (row["prompt_sha256"], row["score"]) == (sha("before"), 1.0)


@pytest.mark.parametrize(
    "columns",
    [
        {"prompts": ["a"], "rewards": [1.0, 2.0]},
        {"rewards": [1.0], "annotators": ["a", "b"]},
        {"prompts": ["a"]},
        {"chosen": ["a"]},
        {"axes": {"x": [1.0]}, "rewards": [1.0, 2.0]},
    ],
)
def test_columns_that_do_not_fit_are_refused_at_once(columns: dict[str, Any], trail: AuditTrail) -> None:
    with pytest.raises(ConfigError):
        trail.log_annotations(**columns)


def test_values_that_cannot_be_are_declared_and_training_goes_on(trail: AuditTrail) -> None:
    trail.log_annotations(prompts=[object()], rewards=[1.0])  # type: ignore[list-item]  # wrong on purpose
    trail.log_annotations(prompts=["p"], rewards=[1.0])
    assert len(judgements(trail)) == 1
    (loss,) = spooled_events(trail.directory, "loss")
    assert (loss["reason"], loss["count"]) == ("encode_failed", 1)


def test_events_that_could_not_even_be_made_are_declared(trail: AuditTrail) -> None:
    trail.declare_lost("rollout", 3)
    assert trail.flush()
    assert spooled_events(trail.directory, "rollout") == []
    (loss,) = spooled_events(trail.directory, "loss")
    assert (loss["reason"], loss["count"]) == ("encode_failed", 3)


def test_a_strict_trail_refuses_what_comes_after_a_declared_loss(tmp_path: Path) -> None:
    with AuditTrail(tmp_path, "run", runtime=False, strict=True) as trail:
        trail.declare_lost("checkpoint", 1)
        assert trail.flush()
        with pytest.raises(RecordingError, match="lost"):
            trail.log_annotations(rewards=[1.0])


def test_a_conversation_stands_for_its_canonical_json(trail: AuditTrail) -> None:
    talk = [{"role": "user", "content": "ü"}]
    trail.log_annotations(prompts=[talk, "p"], rewards=[1.0, 1.0])  # type: ignore[list-item]  # what TRL has
    talk[0]["content"] = "changed"
    rows = judgements(trail)
    assert [row["prompt_sha256"] for row in rows] == [sha('[{"content":"ü","role":"user"}]'), sha("p")]


def test_no_rows_are_no_event(trail: AuditTrail) -> None:
    trail.log_annotations(prompts=[], rewards=[])
    assert judgements(trail) == []


def test_any_kind_is_recorded_with_what_may_be_left_out(trail: AuditTrail) -> None:
    trail.record("policy_update", {"step": 3, "is_logged": True, "loss": 0.5, "was_skipped": False})
    assert trail.flush()
    (event,) = spooled_events(trail.directory, "policy_update")
    assert (event["run_id"], event["rank"], event["step"], event["loss"], event["kl"]) == ("run", 0, 3, 0.5, None)
    with pytest.raises(ConfigError, match="unknown kind"):
        trail.record("nonsense", {})


def test_what_names_an_annotator_goes_to_the_annotators_partition_however_it_is_recorded(trail: AuditTrail) -> None:
    for name in ("ann", "bob", "eve", "joe", "kim"):
        trail.log_annotations(rewards=[1.0], annotators=[name])
        trail.record("annotation", {"annotator": name})
        trail.record("withdrawal", {"annotation_id": "x", "annotator": name})
    assert trail.flush()
    where: dict[str, set[int]] = {}
    for stream, body in spooled(trail.directory):
        if stream == "annotations":
            for event in body.events:
                name = KINDS_BY_NUMBER[body.kind].codec.decode(event)["annotator"]
                where.setdefault(name, set()).add(body.partition)
    assert {name: len(partitions) for name, partitions in where.items()} == dict.fromkeys(where, 1)
    assert len(where) == 5
    assert len(set.union(*where.values())) > 1


def test_rollouts_hold_one_reward_for_each_function(trail: AuditTrail) -> None:
    trail.log_rollouts(prompts=["p", "p"], completions=["a", "b"], rewards={"f": [1.0, None], "g": [0.0, 2.0]}, step=4)
    assert trail.flush()
    first, second = spooled_events(trail.directory, "rollout")
    assert (first["function_names"], first["rewards"], first["step"]) == (["f", "g"], [1.0, 0.0], 4)
    assert (second["rewards"], second["completion_sha256"]) == ([None, 2.0], sha("b"))


def test_ranks_record_the_same_rows_once_and_other_rows_under_the_same_ids_as_well(tmp_path: Path) -> None:
    prompts, ids = ["p", "q"], ["x", "y"]
    said: list[dict[str, Any]] = [
        {"responses": ["r", "r"], "rewards": [1.0, 0.0]},
        {"responses": ["r", "r"], "rewards": [1.0, -1.0]},
        {"responses": ["r", "s"], "rewards": [1.0, 0.0]},
        {"responses": ["r", "r"], "rewards": [1.0, 0.0], "annotators": "somebody"},
    ]
    for rank in range(2):
        with AuditTrail(tmp_path, "run", rank=rank, world_size=2, runtime=False) as trail:
            for columns in said[rank:]:
                trail.log_annotations(prompts=prompts, ids=ids, **columns)
            trail.log_annotations(prompts=prompts, ids=ids, rewards=[rank, rank])
    recorded = {"run/0": len(ids) * (len(said) + 1), "run/1": len(ids)}
    assert Counter(body.producer for _, body in annotation_batches(tmp_path) for _ in body.events) == recorded


def test_every_rank_records_its_own_rollouts_whatever_their_ids(tmp_path: Path) -> None:
    for rank in range(2):
        with AuditTrail(tmp_path, "run", rank=rank, world_size=2, runtime=False) as trail:
            trail.log_rollouts(prompts=["p"], completions=["c"], rewards={"f": [1.0]}, ids=["x"])
    assert {event["rank"] for event in spooled_events(tmp_path, "rollout")} == {0, 1}


def test_rows_that_cannot_be_encoded_are_not_claimed(tmp_path: Path) -> None:
    for rank, prompt in ((0, object()), (1, "p")):
        with AuditTrail(tmp_path, "run", rank=rank, world_size=2, runtime=False) as trail:
            trail.log_annotations(prompts=[prompt], rewards=[1.0], ids=["x"])  # type: ignore[list-item]  # one is wrong
    assert [body.producer for _, body in annotation_batches(tmp_path) if body.events] == ["run/1"]
    assert [event["reason"] for event in spooled_events(tmp_path, "loss")] == ["encode_failed"]


def test_a_run_says_who_records_and_how_it_ended(tmp_path: Path) -> None:
    def train() -> None:
        with AuditTrail(tmp_path, "run", runtime=False):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    (start,), (end,) = (spooled_events(tmp_path, kind) for kind in ("producer_start", "producer_end"))
    assert (start["producer"], start["purpose"], start["run_id"]) == ("run/0", "train", "run")
    assert end["reason"] == "failed"
    assert all(body.final for _, body in spooled(tmp_path)[-1:])


def test_a_second_life_is_a_new_epoch_of_the_same_run(tmp_path: Path) -> None:
    for _ in range(2):
        with AuditTrail(tmp_path, "run", runtime=False) as trail:
            trail.log_annotations(rewards=[1.0])
    assert [event["epoch"] for event in spooled_events(tmp_path, "producer_start")] == [0, 1]
    assert [event["previous_epoch"] for event in spooled_events(tmp_path, "producer_start")] == [None, 0]


def test_children_find_the_run_in_their_environment_as_long_as_the_trail_is_open(tmp_path: Path) -> None:
    with AuditTrail(tmp_path, runtime=False) as trail:
        assert os.environ[RUN_ID_VARIABLE] == trail.run_id
    assert RUN_ID_VARIABLE not in os.environ


def test_a_pickled_trail_is_opened_again_as_a_producer_of_its_own(trail: AuditTrail) -> None:
    trail.log_annotations(rewards=[1.0])
    assert trail.flush()
    with pickle.loads(pickle.dumps(trail)) as copy:  # noqa: S301 - our own bytes
        copy.log_annotations(rewards=[2.0])
        assert copy.flush()
        assert (copy.run_id, copy.producer) == ("run", "run/0/1")


def test_an_unusable_folder_stops_nothing_unless_the_trail_is_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(recording_module, "ledger_facts", broken)
    with AuditTrail(tmp_path, "run", runtime=False) as trail:
        trail.log_annotations(rewards=[1.0])
        trail.record("heartbeat", {"producer": "p", "epoch": 0})
    assert "nothing will be recorded" in caplog.text
    with pytest.raises(RecordingError):
        AuditTrail(tmp_path, "run", runtime=False, strict=True)


class ReadOnlyDisk(RealDisk):
    """Nothing can be made on it."""

    def mkdir(self, folder: Path) -> None:
        raise OSError(30, "read-only file system")


def test_a_folder_that_cannot_be_made_stops_nothing_unless_the_trail_is_strict(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    for directory, disk in ((tmp_path / "file" / "run", RealDisk()), (tmp_path / "run", ReadOnlyDisk())):
        with AuditTrail(directory, runtime=False, disk=disk) as trail:
            trail.log_annotations(rewards=[1.0])
            assert trail.run_id
        assert "nothing will be recorded" in caplog.text
        assert "1 event of " in caplog.text
        caplog.clear()
        with pytest.raises(RecordingError, match="cannot be opened"):
            AuditTrail(directory, runtime=False, disk=disk, strict=True)


@pytest.mark.parametrize(
    ("name", "error"), [("load_settings", PermissionError(13, "not yours")), ("ledger_facts", ValueError("secret"))]
)
def test_whatever_opening_raises_stops_nothing_and_tells_no_contents(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(recording_module, name, broken)
    AuditTrail(tmp_path, "run", runtime=False).close()
    assert "nothing will be recorded" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(RecordingError):
        AuditTrail(tmp_path, "run", runtime=False, strict=True)


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("nonsense = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="nonsense"):
        AuditTrail(tmp_path, "run", runtime=False)


def test_a_strict_trail_stops_the_training_when_events_are_lost(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path, "run", runtime=False, strict=True, queue_events=10)
    with pytest.raises(RecordingError, match="queue is full"):
        trail.log_annotations(rewards=[1.0] * 11)
    trail.close()


def test_a_strict_trail_tells_what_its_last_call_lost(tmp_path: Path) -> None:
    with (
        pytest.raises(RecordingError, match="1 event of run/0 lost"),
        AuditTrail(tmp_path, "run", runtime=False, strict=True) as trail,
    ):
        trail.log_annotations(rewards=["no number"])  # type: ignore[list-item]  # wrong on purpose
    trail.close()


def test_a_strict_trail_hides_no_other_error_behind_its_losses(tmp_path: Path) -> None:
    def train() -> None:
        with AuditTrail(tmp_path, "run", runtime=False, strict=True) as trail:
            trail.log_annotations(rewards=["no number"])  # type: ignore[list-item]  # wrong on purpose
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()


def test_a_closed_trail_says_that_it_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trail = AuditTrail(tmp_path, "run", runtime=False)
    trail.close()
    trail.log_annotations(rewards=[1.0])
    assert "events are being lost: the trail is closed" in caplog.text


def test_our_own_failing_thread_does_not_reach_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rlhf_audit_producers.spool_writer import SpoolWriter

    def broken(self: SpoolWriter) -> None:
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(SpoolWriter, "turn", broken)
    trail = AuditTrail(tmp_path, "run", runtime=False)
    trail.log_annotations(rewards=[1.0])
    assert not trail.flush()
    trail.log_annotations(rewards=[1.0])
    trail.close()
    assert "recording stopped" in caplog.text
    assert "queue is full" not in caplog.text
    assert "a defect of ours" not in caplog.text, "messages of others may hold contents"


class HangingDisk(RealDisk):
    """Syncs of spools wait until somebody lets them go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.hangs = threading.Event()
        self.is_hanging = False

    def sync(self, handle: Handle) -> None:
        if self.is_hanging and handle.path.suffix == ".log":
            self.hangs.set()
            self.let_go.wait(30)
        super().sync(handle)


def test_a_disk_that_hangs_holds_up_nobody_but_the_writer(tmp_path: Path) -> None:
    disk = HangingDisk()
    trail = AuditTrail(tmp_path, "run", runtime=False, disk=disk)
    assert trail.flush()
    disk.is_hanging = True
    trail.log_annotations(rewards=[0.0])
    assert disk.hangs.wait(10)
    for _ in range(100):
        trail.log_annotations(rewards=[1.0])  # would never return if it waited for the disk
    assert not trail.flush(0.01)
    disk.let_go.set()
    assert len(judgements(trail)) == 101
    trail.close()


def test_a_network_file_system_gets_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module, "network_file_system", lambda folder: "NFS")
    with pytest.warns(UserWarning, match="network file system") as caught:
        AuditTrail(tmp_path, "run", runtime=False).close()
    assert "local disk" in str(caught[0].message)
    with pytest.raises(RecordingError, match="NFS"):
        AuditTrail(tmp_path, "run", runtime=False, strict=True)


def test_recording_loads_nothing_but_the_base_install(tmp_path: Path) -> None:
    with AuditTrail(tmp_path, "run", runtime=False):
        pass  # the ledger is begun
    code = (
        "import sys; from rlhf_audit_trail import AuditTrail;"
        "trail = AuditTrail(sys.argv[1], runtime=False); trail.log_annotations(rewards=[1.0]); trail.close();"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    heavy = {"torch", "transformers", "trl", "chdb", "clickhouse_connect", "obstore", "numpy", "rich", "asyncio"}
    assert loaded & heavy == set()
    assert loaded & {"rlhf_audit_sinks", "rlhf_audit_auditor"} == set()


def test_both_names_are_one_class() -> None:
    assert AuditableRLHF is AuditTrail


def test_the_end_of_a_trail_that_its_program_let_go_of_is_said_and_its_runtime_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(runtime_start.RuntimeKeeper, "look", lambda self: None)  # as if the program were too short
    monkeypatch.setattr(runtime_start, "ensure_runtime", lambda directory, *, brokers: started.append(directory))

    def train() -> None:
        AuditTrail(tmp_path, "run").log_annotations(rewards=[1.0])

    train()
    gc.collect()
    recording_module._close_all()
    assert started == [tmp_path]
    (end,) = spooled_events(tmp_path, "producer_end")
    assert (end["reason"], end["rows"]) == ("finished", 1)
