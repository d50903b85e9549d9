"""What the processes of the recording tests do.

python recording_process.py WHAT TRAIL [ARGUMENTS]
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf_audit_producers.hooks.checkpoint_worker import CheckpointWorker
from rlhf_audit_producers.hooks.run_recorder import RunRecorder
from rlhf_audit_trail.recording import AuditTrail

ROWS = 40


def judge(trail: AuditTrail, name: str, rows: int = ROWS) -> None:
    trail.log_annotations(items=[f"{name}-{n}" for n in range(rows)], rewards=[1.0] * rows)


def rank(directory: str) -> None:
    """One rank under a launcher; its runtime starts by itself."""
    with AuditTrail(directory) as trail:
        judge(trail, f"rank{trail.rank}")


def shared(directory: str) -> None:
    """Every rank hands in the same rows three times over: with ids, for all ranks, and rows of its own."""
    with AuditTrail(directory, runtime=False) as trail:
        ids = [f"id{n}" for n in range(ROWS)]
        trail.log_annotations(items=["with-ids"] * ROWS, ids=ids, rewards=[1.0] * ROWS)
        trail.log_annotations(items=["all-ranks"] * ROWS, rewards=[1.0] * ROWS, all_ranks=True)
        trail.log_annotations(items=["own"] * ROWS, ids=ids, rewards=[1.0] * ROWS, all_ranks=False)
        trail.log_annotations(items=[f"own{trail.rank}"] * ROWS, rewards=[1.0] * ROWS)


def forks(directory: str) -> None:
    """Parent and two forked children record at once, the children through the object that they inherited."""
    trail = AuditTrail(directory, "run", runtime=False)
    judge(trail, "before")
    children = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            judge(trail, f"child{number}")
            trail.close()
            os._exit(0)
        children.append(pid)
    judge(trail, "after")
    for pid in children:
        os.waitpid(pid, 0)
    trail.close()


def forking_threads(directory: str) -> None:
    """Two threads fork all the time, a third records."""
    trail = AuditTrail(directory, "run", runtime=False)

    def fork() -> None:
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)

    forking = [threading.Thread(target=fork, daemon=True) for _ in range(2)]
    for thread in forking:
        thread.start()
    while any(thread.is_alive() for thread in forking):
        judge(trail, "during", 1)
        time.sleep(0.001)
    judge(trail, "after")
    trail.close()


def forks_and_exits(directory: str) -> None:
    """A child that is forked in the middle of a training, and of a digest, leaves as any program does."""
    trail = AuditTrail(directory, "run", runtime=False)
    run, has_forked = RunRecorder(trail), threading.Event()

    def record_later(kind: str, fields: Mapping[str, Any]) -> None:
        has_forked.wait(30)
        trail.record(kind, fields)

    saved = Path(directory) / "checkpoint-1"
    saved.mkdir()
    (saved / "weights.bin").write_bytes(b"weights")
    worker = CheckpointWorker(record_later, rank=0)
    run.begin({}, step=0, before_end=lambda: None if worker.drain(60) else sys.exit(1))
    run.end_step(1)
    worker.submit(saved, step=1, saves=True)
    pid = os.fork()
    if pid == 0:
        run.flush()
        if not worker.drain(1):
            os._exit(2)
        judge(trail, "child")
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    has_forked.set()
    run.end("finished")
    trail.close()
    sys.exit(status)


def trains_in_a_child(directory: str) -> None:
    """A child begins the training that its parent prepared, and dies in it."""
    run = RunRecorder(AuditTrail(directory, "run", runtime=False))
    child = multiprocessing.get_context("fork").Process(target=_dies_training, args=(run,))
    child.start()
    child.join()
    if child.exitcode != 1:
        raise SystemExit(f"{child.exitcode}")


def _dies_training(run: RunRecorder) -> None:
    run.begin({}, step=0)
    run.end_step(1)
    raise SystemError("the training failed")


def _in_child(trail: AuditTrail, name: str) -> None:
    judge(trail, name)  # no close: a child that ends as children do must say its end


def _opens_in_child(directory: str, name: str) -> None:
    judge(AuditTrail(directory, "run", rank=1), name)


def _children(target: Callable[[Any, str], None], given: Any) -> None:
    get = multiprocessing.get_context
    for context in (get("spawn"), get("fork"), get("forkserver")):
        method = context.get_start_method()
        child = context.Process(target=target, args=(given, method))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise SystemExit(f"{method}: {child.exitcode}")


def spawns(directory: str) -> None:
    """Children of ``multiprocessing``, begun in each way, that get the trail as an argument."""
    trail = AuditTrail(directory, "run", runtime=False)
    _children(_in_child, trail)
    judge(trail, "parent")
    trail.close()


def children_open(directory: str) -> None:
    """Children of ``multiprocessing`` that open a trail of their own."""
    _children(_opens_in_child, directory)


def relatives(directory: str) -> None:
    """Children of ``multiprocess``: one records into the trail that it inherits, one opens its own."""
    import multiprocess  # type: ignore[import-untyped,import-not-found,unused-ignore]  # comes with datasets

    trail = AuditTrail(directory, "run", runtime=False)
    for target, given in ((_in_child, trail), (_opens_in_child, directory)):
        child = multiprocess.get_context("fork").Process(target=target, args=(given, target.__name__))
        child.start()
        child.join()
    trail.close()


def loaders(directory: str) -> None:
    """A DataLoader whose workers record."""
    from torch.utils.data import DataLoader, Dataset

    trail = AuditTrail(directory, "run", runtime=False)

    class Recording(Dataset[int]):  # type: ignore[misc,unused-ignore]  # Any where torch is not installed
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            trail.log_annotations(items=[f"loader-{index}"], rewards=[1.0])
            return index

    for _ in range(2):
        seen = sorted(int(one) for batch in DataLoader(Recording(), num_workers=2) for one in batch)
        if seen != list(range(8)):
            raise SystemExit("the loader changed")
    trail.close()


def killed(directory: str) -> None:
    """Dies without a word in the middle of recording."""
    trail = AuditTrail(directory)
    judge(trail, "killed")
    trail.flush()
    judge(trail, "unsynced")
    os.kill(os.getpid(), signal.SIGKILL)


def exits(directory: str) -> None:
    """Never closes: the end of the interpreter does."""
    trail = AuditTrail(directory)
    judge(trail, "exits")


def fails(directory: str) -> None:
    """Ends with an exception nobody caught."""
    trail = AuditTrail(directory, runtime=False)
    judge(trail, "fails")
    raise SystemError("the training failed")


def waits(directory: str) -> None:
    """Records until its standard input ends."""
    with AuditTrail(directory) as trail:
        judge(trail, "waits")
        trail.flush()
        sys.stdout.write(trail.run_id + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        judge(trail, "later")
        time.sleep(0.01)


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
