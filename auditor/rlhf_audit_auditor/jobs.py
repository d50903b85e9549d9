"""Partitions checked in several processes at once: they share nothing but the evidence.

Small trails are checked in this process: starting another costs more than it
saves. Progress of the others is a shared counter that this process reads.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from rlhf_audit_auditor.partition_check import check_partition
from rlhf_audit_auditor.partition_result import PartitionResult, PartitionTask
from rlhf_audit_auditor.signed import read_statement
from rlhf_audit_ledger.objects import log_prefix

SMALL_ENTRIES = 200_000  # below about half a second of work
_POLL_S = 0.2

_counter: Synchronized[Any] | None = None


def check_partitions(
    tasks: Sequence[PartitionTask],
    jobs: int,
    progress: Callable[[int], object],
) -> list[PartitionResult]:
    """Results in the order of the tasks."""
    sizes = [_size_of(task) for task in tasks]
    total = sum(sizes)
    used = sum(1 for size in sizes if size)
    if jobs < 2 or total < SMALL_ENTRIES or used < 2:
        return [check_partition(task, progress) for task in tasks]
    return _in_processes(tasks, sizes, min(jobs, used), progress)


def _in_processes(
    tasks: Sequence[PartitionTask], sizes: Sequence[int], jobs: int, progress: Callable[[int], object]
) -> list[PartitionResult]:
    context = multiprocessing.get_context("spawn")
    counter: Synchronized[Any] = context.Value("q", 0)
    seen = 0
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(counter,)) as pool:
        # The largest first, so that no process is left with it alone at the end.
        order = sorted(range(len(tasks)), key=lambda index: -sizes[index])
        futures = {index: pool.submit(_check, tasks[index]) for index in order}
        waiting = set(futures.values())
        while waiting:
            _, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            now = counter.value
            progress(now - seen)
            seen = now
        return [futures[index].result() for index in range(len(tasks))]


def _begin(counter: Synchronized[Any]) -> None:
    global _counter
    _counter = counter


def _check(task: PartitionTask) -> PartitionResult:
    return check_partition(task, _advance)


def _advance(count: int) -> None:
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += count


def _size_of(task: PartitionTask) -> int:
    settings = task.settings
    data = task.trail.objects.get(f"{log_prefix(settings.stream.stream, settings.partition)}/checkpoint")
    statement = None if data is None else read_statement(data)
    return 0 if statement is None else statement.size
