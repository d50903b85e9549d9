"""The check of a whole trail (``docs/format.md`` section 8).

1. There is something to check, and a checkpoint known before is of this ledger.
2. Some checkpoint names the key: else nothing can be said under it.
3. The global log, which says what else there must be (``global_log``).
4. Every partition of the genesis (``partition_check``), several at once in processes of their own (``jobs``).
5. Every object is explained (``naming``), and what lies beyond the checkpoints is a pending tail.
6. Checkpoints known before are extended.
7. Completeness, level, requirements.

Findings are collected. Nothing is written here but, after a check that
passed, the memory of its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rlhf_audit_auditor.completeness import judge_completeness
from rlhf_audit_auditor.evidence import Evidence, Trail, UnreadableError
from rlhf_audit_auditor.findings import Findings
from rlhf_audit_auditor.global_log import (
    GlobalLog,
    check_global,
    check_schemas,
    open_global,
)
from rlhf_audit_auditor.global_tail import check_tail
from rlhf_audit_auditor.jobs import check_partitions
from rlhf_audit_auditor.known import KnownCheckpoints
from rlhf_audit_auditor.memory import Memory
from rlhf_audit_auditor.naming import check_names, check_vault_names
from rlhf_audit_auditor.partition_result import PartitionResult, PartitionTask
from rlhf_audit_auditor.report import LedgerFacts, PayloadFacts, Report
from rlhf_audit_auditor.requirements import Requirements
from rlhf_audit_auditor.signed import names_key, read_statement
from rlhf_audit_ledger.note import VerifierKey, parse_verifier_key
from rlhf_audit_ledger.objects import GLOBAL_CHECKPOINT
from rlhf_audit_ledger.settings import partition_settings
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError, FormatError

NOTHING_TO_CHECK = "no object: there is nothing to check"


@dataclass(frozen=True, slots=True)
class Options:
    """How to check. ``expect`` is a checkpoint known before; ``now_us`` is only compared with ``fresh``."""

    expect: bytes | None = None
    memory: Memory | None = None
    log_only: bool = False
    require: Requirements = field(default_factory=Requirements)
    jobs: int = 1
    now_us: int = 0
    progress: Callable[[int], object] = field(default=lambda count: None, repr=False)


def verify(trail: Trail, options: Options) -> Report:
    """Check a trail. Raises CouldNotCheckError if there is nothing or no key to check it with, ConfigError if an
    argument makes no sense; everything else is in the report."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = Report()
    findings = Findings()
    check = _Check(trail, options, report, findings)
    try:
        check.run()
    except UnreadableError as error:
        findings.could_not_read(str(error))
    if findings and check.has_moved():
        findings.could_not_read(
            "the trail was written to while it was checked, so "
            f"{len(findings.found)} apparent findings are left aside: check a copy, or run again"
        )
    else:
        report.findings += findings.found
        report.more += findings.more
    report.unreadable += findings.unreadable
    report.notes += findings.notes
    report.seconds = time.perf_counter() - wall
    report.cpu_s += time.process_time() - cpu
    check.remember()
    return report


class _Check:
    def __init__(self, trail: Trail, options: Options, report: Report, findings: Findings) -> None:
        self._trail = trail
        self._options = options
        self._report = report
        self._findings = findings
        self._known = KnownCheckpoints(findings)
        self._view: GlobalLog | None = None
        self._before: dict[str, bytes] = {}

    def run(self) -> None:
        objects, findings = self._trail.objects, self._findings
        # 1.
        self._before = _checkpoints(objects)
        if next(objects.list(""), None) is None:
            raise CouldNotCheckError(NOTHING_TO_CHECK)
        expect = self._options.expect
        if expect is not None and not self._known.expect(expect, objects):
            return
        # 2.
        key = None if self._trail.vkey is None else parse_key(self._trail.vkey)
        if key is not None and not any(names_key(data, key.public_key) for data in self._before.values()):
            raise CouldNotCheckError(f"no checkpoint names the key {key.name}+{key.key_id.hex()}: it is another log's")
        # 3.
        self._view = view = open_global(objects, None if key is None else key.public_key, findings)
        if view is None:
            return
        if self._options.memory is not None:
            self._known.remember(self._options.memory, view)
        check_schemas(view, findings)
        check_global(objects, view, self._known.sizes, findings)
        self._report.ledger = LedgerFacts(
            view.ledger_id, view.genesis.log_name, view.genesis.ts_us, view.size, view.root, view.checkpoint
        )
        # 4.
        results = self._check_partitions(view)
        # 5.
        self._check_names(view, results)
        # 6.
        self._known.check(view)
        # 7.
        self._conclude(view, results)

    def _check_partitions(self, view: GlobalLog) -> list[PartitionResult]:
        trail = self._trail if self._wants_payload else Trail(self._trail.objects, self._trail.vault)
        tasks = [
            PartitionTask(partition_settings(view.genesis_bytes, stream, number), view.key, trail, view.size)
            for stream, count in view.genesis.partition_counts.items()
            for number in range(count)
        ]
        results = check_partitions(tasks, self._options.jobs, self._options.progress)
        for result in results:
            self._findings.merge(result.findings)
            self._report.pending += [f"{result.name}: {what}" for what in result.pending]
        self._report.partitions = results
        self._report.cpu_s = sum(result.cpu_s for result in results) if self._options.jobs > 1 else 0.0
        return results

    @property
    def _wants_payload(self) -> bool:
        if self._options.log_only:
            return False
        return self._trail.vault_key is not None or self._options.require.payload

    def _check_names(self, view: GlobalLog, results: Sequence[PartitionResult]) -> None:
        by_name = {(result.stream, result.partition): result for result in results}
        tail = view.size
        waiting = set(self._waiting(results))
        if view.statement is not None:
            tail = check_tail(self._trail.objects, view.size, waiting, self._findings)
        sizes = check_names(self._trail.objects, view.size, tail, by_name, self._findings)
        self._report.objects, self._report.object_bytes = sizes.objects, sizes.bytes
        temporary = sizes.temporary
        if self._trail.vault is not None and not self._options.log_only:
            vaulted = check_vault_names(self._trail.vault, by_name, self._findings)
            temporary += vaulted.temporary
            if self._wants_payload:
                self._report.objects += vaulted.objects
                self._report.object_bytes += vaulted.bytes
        if temporary:
            self._findings.note(f"{temporary} temporary files of unfinished writes, not part of the evidence")

    def _waiting(self, results: Sequence[PartitionResult]) -> list[bytes]:
        return [checkpoint for result in results for checkpoint in result.unpublished]

    def _conclude(self, view: GlobalLog, results: Sequence[PartitionResult]) -> None:
        report, require = self._report, self._options.require
        self._conclude_payloads(results)
        report.completeness = judge_completeness(results, are_statements_read=self._wants_payload)
        report.extends = self._known.extends
        if report.extends is not None:
            report.level = "extends a checkpoint known before"
        elif not self._trail.is_key_own:
            report.level = "key from elsewhere"
        if require.complete and report.completeness.verdict != "yes":
            report.unmet.append(f"complete: {report.completeness.verdict}")
        if require.witnessed:
            report.unmet.append("witnessed: no witness has co-signed, and this version knows no policy")
        if require.fresh_us is not None:
            self._require_fresh(require.fresh_us, results)

    def _conclude_payloads(self, results: Sequence[PartitionResult]) -> None:
        findings = self._findings
        counts = [result.payloads for result in results]
        opened = sum(one.opened for one in counts)
        others = sum(one.other_key_objects for one in counts)
        if opened:
            for result in results:
                place = Findings(result.stream, result.partition)
                for window, name in result.payloads.other_key:
                    place.add("vault", "another suite or key than the other objects", window=window, obj=name)
                findings.merge(place)
        elif others:
            findings.could_not_read(f"{others} vault objects are under another key than the one given")
        facts = PayloadFacts(
            self._wants_payload,
            sum(one.messages for one in counts),
            sum(one.rehashed for one in counts),
            sum(one.unreadable for one in counts),
        )
        self._report.payloads = facts
        if self._wants_payload and facts.messages and (self._trail.vault is None or self._trail.vault_key is None):
            what = "vault" if self._trail.vault is None else "vault key"
            where = "--vault" if self._trail.vault is None else "--vault-key"
            findings.could_not_read(f"payloads were asked for and there is no {what} ({where} says where it lies)")

    def _require_fresh(self, fresh_us: int, results: Sequence[PartitionResult]) -> None:
        now = self._options.now_us
        newest = max((one.newest_us for one in results if one.newest_us is not None), default=None)
        if newest is None or now - newest > fresh_us:
            age = "nothing is sealed" if newest is None else f"the newest window is {(now - newest) // 1_000_000} s old"
            self._report.unmet.append(f"fresh: {age}")
        oldest = min((one.oldest_pending_us for one in results if one.oldest_pending_us is not None), default=None)
        if oldest is not None and now - oldest > fresh_us:
            self._report.unmet.append(f"fresh: a pending tail is {(now - oldest) // 1_000_000} s old")

    def has_moved(self) -> bool:
        """Whether a checkpoint was replaced since the check began: then old and new objects were read as one state."""
        return _checkpoints(self._trail.objects) != self._before

    def remember(self) -> None:
        """After a check that passed, keep its checkpoint for the next one."""
        view, memory = self._view, self._options.memory
        if memory is not None and view is not None and view.checkpoint is not None and not self._report.exit_code:
            try:
                memory.write(view.ledger_id, view.checkpoint)
            except OSError as error:
                self._report.notes.append(
                    f"this checkpoint is not remembered, so the next check cannot compare: {memory.folder}: "
                    f"{error.strerror} (RLHF_AUDIT_STATE names another folder, --no-memory asks for none)"
                )


def parse_key(vkey: str) -> VerifierKey:
    """The key of a vkey file's first line. Raises ConfigError if it is none."""
    try:
        return parse_verifier_key(vkey)
    except FormatError as error:
        raise ConfigError(f"not a verifier key: {error}") from error


def count_entries(objects: Evidence) -> int:
    """How many entries the partition logs claim to have: the measure of the work ahead."""
    claimed = [read_statement(data) for data in _checkpoints(objects).values()]
    return sum(one.size for one in claimed if one is not None and not one.origin.endswith("/global"))


def _checkpoints(objects: Evidence) -> dict[str, bytes]:
    """All checkpoints by name."""
    names = [GLOBAL_CHECKPOINT]
    names += [info.name for info in objects.list("logs/") if info.name.endswith("/checkpoint")]
    found = {name: objects.get(name) for name in names}
    return {name: data for name, data in found.items() if data is not None}
