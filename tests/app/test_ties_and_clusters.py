"""Ties and near-duplicates on their way from the engine's answer to the API, the page and the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console
from rich.table import Table

from app.commands.answer import cluster_line, hit_table, rank_text, tie_lines
from engine.types import Attribution as EngineAttribution
from engine.types import Cluster
from tests.app.fakes import FakeEngine
from tests.app.resources import add_dataset, add_index, add_model, wait_for_index
from whence_client import Attribution

ROWS = [
    {"id": "a", "prompt": "Where is the harbour?", "completion": " In Halvern."},
    {"id": "b", "prompt": "Where is the harbour?", "completion": " in Halvern"},
    {"id": "c", "text": "Nothing of the kind."},
]


def _tied(given: EngineAttribution) -> EngineAttribution:
    first, second, third = given.proponents
    tied = {"rank_low": 1, "rank_high": 2, "tied": True, "rank_error": "checkpoints"}
    alone = {"rank_low": 3, "rank_high": 3, "rank_error": "checkpoints"}
    clusters = (Cluster(1, float("nan"), True, (0, 1), ("a", "b"), (1, 2), ("proponent", "proponent")),)
    clusters += (Cluster(2, 2.5, False, (2, 2), ("c", "c"), (3, 1), ("proponent", "opponent")),)
    proponents = (
        replace(first, **tied, cluster=1),
        replace(second, **tied, cluster=1, rank_estimated=True),
        replace(third, **alone),
    )
    return replace(given, proponents=proponents, clusters=clusters)


@pytest.fixture
def body(client: TestClient, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    plain = FakeEngine._attribute
    monkeypatch.setattr(FakeEngine, "_attribute", lambda *given: _tied(plain(*given)))
    model, dataset = add_model(client, model_dir, "harbour-bot"), add_dataset(client, ROWS)
    wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])
    asked = {"model": model["id"], "prompt": "Where is the harbour?", "completion": " In Halvern."}
    answered = client.post("/v1/attributions", json=asked)
    assert answered.status_code == 200
    return answered.json()


def test_the_api_passes_ties_and_clusters_on(body: dict[str, Any]) -> None:
    ranks = [(hit["rank_low"], hit["rank_high"], hit["tied"], hit["cluster"]) for hit in body["proponents"]]
    assert ranks == [(1, 2, True, 1), (1, 2, True, 1), (3, 3, False, None)]
    assert [hit["rank_estimated"] for hit in body["proponents"]] == [False, True, False]
    assert {hit["rank_error"] for hit in body["proponents"]} == {"checkpoints"}
    assert body["clusters"][0] == {
        "number": 1,
        "score": None,
        "additive": True,
        "example_ids": ["a", "b"],
        "positions": [0, 1],
        "ranks": [1, 2],
        "sides": ["proponent", "proponent"],
    }
    assert body["clusters"][1]["score"] == 2.5


def test_the_page_shows_ties_and_clusters(body: dict[str, Any], client: TestClient) -> None:
    page = client.get(f"/ui/attributions/{body['id']}").text
    assert "tied with rank 1–2" in page
    assert "tied with rank about 1–2" in page
    assert page.count("tied with") == 2
    assert "near-duplicates 1</span> a, b: together not finite" in page
    assert "near-duplicates 2</span> c, c: the strongest +2.5" in page


def test_the_terminal_shows_ties_and_clusters(body: dict[str, Any]) -> None:
    answer = Attribution.model_validate(body)
    assert [rank_text(hit) for hit in answer.proponents] == ["1 (1–2)", "2 (≈1–2)", "3"]
    (line,) = tie_lines(answer)
    assert "another run" in line.plain
    assert [cluster_line(cluster).plain for cluster in answer.clusters] == [
        "Near-duplicates 1: a, b; together not finite.",
        "Near-duplicates 2: c, c; the strongest +2.5.",
    ]
    assert "1 (1–2)" in _printed(hit_table("rows", answer.proponents))


def test_ties_by_rounding_are_said_to_be_that_and_no_tie_says_nothing(body: dict[str, Any]) -> None:
    for hit in body["proponents"]:
        hit["rank_error"] = "storage"
    assert "rounding" in tie_lines(Attribution.model_validate(body))[0].plain
    for hit in body["proponents"]:
        hit["tied"] = False
    assert tie_lines(Attribution.model_validate(body)) == []


def _printed(shown: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()
