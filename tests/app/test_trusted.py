"""Trust in every answer: today's scorecard, joined to fresh and stored answers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.attributions.schemas import AttributionOut
from app.attributions.trusted import attribution_of, trusted
from app.dependencies import Services
from app.evaluations.evidence import Judge
from app.tables import EvaluationRow
from engine.evaluate.scorecard import EvaluationConfig
from tests.app.fake_scorecards import scorecard_of
from tests.app.fakes import FakeEngine
from tests.app.questions import post
from tests.app.resources import RECIPE, evaluated, ready_index

FIGURES = (0.7, 0.6, pytest.approx(0.8), 0.9)


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, recipe=RECIPE)


def test_without_a_scorecard_the_command_that_makes_one_is_named(client: TestClient, index: dict[str, Any]) -> None:
    body = post(client, index).json()
    trust = body["trust"]
    assert (trust["verdict"], trust["remedy"]) == ("unmeasured", f"whence evaluate {index['id']}")
    assert (trust["scorecard"], trust["reliability"], trust["scope"]["extrapolated"]) == (None, None, False)
    assert {question["verdict"] for question in trust["questions"].values()} == {"unmeasured"}
    assert {hit["predicted_effect"] for hit in body["proponents"]} == {None}


def test_a_scorecard_speaks_in_a_fresh_answer(client: TestClient, index: dict[str, Any]) -> None:
    evaluation = evaluated(client, index, half_subsets=3)
    body = post(client, index).json()
    AttributionOut.model_validate(body, extra="forbid")
    trust = body["trust"]
    assert (trust["verdict"], trust["reason"]) == ("trusted", "Retraining said so of ekfac.")
    assert trust["scorecard"] == evaluation["id"]
    composition = trust["questions"]["composition"]
    assert (composition["lds"], composition["low"], composition["high"], composition["ceiling"]) == FIGURES
    assert (trust["scope"]["extrapolated"], trust["scope"]["queries"]) == (False, evaluation["source"])
    assert (trust["reliability"]["value"], trust["reliability"]["level"]) == (0.6, "high")
    best, worst = body["proponents"][0], body["opponents"][0]
    assert best["predicted_effect"] == {
        "value": pytest.approx(-2 * best["score"] / 4),
        "low": pytest.approx(-2 * best["score"] / 4 - 0.1),
        "high": pytest.approx(-2 * best["score"] / 4 + 0.1),
        "level": 0.9,
    }
    assert worst["predicted_effect"]["value"] > 0 > best["predicted_effect"]["value"]


def test_stored_answers_show_what_is_known_today(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    first = post(client, index).json()
    engine.verdict = "untrusted"
    older = evaluated(client, index)
    shown = client.get(f"/v1/attributions/{first['id']}").json()
    assert (shown["trust"]["verdict"], shown["trust"]["scorecard"]) == ("untrusted", older["id"])
    assert shown["trust"]["remedy"] == "Do not act on this ranking."
    engine.verdict = "weak"
    newer = evaluated(client, index)
    again = post(client, index)
    assert again.headers["x-whence-cache"] == "hit"
    assert (again.json()["id"], again.json()["trust"]["scorecard"]) == (first["id"], newer["id"])
    (listed,) = client.get("/v1/attributions").json()["data"]
    assert listed == again.json() == client.get(f"/v1/attributions/{first['id']}").json()
    client.delete(f"/v1/evaluations/{newer['id']}")
    assert client.get(f"/v1/attributions/{first['id']}").json()["trust"]["scorecard"] == older["id"]
    client.delete(f"/v1/evaluations/{older['id']}")
    assert client.get(f"/v1/attributions/{first['id']}").json() == first


def test_an_unfinished_evaluation_says_nothing_yet(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    first = post(client, index).json()
    engine.gate.clear()
    client.post("/v1/evaluations", json={"index": index["id"], "leave_out_rows": 1})
    assert client.get(f"/v1/attributions/{first['id']}").json()["trust"]["verdict"] == "unmeasured"
    engine.gate.set()


def test_the_scorecard_of_the_same_revision_comes_before_a_newer_one(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, services: Services
) -> None:
    fitting = evaluated(client, index)
    engine.verdict = "weak"
    newer = evaluated(client, index)
    _of_another_revision(services, newer["id"])
    trust = post(client, index).json()["trust"]
    assert (trust["scorecard"], trust["scope"]["extrapolated"]) == (fitting["id"], False)
    client.delete(f"/v1/evaluations/{fitting['id']}")
    body = post(client, index).json()
    assert (body["trust"]["scorecard"], body["trust"]["scope"]["extrapolated"]) == (newer["id"], True)
    assert body["trust"]["verdict"] == "weak" and "extrapolated" in body["trust"]["reason"]
    assert (body["trust"]["reliability"], body["proponents"][0]["predicted_effect"]) == (None, None)


def test_another_method_and_another_measurement_are_judged_as_such(client: TestClient, index: dict[str, Any]) -> None:
    evaluated(client, index)
    control = post(client, index, method="bm25").json()
    assert (control["trust"]["verdict"], control["trust"]["reliability"]) == ("weak", None)
    odds = post(client, index, measurement="log_odds").json()
    assert odds["trust"]["scope"]["extrapolated"] is True
    assert odds["proponents"][0]["predicted_effect"] is None


def test_what_is_not_finite_and_what_older_versions_stored_can_be_shown(
    client: TestClient, index: dict[str, Any]
) -> None:
    body = post(client, index).json()
    body["proponents"][0] |= {"score": None, "percentile": None}
    for name in ("score_spread", "query_norm"):
        del body["diagnostics"][name]
    body["diagnostics"]["of_a_newer_version"] = 1
    scorecard = scorecard_of(index["revision"], [], EvaluationConfig(), 4, "trusted")
    shown = trusted(body, Judge("evl_1", scorecard))
    assert shown["trust"]["scorecard"] == "evl_1"
    assert shown["proponents"][0]["predicted_effect"] is None
    assert shown["proponents"][1]["predicted_effect"]["level"] == 0.9
    assert attribution_of(body).diagnostics.query_norm is None


def _of_another_revision(services: Services, evaluation_id: str) -> None:
    with services.database.write() as session:
        row = session.get_one(EvaluationRow, evaluation_id)
        row.index_revision = "0" * 32
        row.scorecard = {**(row.scorecard or {}), "index_revision": "0" * 32}
