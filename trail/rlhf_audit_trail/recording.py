"""``AuditTrail``: what a training program records through.

``record`` and its relatives only queue: events are digested, encoded,
numbered, signed and written by a thread of their own (``Spool``), and sealed
by a process of its own (the runtime). They touch no tensor, no random state
and no control flow. Unless the trail is ``strict``, nothing that goes wrong
here reaches the training: it is logged, and declared in the ledger.

Which rank records what: every rank records the rows it is given. Rows that
several ranks are given alike must not be doubled; so where judgements have ids,
the first rank that hands in exactly these rows records them, and for the others
it is done (ranks that share the folder; ``rlhf_audit_producers.spool_claims``).
``all_ranks=True`` says that the call is made on every rank with the same rows:
rank 0 records. ``all_ranks=False`` says that these are this rank's own rows.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rlhf_audit_producers.run_identity import RUN_ID_VARIABLE, RunIdentity
from rlhf_audit_producers.spool import RecordingError, Spool, exit_reason
from rlhf_audit_producers.spool_claims import Claims
from rlhf_audit_producers.spool_queue import Submission
from rlhf_audit_producers.spool_writer import SpoolSettings
from rlhf_audit_schemas.errors import ConfigError
from rlhf_audit_schemas.kinds import KINDS, Kind
from rlhf_audit_stores.disk import Disk, RealDisk
from rlhf_audit_trail import __version__, runtime_start
from rlhf_audit_trail._intake import Intake
from rlhf_audit_trail._opening import absolute, identified, told, warn_of_network
from rlhf_audit_trail.ledger_facts import ledger_facts
from rlhf_audit_trail.node_kit import producer_on
from rlhf_audit_trail.rows import RowsEncoder, annotation_rows, completed, first_length, held_bytes, rollout_rows
from rlhf_audit_trail.runtime_start import RuntimeKeeper
from rlhf_audit_trail.settings import DEFAULT_DIRECTORY, load_settings

if TYPE_CHECKING:
    from rlhf_audit_producers.batches import EndReason
    from rlhf_audit_producers.spool_writer import WriterCounts
    from rlhf_audit_trail.rows import Rows
    from rlhf_audit_trail.settings import Settings

logger = logging.getLogger(__name__)


class AuditTrail:
    """A trail opened for recording; one per process, any thread may use it. A context manager.

    ``runtime`` False records only: run ``rlhf-audit local DIR`` for what seals. ``brokers`` (``host:port,host:port``;
    None: as the settings say) are the Kafka brokers that everything is shipped to, instead of being sealed here.
    Raises ConfigError for settings that cannot be; anything else only if ``strict``.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] = DEFAULT_DIRECTORY,
        run_id: str | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        parent_run_id: str | None = None,
        strict: bool = False,
        store_text: bool = False,
        runtime: bool = True,
        brokers: str | None = None,
        spool_bytes: int = 4 << 30,
        queue_events: int = 65_536,
        disk: Disk | None = None,
    ) -> None:
        self.directory = absolute(directory)
        self.strict, self.store_text = strict, store_text
        self.parent_run_id = parent_run_id
        self._how: dict[str, Any] = {
            "strict": strict,
            "store_text": store_text,
            "parent_run_id": parent_run_id,
            "runtime": runtime,
            "brokers": brokers,
            "spool_bytes": spool_bytes,
            "queue_events": queue_events,
        }
        self._disk: Disk = RealDisk() if disk is None else disk
        self._intake = Intake(strict=strict)
        self._leaves_run_id = False
        self._pid = os.getpid()
        self.identity: RunIdentity = identified(
            self.directory / "spool", self._disk, strict=strict, run_id=run_id, rank=rank, world_size=world_size
        )
        try:
            settings = load_settings(self.directory)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - as in ``_open``
            self._fail(error)
        else:
            self._open(settings)
        self._leave_run_id()
        _OPEN.add(self)

    def _open(self, settings: Settings) -> None:
        how = self._how
        try:
            warn_of_network(self.directory / "spool", strict=self.strict)
            facts = ledger_facts(self.directory, settings, self._disk)
            claims = Claims(self.directory / "spool", self.run_id, self.rank)
            spool = self._intake.spool = Spool(
                SpoolSettings(
                    directory=self.directory,
                    facts=facts,
                    base_producer=producer_on(self.directory, self.identity.producer, self._disk),
                    run_id=self.run_id,
                    software=f"rlhf-audit-trail {__version__}",
                    disk=self._disk,
                    now_us=_now_us,
                    quota_bytes=how["spool_bytes"],
                    max_queue_events=how["queue_events"],
                ),
                claim=claims.take if self.world_size > 1 else None,
                every_turn=RuntimeKeeper(self.directory, how["brokers"]).look if how["runtime"] else None,
                leave=self._end,
            )
            spool.start(wait_s=10.0 if self.strict else 0.0)
        except Exception as error:  # noqa: BLE001 - the boundary to the training, which must not die of us
            self._fail(error)

    @property
    def run_id(self) -> str:
        """The run that this process belongs to."""
        return self.identity.run_id

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.identity.rank

    @property
    def world_size(self) -> int:
        """How many ranks the run has."""
        return self.identity.world_size

    @property
    def producer(self) -> str:
        """Id under which this process records."""
        return self.identity.producer if self._intake.spool is None else self._intake.spool.producer

    @property
    def counts(self) -> WriterCounts | None:
        """Events durable and lost in this process, as far as the writer has come; None if nothing can be recorded."""
        return None if self._intake.spool is None else self._intake.spool.counts

    def record(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Record one event. ``salt``, ``ts_us``, ``run_id``, ``rank`` and nullable fields may be left out.

        Values must not change afterwards: packed columns are handed over as ``bytes``.
        """
        known = _kind(kind)

        def submit() -> None:
            record = completed(known, fields, ts_us=_now_us(), run_id=self.run_id, rank=self.rank)
            encode = known.codec.encode
            self._intake.submit(
                Submission(
                    known,
                    1,
                    lambda: [encode(record | {"salt": os.urandom(16)})],
                    annotators=[record["annotator"]] if "annotator" in record else None,
                    bytes_held=held_bytes(record),
                )
            )

        self._intake.guarded(known, 1, submit)

    def log_annotations(
        self,
        *,
        prompts: Sequence[str | bytes] | None = None,
        responses: Sequence[str | bytes] | None = None,
        rewards: Sequence[float] | None = None,
        chosen: Sequence[str | bytes] | None = None,
        rejected: Sequence[str | bytes] | None = None,
        rankings: Sequence[Sequence[str | bytes]] | None = None,
        axes: Mapping[str, Sequence[float | None]] | None = None,
        labels: Sequence[str] | None = None,
        annotators: Sequence[str | int | None] | str | int | None = None,
        ids: Sequence[str | int] | None = None,
        items: Sequence[str | int] | None = None,
        groups: Sequence[str | int] | str | int | None = None,
        judged_at_us: Sequence[int] | None = None,
        labeler: str | None = None,
        all_ranks: bool | None = None,
    ) -> None:
        """Record one judgement per row: rewards of responses, preferred pairs, rankings (best first) or rated axes.

        Texts are recorded as SHA-256, and as text only if the trail stores text; where a digest is at hand, give its
        32 bytes instead. Which rank records: see the module. Raises ConfigError if columns do not fit each other.
        """
        kind = KINDS["annotation"]

        def submit() -> None:
            rows = annotation_rows(
                prompts=prompts,
                responses=responses,
                rewards=rewards,
                chosen=chosen,
                rejected=rejected,
                rankings=rankings,
                axes=axes,
                labels=labels,
                annotators=annotators,
                ids=ids,
                items=items,
                groups=groups,
                judged_at_us=judged_at_us,
                labeler=labeler,
            )
            self._submit_rows(kind, rows, all_ranks)

        self._intake.guarded(kind, first_length(rewards, chosen, labels, rankings, responses), submit)

    def log_rollouts(
        self,
        *,
        prompts: Sequence[str | bytes],
        completions: Sequence[str | bytes],
        rewards: Mapping[str, Sequence[float | None]],
        step: int | None = None,
        ids: Sequence[str] | None = None,
        all_ranks: bool | None = None,
    ) -> None:
        """Record what reward functions said of completions: one event per completion, one reward per function.

        Every rank records its own completions, with or without ids.
        """
        kind = KINDS["rollout"]

        def submit() -> None:
            rows = rollout_rows(prompts=prompts, completions=completions, rewards=rewards, step=step, ids=ids)
            self._submit_rows(kind, rows, all_ranks)

        self._intake.guarded(kind, first_length(completions, prompts), submit)

    def declare_lost(self, kind: str, count: int) -> None:
        """Say in the ledger that ``count`` events could not be made; a strict trail refuses what follows."""
        self._intake.declare(_kind(kind), count)

    def _submit_rows(self, kind: Kind, rows: Rows, all_ranks: bool | None) -> None:
        if rows.count == 0 or (all_ranks and self.rank != 0):
            return
        common = {"ts_us": _now_us(), "run_id": self.run_id, "rank": self.rank}
        encoder = RowsEncoder(kind, rows, common, store_text=self.store_text)
        self._intake.submit(
            Submission(
                kind,
                rows.count,
                encoder.encode,
                annotators=rows.annotators,
                bytes_held=rows.bytes_held,
                claim=encoder.claim if rows.has_ids and all_ranks is None and self.world_size > 1 else None,
            )
        )

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until everything recorded so far is durable in the spool. Returns whether that came to pass."""
        return self._intake.spool is None or self._intake.spool.flush(timeout_s)

    def close(self, reason: EndReason | None = None) -> None:
        """Write what waits and say that this producer has ended. Idempotent; happens at exit anyway.

        Raises RecordingError if the trail is ``strict`` and events were lost, unless a call has raised that before.
        """
        is_first = self in _OPEN
        self._end(reason)
        if is_first and self.strict:
            self._intake.raise_losses(self.producer)

    def _end(self, reason: EndReason | None = None) -> None:
        """``close`` where nobody is left who could be stopped."""
        spool = self._intake.spool
        is_first = self in _OPEN
        _OPEN.discard(self)
        if spool is not None:
            spool.close(exit_reason() if reason is None else reason)
            if self._how["runtime"] and self._pid == os.getpid():
                self._ensure_runtime()
        if is_first:
            self._intake.tell_losses(self.producer)
        if self._leaves_run_id and os.environ.get(RUN_ID_VARIABLE) == self.run_id:
            del os.environ[RUN_ID_VARIABLE]
        self._leaves_run_id = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close("finished")
        else:
            self._end("failed")  # what went wrong in there is what has to be told

    def __reduce__(self) -> tuple[Callable[..., AuditTrail], tuple[Any, ...]]:
        """A copy in another process is a producer of its own there, of the same run and rank."""
        return _reopen, (self.directory, self.run_id, self.rank, self.world_size, self._how)

    def _leave_run_id(self) -> None:
        if RUN_ID_VARIABLE not in os.environ:
            os.environ[RUN_ID_VARIABLE] = self.run_id
            self._leaves_run_id = True

    def _fail(self, error: Exception) -> None:
        if self.strict:
            raise RecordingError(f"the trail cannot be opened: {told(error)}") from error
        logger.error("nothing will be recorded: %s", told(error))

    def _ensure_runtime(self) -> None:
        try:
            runtime_start.ensure_runtime(self.directory, brokers=self._how["brokers"])
        except Exception as error:  # noqa: BLE001 - what is recorded is safe, and sealed by whoever comes next
            logger.warning("the runtime could not be started: %s", told(error))


AuditableRLHF = AuditTrail

_OPEN: set[AuditTrail] = set()  # not weak: the end of a trail that its program has let go of is ours to say


def _close_all() -> None:
    for trail in list(_OPEN):
        trail._end()


atexit.register(_close_all)


def _reopen(directory: Path, run_id: str, rank: int, world_size: int, how: Mapping[str, Any]) -> AuditTrail:
    return AuditTrail(directory, run_id, rank=rank, world_size=world_size, **how)


def _kind(name: str) -> Kind:
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigError(f"unknown kind of event {name!r}; known: {', '.join(sorted(KINDS))}")
    return kind


def _now_us() -> int:
    return time.time_ns() // 1000
