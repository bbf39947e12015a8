"""Dashboard, scrape configuration, compose file and documentation against what a server really exposes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from app.errors import AppError
from app.settings import Settings
from app.telemetry.metrics import STAGES
from app.telemetry.running import PHASES
from engine.errors import EngineError
from tests.app.metrics_table import exposed, table

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOC = (ROOT / "docs" / "observability.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "whence.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
TARGETS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
NAME = re.compile(r"\b(?:whence|process)_[a-z_]+")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    return exposed(tmp_path_factory.mktemp("exposed") / "home")


@pytest.fixture(scope="module")
def samples(metrics: dict[str, Metric]) -> set[str]:
    """Names as queries use them: of histograms `_bucket`, `_sum` and `_count`."""
    return {sample.name for metric in metrics.values() for sample in metric.samples}


def test_the_story_leaves_no_metric_without_a_sample(metrics: dict[str, Metric]) -> None:
    assert len(metrics) > 35
    assert not [name for name, metric in metrics.items() if not metric.samples]


def test_the_documented_table_is_what_is_exposed(metrics: dict[str, Metric]) -> None:
    documented = [line for line in DOC.splitlines() if re.match(r"\| `(whence|process)_", line)]
    assert documented == table(metrics), "`python -m tests.app.metrics_table` prints the table"


def test_names_in_the_documentation_exist(metrics: dict[str, Metric], samples: set[str]) -> None:
    assert set(NAME.findall(DOC)) <= samples | set(metrics)


@pytest.mark.parametrize(("title", "expression"), TARGETS, ids=[title for title, _ in TARGETS])
def test_a_panel_asks_for_what_is_exposed(
    title: str, expression: str, metrics: dict[str, Metric], samples: set[str]
) -> None:
    found = set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
    assert found and found <= samples, title
    known = {label for metric in metrics.values() for sample in metric.samples for label in sample.labels}
    asked = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", expression))
    asked |= {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
    assert asked <= known | {"instance", "job"}, title
    for opened, closed in ("()", "{}", "[]"):
        assert expression.count(opened) == expression.count(closed)


def test_values_of_labels_in_panels_exist(metrics: dict[str, Metric]) -> None:
    expressions = " ".join(expression for _, expression in TARGETS)
    for label, values in (
        ("state", metrics["whence_jobs"]),
        ("result", metrics["whence_attribution_cache_requests_total"]),
    ):
        exist = {sample.labels[label] for sample in values.samples}
        asked = {v for found in re.findall(rf'\b{label}=~?"([^"]*)"', expressions) for v in found.split("|")}
        assert asked and asked <= exist
    assert re.findall(r'job="([^"]*)"', expressions)
    assert set(re.findall(r'job="([^"]*)"', expressions)) == {SCRAPE["job_name"]}


SCRAPE: dict[str, Any] = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"][0]


def test_the_dashboard_is_one_grafana_takes() -> None:
    assert DASHBOARD["schemaVersion"] >= 39  # Grafana 11's
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("whence", "Whence")
    assert "id" not in DASHBOARD and "__inputs" not in DASHBOARD  # both are of one Grafana, or of its website
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert {"datasource", "instance"} == variables
    for panel in PANELS:
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert '"$instance"' in target["expr"]


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_shows_what_was_asked_for() -> None:
    shown = " ".join(expression for _, expression in TARGETS)
    for wanted in ("http_requests_total", 'status=~"5.."', "queue_depth", "queue_wait", "batch_size", "stage_seconds"):
        assert wanted in shown, wanted
    for wanted in ("whence_jobs{", "index_rows_per_second", "resident_memory", "disk_free", "gpu_memory", "(0.99"):
        assert wanted in shown, wanted


def test_prometheus_scrapes_every_server_with_the_key_that_compose_gives_it() -> None:
    servers = {name for name, service in COMPOSE["services"].items() if "serve" in service.get("command", ())}
    assert {target.split(":")[0] for target in SCRAPE["static_configs"][0]["targets"]} == servers
    assert {target.split(":")[1] for target in SCRAPE["static_configs"][0]["targets"]} == {"8400"}
    (secret,) = COMPOSE["services"]["prometheus"]["secrets"]
    assert SCRAPE["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert secret in COMPOSE["secrets"]
    for name in servers:  # loopback of a container is reached by nobody
        assert "0.0.0.0" in COMPOSE["services"][name]["command"]


def test_what_compose_mounts_is_there_and_only_with_the_profile() -> None:
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["observe"]
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for source in (volume.split(":")[0] for volume in service["volumes"]):
            assert (DOCKER / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["url"], source["type"]) == ("http://prometheus:9090", "prometheus")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "whence.yml").read_text())["providers"]
    mounts = [volume.split(":") for volume in COMPOSE["services"]["grafana"]["volumes"]]
    (target,) = [mount[1] for mount in mounts if mount[0] == "./grafana/whence.json"]
    assert target == provider["options"]["path"] + "/whence.json"
    assert COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == target


def test_documented_labels_and_settings_are_the_codes(metrics: dict[str, Metric]) -> None:
    def documented(label: str) -> set[str]:
        (line,) = [line for line in DOC.splitlines() if line.startswith(f"| `{label}` |")]
        return set(re.findall(r"`(\w+)`", line.split("|")[2]))

    assert documented("stage") == set(STAGES)
    assert documented("phase") == set(PHASES)
    default = Settings.model_fields["slow_request_seconds"].default
    assert f"`WHENCE_SLOW_REQUEST_SECONDS` ({default:g})" in DOC


# --- alerts ---


def kinds_below(kind: type) -> set[type]:
    return {found for child in kind.__subclasses__() for found in (child, *kinds_below(child))}


@pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])
def test_an_alert_looks_at_what_is_exposed(rule: dict[str, Any], metrics: dict[str, Metric], samples: set[str]) -> None:
    expression = rule["expr"]
    found = set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
    assert found <= samples and (found or "up{" in expression)
    known = {label for metric in metrics.values() for sample in metric.samples for label in sample.labels}
    asked = set(re.findall(r"(\w+)\s*(?:=~|=)\s*\"", expression))
    asked |= {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
    assert asked <= known | {"instance", "job"}
    assert set(re.findall(r'job="([^"]*)"', expression)) <= {SCRAPE["job_name"]}
    for template in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", template)) <= known | {"instance"}


def test_values_of_labels_in_alerts_exist(metrics: dict[str, Metric]) -> None:
    def asked(label: str) -> set[str]:
        given = [re.findall(rf'\b{label}=~?"([^"]*)"', rule["expr"]) for rule in ALERTS]
        return {value for values in given for found in values for value in found.split("|")}

    codes = {kind.code for kind in kinds_below(AppError) | kinds_below(EngineError)}  # type: ignore[attr-defined]
    assert asked("code") and asked("code") <= codes
    assert asked("outcome") == {"failed"}, "app.jobs.contract.FAILED"
    assert asked("state") <= {sample.labels["state"] for sample in metrics["whence_jobs"].samples}


def test_an_alert_says_how_bad_it_is_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) >= 15
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "action"}
    told = (ROOT / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in ALERTS if f"`{rule['alert']}`" not in told] == []


def test_prometheus_loads_the_alerts() -> None:
    (loaded,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["rule_files"]
    assert f"./{loaded}:/etc/prometheus/{loaded}:ro" in COMPOSE["services"]["prometheus"]["volumes"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_takes_the_alerts_and_they_are_raised_when_they_should_be() -> None:
    for arguments in (["check", "rules", "docker/alerts.yml"], ["test", "rules", "tests/app/alerts_promtool.yml"]):
        ended = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
