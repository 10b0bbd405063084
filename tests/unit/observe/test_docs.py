"""Metrics, settings, variables, alerts and their remedies: docs and deploy/ follow the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from secure_runner.config.cluster import Cluster
from secure_runner.config.owner_limits import DataOwnerLimits, OwnerLimits
from secure_runner.config.settings import Limits, Party, Retries, Timeouts, Tls
from secure_runner.http.codes import ERROR_CODES
from secure_runner.observe.metrics import METRICS, Metrics
from secure_runner.party.exit import FailureCode

ROOT = Path(__file__).parents[3]
ALERTS = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def _page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def _table(page: str, marker: str) -> list[str]:
    _, found, rest = page.partition(f"<!-- {marker} -->\n")
    assert found
    return rest.split("\n\n", 1)[0].split("\n")[2:]


def test_every_metric_is_documented():
    """The table has exactly the code's rows; the failure shows what to paste."""
    rows = []
    for m in METRICS:
        labels = ", ".join(f"`{label}`" for label in m.labels) or "–"
        rows.append(f"| `{m.name}` | {m.kind} | {labels} | {m.where} | {m.help} |")
    assert _table(_page("metrics.md"), "metrics") == rows, "paste:\n" + "\n".join(rows)
    assert all(re.fullmatch(r"secure_runner_[a-z_]+", m.name) for m in METRICS)
    assert all(m.name.endswith("_total") == (m.kind == "counter") for m in METRICS)


@pytest.mark.parametrize(("marker", "model"), [("limits", DataOwnerLimits), ("limits file", OwnerLimits)])
def test_limits_are_documented(marker, model):
    """Each setting with its default and its docstring."""
    rows = []
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f"`{json.dumps(field.default)}`"
        description = " ".join((field.description or "").replace("``", "`").split())
        rows.append(f"| `{name}` | {default} | {description} |")
    assert _table(_page("operations.md"), marker) == rows, "paste:\n" + "\n".join(rows)


@pytest.mark.parametrize("model", [Cluster, Party, Timeouts, Retries, Limits, Tls])
def test_every_cluster_setting_is_documented(model):
    """By its name, in a row of configuration.md."""
    page = _page("configuration.md")
    left_out = [name for name in model.model_fields if f"| `{name}` |" not in page and name != "embedded"]
    assert not left_out, left_out


def test_every_variable_is_documented():
    """Whatever environment variable the code names is in a table of the docs."""
    named = set()
    for file in (ROOT / "secure_runner").rglob("*.py"):
        named |= set(
            re.findall(r"\bSECURE_RUNNER_[A-Z_]+\b|\bOTEL_EXPORTER_OTLP_ENDPOINT\b", file.read_text())
        )
    assert len(named) >= 12
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert not {name for name in named if f"`{name}`" not in pages}


def _metric_names() -> dict[str, set[str]]:
    """Series that exist, with their labels."""
    series: dict[str, set[str]] = {}
    for spec in METRICS:
        labels = set(spec.labels) | {"instance", "job"}
        series[spec.name] = labels
        if spec.kind == "histogram":
            del series[spec.name]
            series |= {f"{spec.name}_bucket": labels | {"le"}, f"{spec.name}_sum": labels}
            series[f"{spec.name}_count"] = labels
    return series


def _selectors(query: str) -> list[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(node) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


QUERIES = [
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
    *(
        pytest.param(target["expr"].replace("$instance", ".*"), id=panel["title"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ),
]


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_promql_and_ask_for_what_exists(query):
    """Every series and every label that alerts and dashboard name is one of ours."""
    series = _metric_names()
    selectors = _selectors(query)
    assert selectors
    for selector in selectors:
        assert selector.name in series
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= series[selector.name], selector.name
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        names = {name.strip() for name in grouped.split(",")}
        assert names <= set().union(*(series[selector.name] for selector in selectors))


def test_alerts_name_codes_that_exist_and_have_a_remedy():
    """A code that nobody gives would never fire; an alert without a remedy wakes somebody for nothing."""
    codes = set(ERROR_CODES) | {"rate", "daily_rows", "batch_size", "runner_.*"}
    page = _page("operations.md")
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        _, found, remedy = page.partition(f"\n### {rule['alert']}\n\n")
        assert found, rule["alert"]
        assert len(remedy.split("\n### ")[0]) > 80
        for values in re.findall(r'(?:code|reason)=~?"([^"]*)"', rule["expr"]):
            assert set(values.split("|")) <= codes
    assert len(re.findall(r"\n### SecureRunner\w+\n", page)) == len(RULES)


def test_every_reason_of_a_session_end_has_a_remedy():
    """As the party processes give them."""
    page = _page("operations.md")
    assert not [
        code.value for code in FailureCode if f"`{code.value}`" not in page and code.value != "runner"
    ]


def test_the_dashboard_is_one_that_grafana_takes():
    """Panels do not overlap, ids are unique, every target has a query."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not own & cells
        cells |= own
        assert all(target["expr"] for target in panel["targets"])


def test_metrics_can_be_scraped():
    """Every metric is in the page that Prometheus reads, under its documented name."""
    registry = CollectorRegistry()
    shown = Metrics(registry)
    for spec in METRICS:
        metric = shown[spec.name]
        child = metric.labels(*("x" for _ in spec.labels)) if spec.labels else metric
        getattr(child, {"counter": "inc", "gauge": "set", "histogram": "observe"}[spec.kind])(1)
    families = {family.name for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert {spec.name.removesuffix("_total") for spec in METRICS} <= families
