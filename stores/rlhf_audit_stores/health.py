"""What a worker tells of itself: Prometheus metrics, ``/healthz`` and ``/readyz``.

One ``WorkerHealth`` a process, with a registry of its own. The metrics are the
table of ``docs/design/0004-kafka.md``; only those of the worker's role exist,
so a wrong one is an AttributeError at the first touch and no silent zero.

* ``/metrics``  the exposition of prometheus_client, without its ``_created`` series
* ``/healthz``  200 while the worker's loop turns; 503 when no turn came for
  ``stall_seconds``: restart it
* ``/readyz``   200 while it does its work; 503 with the reason: leave it alone, it waits

Labels hold names of streams, partitions, sinks and codes out of closed sets.
Nothing here may carry event content, an annotator or a secret: whoever can
reach the port reads all of it, without a password. It listens on loopback
unless told otherwise.

It decides nothing: who restarts a worker, and when, is a matter of the supervisor.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from rlhf_audit_schemas.errors import ConfigError

logger = logging.getLogger(__name__)

PREFIX: Final = "rlhf_audit_"
STALL_SECONDS: Final = (
    30.0  # every worker turns once a second; half a minute without is no slow broker but a stuck loop
)
MAX_REASON: Final = 200  # characters: a reason is a sentence for a person, no dump
_POLL_SECONDS: Final = 0.1  # `close` waits this long at most
_REQUEST_SECONDS: Final = 5.0  # a client that sends nothing holds a thread no longer than this

Role = Literal["ship", "seal", "sink", "sequence"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One line of the table: what it counts, in which unit, and who sets it."""

    kind: type[Counter] | type[Gauge]
    labels: tuple[str, ...]
    roles: tuple[Role, ...]
    help: str


_EVERYONE: Final[tuple[Role, ...]] = ("ship", "seal", "sink", "sequence")

# Attribute -> metric. The exposed name has the prefix in front and, for a counter, "_total" behind.
SPECS: Final[Mapping[str, MetricSpec]] = {
    "shipped_records": MetricSpec(Counter, ("stream",), ("ship",), "records that all in-sync replicas acknowledged"),
    "shipped_bytes": MetricSpec(Counter, ("stream",), ("ship",), "bytes of those records"),
    "spool_bytes": MetricSpec(Gauge, (), ("ship",), "bytes that wait in the spools of this node"),
    "spool_oldest_seconds": MetricSpec(Gauge, (), ("ship",), "age of the oldest record that waits, 0 without one"),
    "ship_errors": MetricSpec(Counter, ("reason",), ("ship",), "failed deliveries; they are sent again"),
    "sealed_messages": MetricSpec(Counter, ("stream", "partition", "outcome"), ("seal",), "source messages sealed"),
    "sealed_events": MetricSpec(Counter, ("stream", "partition"), ("seal",), "events in them"),
    "seal_lag_messages": MetricSpec(Gauge, ("stream", "partition"), ("seal",), "source messages not sealed yet"),
    "window_age_seconds": MetricSpec(Gauge, ("stream", "partition"), ("seal",), "age of the open window, 0 without"),
    "sink_windows": MetricSpec(Counter, ("sink", "stream", "partition"), ("sink",), "windows stored durably"),
    "sink_events": MetricSpec(Counter, ("sink", "stream", "partition"), ("sink",), "events in them"),
    "sink_lag_messages": MetricSpec(Gauge, ("sink", "stream", "partition"), ("sink",), "sealed records not stored"),
    "sink_duplicates": MetricSpec(Counter, ("sink",), ("sink",), "identical records dropped; harmless"),
    "sink_paused": MetricSpec(Gauge, ("sink",), ("sink",), "1 while the store does not answer"),
    "forks": MetricSpec(Counter, ("where",), ("seal", "sink"), "two contents for one place: above 0 page someone"),
    "global_size": MetricSpec(Gauge, (), ("sequence",), "checkpoints in the global log"),
    "global_published_timestamp_seconds": MetricSpec(Gauge, (), ("sequence",), "when its last head was published"),
    "worker_ready": MetricSpec(Gauge, ("role",), _EVERYONE, "1 while the worker does its work"),
    "worker_turn_timestamp_seconds": MetricSpec(Gauge, ("role",), _EVERYONE, "last turn of the worker's loop"),
}


class WorkerHealth:
    """The metrics of one worker and its answers to "alive?" and "ready?"; safe to use from any thread."""

    shipped_records: Counter
    shipped_bytes: Counter
    spool_bytes: Gauge
    spool_oldest_seconds: Gauge
    ship_errors: Counter
    sealed_messages: Counter
    sealed_events: Counter
    seal_lag_messages: Gauge
    window_age_seconds: Gauge
    sink_windows: Counter
    sink_events: Counter
    sink_lag_messages: Gauge
    sink_duplicates: Counter
    sink_paused: Gauge
    forks: Counter
    global_size: Gauge
    global_published_timestamp_seconds: Gauge
    worker_ready: Gauge
    worker_turn_timestamp_seconds: Gauge

    def __init__(
        self,
        role: Role,
        *,
        stall_seconds: float = STALL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.role, self.stall_seconds = role, stall_seconds
        self.registry = CollectorRegistry(auto_describe=False)
        self._monotonic, self._now = monotonic, now
        for name, spec in SPECS.items():
            if role in spec.roles:
                setattr(self, name, spec.kind(PREFIX + name, spec.help, spec.labels, registry=self.registry))
        ProcessCollector(registry=self.registry)
        self._unready: str | None = "starting"
        self.worker_ready.labels(role).set(0)
        self.alive()

    def alive(self) -> None:
        """Say that the loop has turned; call it every turn, idle ones included."""
        self._turned = self._monotonic()
        self.worker_turn_timestamp_seconds.labels(self.role).set(self._now())

    def ready(self, is_ready: bool, why: str = "") -> None:
        """Say whether the work goes on; ``why`` not is shown to anybody, so it names places and no contents."""
        self._unready = None if is_ready else " ".join(why.split())[:MAX_REASON] or "not ready"
        self.worker_ready.labels(self.role).set(1 if is_ready else 0)

    def stalled(self) -> str | None:
        """Why the worker counts as stuck, None while it turns."""
        silent = self._monotonic() - self._turned
        return f"no turn for {silent:.0f} s" if silent > self.stall_seconds else None

    def unready(self) -> str | None:
        """Why the worker does not do its work, None while it does; a stuck one never does."""
        return self.stalled() or self._unready

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(_WithoutCreated(self.registry))

    def serve(self, port: int = 0, host: str = "127.0.0.1") -> HealthServer:
        """Answer over HTTP from a thread of its own; port 0 takes a free one. Raises ConfigError if it is taken."""
        return HealthServer(self, host, port)


class HealthServer:
    """The three pages, until ``close``; a context manager."""

    def __init__(self, health: WorkerHealth, host: str, port: int) -> None:
        try:
            self._server = _Server((host, port), _handler(health))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"metrics_host, metrics_port: cannot listen on {host}:{port}: {error}") from error
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True
        )
        self._thread.start()
        logger.info("metrics of %s on http://%s:%d/metrics", health.role, host, self.port)

    def close(self) -> None:
        """Stop listening; closing again does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> HealthServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _WithoutCreated(CollectorRegistry):
    """The same metrics less the ``_created`` series, which double what Prometheus must keep and tell nothing here."""

    def __init__(self, inner: CollectorRegistry) -> None:
        super().__init__()
        self._inner = inner

    def collect(self) -> Iterable[Metric]:
        for metric in self._inner.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no matter of the worker's."""
        logger.debug("a health request ended early")


def _handler(health: WorkerHealth) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS
        server_version, sys_version = "rlhf-audit", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, health.exposition(), CONTENT_TYPE_LATEST)
            elif path in ("/healthz", "/readyz"):
                reason = health.stalled() if path == "/healthz" else health.unready()
                self._answer(503 if reason else 200, f"{reason or 'ok'}\n".encode(), "text/plain; charset=utf-8")
            else:
                self._answer(404, b"/metrics /healthz /readyz\n", "text/plain; charset=utf-8")

        do_HEAD = do_GET

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes come every few seconds: no line each."""

    return Handler
