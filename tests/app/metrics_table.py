"""The table of docs/observability.md, from what a server exposes: `python -m tests.app.metrics_table`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client.metrics_core import Metric

from app.main import create_app
from tests.app.conftest import make_settings, wait_for
from tests.app.observed import BusyEngine, fake_model, families, figures
from tests.app.resources import QUESTION, ready_index


def exposed(home: Path) -> dict[str, Metric]:
    """Every metric, by name: all have samples by then."""
    with TestClient(create_app(make_settings(home), BusyEngine())) as client:
        index = ready_index(client, fake_model(home / "model"))
        wait_for(lambda: figures(client)["whence_worker_jobs_running"] == 0)
        client.post("/v1/attributions", json=QUESTION | {"model": index["model"]})
        client.get("/nowhere")
        return families(client)


def row(name: str, metric: Metric) -> str:
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    shown = ", ".join(f"`{label}`" for label in labels)
    return f"| `{name}` | {metric.type} | {shown} | {metric.documentation} |"


def table(metrics: dict[str, Metric]) -> list[str]:
    ours = sorted(metrics, key=lambda name: (not name.startswith("whence_"), name))
    return [row(name, metrics[name]) for name in ours]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        print("\n".join(table(exposed(Path(home)))))
