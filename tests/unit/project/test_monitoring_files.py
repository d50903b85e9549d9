"""Dashboard, alerts and runbooks agree with one another and with the metrics that workers have."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter

from rlhf_audit_stores.health import PREFIX, SPECS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/pipeline.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
EXPOSED = {PREFIX + name + ("_total" if spec.kind is Counter else ""): spec for name, spec in SPECS.items()}
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES]


def test_the_committed_dashboard_is_what_its_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="a tool for developers: not in every install")
    spec = importlib.util.spec_from_file_location("pipeline_dashboard", DEPLOY / "grafana/pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (DEPLOY / "grafana/dashboards/pipeline.json").read_text(encoding="utf-8")
    assert module.render() == committed, "run: python deploy/grafana/pipeline.py"


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_expressions_name_metrics_and_labels_that_workers_have(expr: str) -> None:
    names = set(re.findall(rf"{PREFIX}\w+", expr))
    assert names <= EXPOSED.keys()
    allowed = {label for name in names for label in EXPOSED[name].labels} | {"job", "instance"}
    grouped = {label.strip() for group in re.findall(r"\b(?:by|on) ?\(([^)]*)\)", expr) for label in group.split(",")}
    matched = set(re.findall(r"[{,](\w+)(?:=~|!~|!=|=)", expr))
    assert (grouped - {""}) | matched <= allowed


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    assert {name for expr in EXPRESSIONS for name in re.findall(rf"{PREFIX}\w+", expr)} == EXPOSED.keys()


def test_panels_explain_themselves_have_a_unit_and_do_not_overlap() -> None:
    for panel in PANELS:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
        assert one["x"] + one["w"] <= 24


def test_the_dashboard_asks_a_data_source_that_is_provisioned() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/datasources.yml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    assert {source["uid"] for source in sources} == {"prometheus", "clickhouse"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"prometheus"}


def test_every_alert_has_a_runbook_and_a_test_and_no_runbook_is_without_alert() -> None:
    names = {rule["alert"] for rule in RULES}
    assert len(names) == len(RULES)
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
        assert rule["labels"]["severity"] in ("page", "ticket")
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} - {"README"} == names
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == names


def test_inhibitions_name_alerts_that_exist() -> None:
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    text = json.dumps(config["inhibit_rules"])
    assert set(re.findall(r"Audit\w+", text)) <= {rule["alert"] for rule in RULES}
