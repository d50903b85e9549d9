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


def _in_child(trail: AuditTrail, name: str) -> None:
    judge(trail, name)  # no close: a child that ends as children do must say its end


def spawns(directory: str) -> None:
    """Children of ``multiprocessing``, spawned and forked, that get the trail as an argument."""
    trail = AuditTrail(directory, "run", runtime=False)
    for context in (multiprocessing.get_context("spawn"), multiprocessing.get_context("fork")):
        method = context.get_start_method()
        child = context.Process(target=_in_child, args=(trail, method))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise SystemExit(f"{method}: {child.exitcode}")
    judge(trail, "parent")
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
