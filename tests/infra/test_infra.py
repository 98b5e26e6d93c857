"""What watches the system speaks of metrics that exist, with labels that they have; and the files agree."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from streams.brokers.apache import KAFKA_VERSION, POM
from streams.settings.schema import fields
from streams.telemetry.metric import AnyMetric, counter, gauge, histogram
from streams.telemetry.metric_table import METRICS

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_dashboard", INFRA / "grafana" / "build_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def _targets() -> list[dict[str, str]]:
    dashboard = json.loads((INFRA / "grafana" / "dashboards" / "pulsegraph.json").read_text())
    return [target for panel in dashboard["panels"] for target in panel.get("targets", [])]


EXPRESSIONS = [rule["expr"] for rule in _alerts()] + [target["expr"] for target in _targets()]


def _metric(scraped: str) -> AnyMetric | None:
    for metric in METRICS.values():
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        if scraped in {metric.full_name + ending for ending in endings}:
            return metric
    return None


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_use_declared_metrics_and_labels(expression: str) -> None:
    labels = {"le"}
    for name in re.findall(r"pulsegraph_[a-z0-9_]+", expression):
        metric = _metric(name)
        assert metric is not None, f"{name} is not in streams/telemetry/metric_table.py"
        labels |= set(metric.labels)
        rated = re.search(r"(rate|increase)\(\s*" + name, expression) is not None
        assert rated == (metric.kind != "gauge"), f"counters and histograms are rated, gauges are not: {name}"
        for selector in re.findall(name + r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*=", selector)) <= set(metric.labels)
    if "pulsegraph_" in expression:
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        assert grouped <= labels
    assert expression.count("(") == expression.count(")")


def test_dashboard_shows_every_metric() -> None:
    shown = {metric.name for target in _targets() for name in re.findall(r"pulsegraph_\w+", target["expr"])
             if (metric := _metric(name)) is not None}  # fmt: skip
    assert set(METRICS) - shown == set()


def test_a_metric_without_a_panel_gets_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extra:
        spare_total = counter("things", "Things.", "role", "partition")
        spare_ratio = gauge("0 to 1", "Share.")
        spare_seconds = histogram("seconds", "How long.", "role")

    builder = _builder()
    before = [panel["title"] for panel in builder.build()["panels"]]
    for metric in (Extra.spare_total, Extra.spare_ratio, Extra.spare_seconds):
        monkeypatch.setitem(METRICS, metric.name, metric)
    panels = [panel for panel in builder.build()["panels"] if panel["title"] not in before]
    if "Others" not in before:
        assert panels.pop(0)["title"] == "Others"
    assert [(panel["title"], panel["targets"][0]["expr"]) for panel in panels] == [
        ("spare_total", "sum by (role) (rate(pulsegraph_spare_total[$__rate_interval]))"),
        ("spare_ratio", "max(pulsegraph_spare_ratio)"),
        (
            "spare_seconds",
            "histogram_quantile(0.95, sum by (le, role) (rate(pulsegraph_spare_seconds_bucket[$__rate_interval])))",
        ),
    ]


def test_dashboard_is_what_its_builder_writes() -> None:
    builder = _builder()
    assert builder.TARGET.read_text() == builder.text(), "run: make pages"


def test_alerts_say_what_to_do() -> None:
    names = [rule["alert"] for rule in _alerts()]
    assert len(names) == len(set(names))
    for rule in _alerts():
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    covered = " ".join(rule["expr"] for rule in _alerts())
    for needed in ("freshness_seconds", "lag_records", "dead_lettered"):
        assert needed in covered


@pytest.mark.parametrize(
    ("predictions", "predicted", "observed", "fires"),
    [
        (20_000, 0.010, 0.038, True),  # what was served before 2026-11-27
        (20_000, 0.038, 0.010, True),
        (20_000, 0.042, 0.045, False),
        (5_000, 0.010, 0.038, False),  # too few to say
        (20_000, 0.000001, 0.02, True),
        (20_000, 0.02, 0.0, True),
        (0, 0.010, 0.038, False),
    ],
)
def test_calibration_is_alerted_by_a_factor_and_a_number(
    predictions: int, predicted: float, observed: float, fires: bool
) -> None:
    """The rule's arithmetic, with the two sums in place; Prometheus and Python agree on what binds how."""
    (rule,) = [rule for rule in _alerts() if rule["alert"] == "PulsegraphMiscalibrated"]
    expression = rule["expr"]
    for which in ("predicted", "observed"):
        total = f"sum by (head, kind) (pulsegraph_live_{which}_ratio * pulsegraph_live_auc_pairs)"
        assert total in expression
        expression = expression.replace(total, which)
    expression = expression.replace("(predicted > 0)", "(predicted or float('nan'))")
    sums = {"predicted": predicted * predictions, "observed": observed * predictions}
    assert eval(expression, {"float": float}, sums) is fires


@pytest.mark.parametrize(
    ("live", "reached", "pairs", "observed", "fires"),
    [
        (0.62, 0.60, 20_000, 0.1, False),  # a head that cannot do better is not degraded
        (0.68, 0.81, 20_000, 0.1, True),
        (0.68, 0.81, 600, 0.1, False),  # sixty that left: chance
        (0.68, 0.81, 20_000, 0.001, False),
        (0.68, 0.81, 20_000, 0.999, False),
        (0.78, 0.81, 20_000, 0.1, False),
    ],
)
def test_a_model_is_degraded_against_itself(
    live: float, reached: float, pairs: int, observed: float, fires: bool
) -> None:
    """The rule's arithmetic, with the numbers in place."""
    (rule,) = [rule for rule in _alerts() if rule["alert"] == "PulsegraphModelDegraded"]
    expression = re.sub(r"(and )?on \([^)]*\)( group_left \(\))?", lambda found: found[1] or "", rule["expr"])
    for name, value in (
        ("max by (head, kind) (pulsegraph_model_auc_low_ratio)", reached),
        ("pulsegraph_live_auc_ratio", live),
        ("pulsegraph_live_auc_pairs", pairs),
        ("pulsegraph_live_observed_ratio", observed),
    ):
        assert name in expression
        expression = expression.replace(name, str(value))
    assert eval(expression) is fires


def test_containers_set_only_settings_that_exist() -> None:
    known = {field.env for field in fields()}
    for path in (ROOT / "docker-compose.yml", INFRA / "worker" / "Dockerfile"):
        assert set(re.findall(r"PULSEGRAPH_[A-Z_]+", path.read_text())) <= known


def test_one_kafka_version_and_port_everywhere() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    versions = [
        node.text
        for node in ElementTree.parse(POM).iter("{http://maven.apache.org/POM/4.0.0}version")
        if node.text is not None and node.text.startswith("4.")
    ]
    assert versions == [KAFKA_VERSION]
    scrape = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert (
        f"PULSEGRAPH_METRICS_PORT={scrape['dns_sd_configs'][0]['port']}"
        in (INFRA / "worker" / "Dockerfile").read_text()
    )
    assert set(scrape["dns_sd_configs"][0]["names"]) <= set(compose["services"])


def test_prometheus_finds_a_worker_outside_compose() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]
    text = (INFRA / "prometheus" / "prometheus.yml").read_text()
    (scrape,) = yaml.safe_load(text)["scrape_configs"]
    (pattern,) = [path for found in scrape["file_sd_configs"] for path in found["files"]]
    (example,) = re.findall(r"#   (- targets: \[.*\])", text)
    (group,) = yaml.safe_load(example)
    host, _, port = group["targets"][0].rpartition(":")
    assert any(entry.startswith(f"{host}:") for entry in compose["extra_hosts"])
    assert int(port) == scrape["dns_sd_configs"][0]["port"]
    assert {"PULSEGRAPH_METRICS_PORT", "PULSEGRAPH_METRICS_HOST"} <= {field.env for field in fields()}
    (named,) = re.findall(r"\((workers/\w+\.yml)\)", text)
    assert Path(named).match(pattern)
    assert (INFRA / "prometheus" / "workers").is_dir(), "mounted with the rest"


def test_what_compose_and_images_name_is_there() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("./") and not source.startswith("./.cache"):
                assert (ROOT / source).exists(), source
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).exists()
    for copied in re.findall(r"^COPY (\S+)", (INFRA / "worker" / "Dockerfile").read_text(), re.MULTILINE):
        assert (ROOT / copied).exists(), copied


def test_a_build_of_the_image_is_given_what_it_copies() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*", "what is not named stays out"
    copied = re.findall(r"^COPY (\S+)", (INFRA / "worker" / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied)


def test_no_file_of_ours_names_a_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    for path in [POM, ROOT / "docker-compose.yml", INFRA / "worker" / "Dockerfile", ROOT / "Makefile"]:
        assert not re.search(r"https?://(?!maven\.apache\.org/(POM|xsd)|www\.w3\.org/)", path.read_text()), path


def test_pyproject_and_lock_agree_on_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text().lower().replace("_", "-")
    pinned = [entry for entry in project["dependencies"] if "==" in entry]
    assert pinned
    for entry in pinned:
        plain = re.sub(r"\[.*?\]", "", entry.lower())  # the lock names what extras brought, and not the extras
        assert re.search(rf"^{re.escape(plain)} ", lock, re.MULTILINE), f"{entry} is not in requirements.lock"
