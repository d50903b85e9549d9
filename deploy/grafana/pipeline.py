"""The Grafana dashboard *Pipeline*, as code: is everything recorded, sealed and stored, and how far behind?

Writes ``dashboards/pipeline.json`` beside it (``python deploy/grafana/pipeline.py``);
a test says when the two differ. From left to right and top to bottom it follows
an event: spool, brokers, seal, stores, global log. Panels ask Prometheus for
the metrics of ``rlhf_audit_stores.health`` and for nothing else.

What was recorded is no business of this dashboard: no event content is a metric.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

OUT: Final = Path(__file__).parent / "dashboards/pipeline.json"
UID: Final = "rlhf-audit-pipeline"
PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
_HEIGHT, _STAT_HEIGHT = 8, 4


def build() -> Dashboard:
    """The whole dashboard."""
    board = (
        dashboard.Dashboard("RLHF audit trail: pipeline")
        .uid(UID)
        .description("From the spools of the training nodes to the signed global log: lag, throughput, errors.")
        .tags(["rlhf-audit"])
        .readonly()
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.QueryVariable("stream")
            .label("Stream")
            .datasource(PROMETHEUS)
            .query("label_values(rlhf_audit_sealed_messages_total, stream)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for panel in _now():
        board = board.with_panel(panel)
    for title, panels in _ROWS.items():
        board = board.with_row(dashboard.Row(title))
        for graph in panels:
            board = board.with_panel(graph)
    built = board.build()
    for number, one in enumerate(built.panels or [], 1):
        one.id_val = number  # the same at every start: a link to a panel names it
    return built


def render() -> str:
    """The bytes of the file."""
    return json.dumps(build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _query(expr: str, legend: str = "", *, ref: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(PROMETHEUS).range()


def _number(
    title: str, expr: str, unit: str, description: str, *, bad_from: float | None = None, good_from: float | None = None
) -> stat.Panel:
    """One figure that is green or red; without a limit it is only a figure."""
    steps = [Threshold(value=None, color="text")]
    if bad_from is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=bad_from, color="red")]
    if good_from is not None:
        steps = [Threshold(value=None, color="red"), Threshold(value=good_from, color="green")]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .with_target(_query(expr))
        .unit(unit)
        .span(4)
        .height(_STAT_HEIGHT)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    )


def _graph(title: str, unit: str, description: str, *queries: tuple[str, str], span: int = 8) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(span)
        .height(_HEIGHT)
        .fill_opacity(8)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    for ref, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(_query(expr, legend, ref=ref))
    return panel


def _now() -> list[stat.Panel]:
    return [
        _number(
            "Forks",
            "sum(max_over_time(rlhf_audit_forks_total[1h])) or vector(0)",
            "none",
            "Two contents for one place of the ledger in the last hour. Anything but 0: docs/runbooks/AuditFork.md.",
            bad_from=1,
        ),
        _number(
            "Workers that do not work",
            'count(up{job=~"audit-.+"} == 0 or rlhf_audit_worker_ready == 0) or vector(0)',
            "none",
            "Down, or waiting for something; /readyz of the worker says for what.",
            bad_from=1,
        ),
        _number(
            "Sealed events",
            "sum(rate(rlhf_audit_sealed_events_total[$__rate_interval]))",
            "eps",
            "Events per second that were given their place in the ledger.",
        ),
        _number(
            "Oldest record in a spool",
            "max(rlhf_audit_spool_oldest_seconds)",
            "s",
            "How long a record has waited on a training node for the brokers' acknowledgement.",
            bad_from=120,
        ),
        _number(
            "Oldest open window",
            "max(rlhf_audit_window_age_seconds)",
            "s",
            "How long events wait for a signature. Windows are 10 s long unless the genesis says otherwise.",
            bad_from=90,
        ),
        _number(
            "Global log published",
            "time() - max(rlhf_audit_global_published_timestamp_seconds)",
            "s",
            "Age of the newest head of the log over all partitions; it rests while nothing is recorded.",
        ),
    ]


_ROWS: Final[dict[str, list[timeseries.Panel]]] = {
    "Throughput": [
        _graph(
            "Shipped",
            "mps",
            "Records per second that all in-sync replicas acknowledged, by stream.",
            (
                'sum by (stream) (rate(rlhf_audit_shipped_records_total{stream=~"$stream"}[$__rate_interval]))',
                "{{stream}}",
            ),
        ),
        _graph(
            "Sealed",
            "eps",
            "Events per second that were sealed, by stream.",
            (
                'sum by (stream) (rate(rlhf_audit_sealed_events_total{stream=~"$stream"}[$__rate_interval]))',
                "{{stream}}",
            ),
        ),
        _graph(
            "Stored",
            "eps",
            "Events per second that a sink has stored durably. All sinks should draw one line.",
            ('sum by (sink) (rate(rlhf_audit_sink_events_total{stream=~"$stream"}[$__rate_interval]))', "{{sink}}"),
        ),
        _graph(
            "Shipped bytes",
            "Bps",
            "Bytes per second to the brokers, by stream.",
            (
                'sum by (stream) (rate(rlhf_audit_shipped_bytes_total{stream=~"$stream"}[$__rate_interval]))',
                "{{stream}}",
            ),
        ),
        _graph(
            "Windows stored",
            "wps",
            "Windows per second, by sink: each is one signature.",
            ('sum by (sink) (rate(rlhf_audit_sink_windows_total{stream=~"$stream"}[$__rate_interval]))', "{{sink}}"),
        ),
        _graph(
            "Global log",
            "none",
            "Checkpoints of partitions in the one log over all of them: it only grows.",
            ("max(rlhf_audit_global_size)", "checkpoints"),
        ),
    ],
    "Lag": [
        _graph(
            "Before the sealer",
            "none",
            "Source messages that are not sealed yet, by partition.",
            (
                'sum by (stream, partition) (rlhf_audit_seal_lag_messages{stream=~"$stream"})',
                "{{stream}}/{{partition}}",
            ),
        ),
        _graph(
            "Before the sinks",
            "none",
            "Sealed records that are not stored yet, by sink and stream.",
            ('sum by (sink, stream) (rlhf_audit_sink_lag_messages{stream=~"$stream"})', "{{sink}} {{stream}}"),
        ),
        _graph(
            "Age of the open window",
            "s",
            "Oldest open window, by stream: a saw whose teeth are as long as a window.",
            ('max by (stream) (rlhf_audit_window_age_seconds{stream=~"$stream"})', "{{stream}}"),
        ),
    ],
    "Spools of the training nodes": [
        _graph(
            "Waiting bytes",
            "bytes",
            "Bytes that wait in the spools of a node. At its quota the lowest class is dropped and counted.",
            ("sum by (instance) (rlhf_audit_spool_bytes)", "{{instance}}"),
            span=12,
        ),
        _graph(
            "Oldest record",
            "s",
            "Age of the oldest record that waits, by node.",
            ("max by (instance) (rlhf_audit_spool_oldest_seconds)", "{{instance}}"),
            span=12,
        ),
    ],
    "Errors": [
        _graph(
            "Failed deliveries",
            "cps",
            "Deliveries that failed and are sent again, by Kafka's reason.",
            (
                "sum by (reason) (rate(rlhf_audit_ship_errors_total[$__rate_interval])) or vector(0)",
                "{{reason}}",
            ),
        ),
        _graph(
            "Outcomes other than accepted",
            "mps",
            "Messages sealed as something else. Duplicates and ticks are everyday; quarantine, conflict, hole are not.",
            (
                'sum by (outcome) (rate(rlhf_audit_sealed_messages_total{stream=~"$stream",'
                'outcome!~"accepted|control"}[$__rate_interval])) or vector(0)',
                "{{outcome}}",
            ),
        ),
        _graph(
            "Forks",
            "none",
            "Forks that were found, by who found them.",
            ("sum by (where) (rlhf_audit_forks_total) or vector(0)", "{{where}}"),
        ),
        _graph(
            "Paused sinks",
            "none",
            "1 while the store of a sink does not answer.",
            ("max by (sink) (rlhf_audit_sink_paused)", "{{sink}}"),
        ),
        _graph(
            "Identical duplicates dropped",
            "cps",
            "Records that stood twice in a sealed topic with the same bytes: harmless, and rare while brokers live.",
            ("sum by (sink) (rate(rlhf_audit_sink_duplicates_total[$__rate_interval])) or vector(0)", "{{sink}}"),
        ),
        _graph(
            "Seconds since a worker's last turn",
            "s",
            "Every worker turns once a second, idle or not.",
            ("time() - rlhf_audit_worker_turn_timestamp_seconds", "{{job}} {{instance}}"),
        ),
    ],
}


if __name__ == "__main__":
    OUT.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{OUT}\n")
