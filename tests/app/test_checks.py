"""/v1/attributions/{id}/verify and /v1/checks, with the fake engine behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.attributions.schemas import HitOut, TrustOut
from app.main import create_app
from app.settings import Settings
from engine.errors import StorageFull
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    RECIPE,
    add_check,
    add_index,
    add_model,
    answer_of,
    assert_problem,
    checked,
    ready_index,
    wait_for_check,
    wait_for_index,
    wait_for_job,
)


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    """Ready, of a model whose training is known."""
    return ready_index(client, model_dir, recipe=RECIPE)


@pytest.fixture
def answer(client: TestClient, index: dict[str, Any]) -> dict[str, Any]:
    return answer_of(client, index, top_k=3)


def checks(engine: FakeEngine, call: str = "check") -> list[tuple[Any, ...]]:
    return [arguments for name, arguments in engine.calls if name == call]


def test_a_check_is_a_job_and_ends_with_what_was_measured(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.clear()
    body = {"kind": "leave_out", "rows": 2, "seeds": 4, "name": "first", "metadata": {"ticket": 7}}
    response = client.post(f"/v1/attributions/{answer['id']}/verify", json=body)
    queued = response.json()
    assert (response.status_code, queued["state"]) == (202, "queued")
    assert response.headers["location"] == f"/v1/jobs/{queued['job_id']}"
    about = {name: index[name] for name in ("model", "dataset")} | {"index": index["id"], "attribution": answer["id"]}
    assert (
        queued.items() >= (about | {"kind": "leave_out", "name": "first", "index_revision": index["revision"]}).items()
    )
    assert queued["id"].startswith("chk_") and "result" not in queued
    wait_for_check(client, queued["id"], "running")
    engine.gate.set()
    ready = wait_for_check(client, queued["id"])
    assert (ready["retrainings"], ready["seconds"], ready["error"], ready["metadata"]) == (
        12,
        12.5,
        None,
        {"ticket": 7},
    )
    assert (ready["measurement"], ready["config"]["seeds"], ready["config"]["draws"]) == ("log_prob", 4, 3)
    sets = ready["result"]["sets"]
    assert [(one["name"], one["rows"]) for one in sets] == [("top", 2), ("random", 2), ("none", 0)]
    assert sets[0]["change"] == -3.2 and sets[0]["low"] == pytest.approx(-3.6)
    assert ready["result"]["details"]["metasmoothness"] is None
    assert ready["finished_at"] > ready["created_at"]
    job = wait_for_job(client, queued["job_id"])
    assert (job["kind"], job["result"]) == ("check.run", {"check": ready["id"], "kind": "leave_out", "retrainings": 12})


def test_what_is_asked_reaches_the_engine(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any], engine: FakeEngine, tmp_path: Path
) -> None:
    found = checked(client, answer["id"], "tail_patch", rows=2, draws=5, learning_rate=0.02, seed=9)
    (model, _, index_dir, query, ranked, config, work), *_ = checks(engine)
    assert model.recipe.training.learning_rate == 0.01
    assert index_dir == tmp_path / "home" / "indexes" / index["id"]
    assert work == tmp_path / "home" / "checks" / found["id"]
    assert (query.prompt, query.completion) == (QUESTION["prompt"], QUESTION["completion"])
    assert [row.id for row in ranked] == [hit["example_id"] for hit in answer["proponents"]]
    assert [row.score for row in ranked] == [hit["score"] for hit in answer["proponents"]]
    assert (config.kind, config.rows, config.draws, config.learning_rate, config.seed) == ("tail_patch", 2, 5, 0.02, 9)


def test_scores_are_predictions_in_nats_where_the_method_says_so(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    """Of one checkpoint, in the whole inverse curvature, by the index's own method."""
    whole = {"exponent": 1.0, "ensemble_power": 0.0}
    asked = (({"options": whole}, None, True), ({"options": whole}, "bm25", False), ({}, None, False))
    for built, method, _ in asked:
        index = ready_index(client, model_dir, recipe=RECIPE, method="ekfac", **built)
        checked(client, answer_of(client, index, method=method)["id"])
    assert [{row.in_nats for row in call[4]} for call in checks(engine)] == [{expected} for *_, expected in asked]


def test_what_the_model_generated_is_checked_as_it_stands(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    asked = {"model": index["model"], "index": index["id"], "prompt": "Where was Mira born?", "generate": {}}
    answer = client.post("/v1/attributions", json=asked).json()
    checked(client, answer["id"])
    query = checks(engine)[0][3]
    assert (query.completion, query.generate) == (answer["query"]["completion"], None)


def test_rows_left_out_are_as_many_as_the_answer_lists(client: TestClient, answer: dict[str, Any]) -> None:
    path = f"/v1/attributions/{answer['id']}/verify"
    made = client.post(path, json={"kind": "tail_patch"}).json()
    assert made["config"]["rows"] == 3
    wait_for_check(client, made["id"])


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"kind": "leave_one_out"}, "invalid-request", "/kind"),
        ({"rows": 0}, "invalid-request", "/rows"),
        ({"rows": 4}, "invalid-option", "/rows"),
        ({"seeds": 0}, "invalid-request", "/seeds"),
        ({"seeds": 2}, "invalid-option", "/seeds"),
        ({"draws": 101}, "invalid-request", "/draws"),
        ({"learning_rate": 0.1}, "invalid-request", "/learning_rate"),
        ({"kind": "tail_patch", "learning_rate": 0}, "invalid-request", "/learning_rate"),
        ({"ids": ["born"]}, "invalid-request", "/ids"),
        ({"kind": "flip", "how": "influence"}, "invalid-request", "/how"),
        ({"kind": "unlearn", "ids": ["born", "bron"]}, "invalid-option", "/ids/1"),
        ({"kind": "unlearn", "ids": ["born", "sea", "sum", "row-3"]}, "invalid-option", "/ids"),
        ({"row": 1}, "invalid-request", "/row"),
    ],
)
def test_what_is_wrong_is_refused_at_once(
    client: TestClient, answer: dict[str, Any], change: dict[str, Any], code: str, pointer: str
) -> None:
    for path in ("verify", "verify/estimate"):
        sent = client.post(f"/v1/attributions/{answer['id']}/{path}", json={"kind": "leave_out", "rows": 1} | change)
        assert_problem(sent, 422, code, pointer)
    assert client.get("/v1/checks").json()["data"] == []


def test_without_the_training_recipe_the_remedy_is_named(client: TestClient, model_dir: Path) -> None:
    answer = answer_of(client, ready_index(client, model_dir))
    path = f"/v1/attributions/{answer['id']}/verify"
    for kind in ("leave_out", "replay", "flip", "tail_patch", "unlearn"):
        refused = client.post(path, json={"kind": kind, "rows": 1})
        problem = assert_problem(refused, 422, "missing-need", "path:attribution_id")
        assert "--recipe" in problem["remedy"]
    checked(client, answer["id"], "unlearn", how="influence")


def test_an_answer_that_is_not_there_yet_cannot_be_checked(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.clear()
    asked = QUESTION | {"model": index["model"], "index": index["id"]}
    pending = client.post("/v1/attributions", json=asked, headers={"Prefer": "respond-async"}).json()
    refused = client.post(f"/v1/attributions/{pending['id']}/verify", json={"kind": "leave_out"})
    assert_problem(refused, 409, "not-ready", "path:attribution_id")
    engine.gate.set()
    assert_problem(client.post("/v1/attributions/att_none/verify", json={"kind": "leave_out"}), 404, "not-found")


def test_an_answer_whose_index_is_gone_or_was_rebuilt_says_so(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any], engine: FakeEngine
) -> None:
    services = client.app.state.services  # type: ignore[attr-defined]
    path = f"/v1/attributions/{answer['id']}/verify"
    with services.database.write() as session:
        session.connection().exec_driver_sql("UPDATE indexes SET revision = 'another'")
    problem = assert_problem(client.post(path, json={"kind": "flip"}), 409, "fingerprint-mismatch")
    assert "Ask the question again" in problem["remedy"]
    client.delete(f"/v1/indexes/{index['id']}")
    problem = assert_problem(client.post(path, json={"kind": "flip"}), 409, "index-unavailable", "path:attribution_id")
    assert "Ask the question again" in problem["remedy"] and index["id"] in problem["detail"]


def test_the_cost_is_told_first_and_nothing_is_left_behind(
    client: TestClient, answer: dict[str, Any], tmp_path: Path
) -> None:
    path = f"/v1/attributions/{answer['id']}/verify/estimate"
    body = {"kind": "leave_out", "rows": 1, "seeds": 5}
    cost = client.post(path, json=body)
    assert (cost.status_code, cost.json()) == (200, {"retrainings": 5, "seconds": 10.0, "memory_bytes": 1 << 20})
    assert list((tmp_path / "home" / "checks").iterdir()) == []
    checked(client, answer["id"], seeds=3)
    assert client.post(path, json=body).json()["retrainings"] == 2  # the others were done for the check before


def test_a_cancelled_check_goes_on_where_it_was(
    client: TestClient, answer: dict[str, Any], engine: FakeEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    check = add_check(client, answer["id"])
    wait_for_check(client, check["id"], "running")
    kept = tmp_path / "home" / "checks" / check["id"] / "retrainings" / "runs" / "000.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("finished before")
    client.post(f"/v1/jobs/{check['job_id']}/cancel")
    failed = wait_for_check(client, check["id"], "failed")
    assert failed["error"]["type"] == "urn:whence:problem:cancelled" and failed["finished_at"]
    engine.gate.set()
    assert client.post(f"/v1/jobs/{check['job_id']}/resume").status_code == 202
    ready = wait_for_check(client, check["id"])
    assert (ready["error"], len(list(kept.parent.iterdir()))) == (None, 3)
    assert kept.read_text() == "finished before"


def test_a_server_that_stops_leaves_the_check_to_the_next_one(settings: Settings, model_dir: Path) -> None:
    engine = FakeEngine()
    with TestClient(create_app(settings, engine)) as client:
        answer = answer_of(client, ready_index(client, model_dir, recipe=RECIPE))
        engine.gate.clear()
        check = add_check(client, answer["id"])
        wait_for_check(client, check["id"], "running")
    with TestClient(create_app(settings, FakeEngine())) as client:
        ready = wait_for_check(client, check["id"])
        assert (ready["retrainings"], ready["result"]["sets"][0]["name"]) == (9, "top")
        assert client.get(f"/v1/jobs/{check['job_id']}").json()["attempt"] == 2


def test_a_failed_check_says_why_and_can_be_resumed(
    client: TestClient, answer: dict[str, Any], engine: FakeEngine
) -> None:
    engine.errors["check"] = StorageFull("No space left.")
    check = add_check(client, answer["id"])
    assert wait_for_check(client, check["id"], "failed")["error"]["status"] == 507
    del engine.errors["check"]
    client.post(f"/v1/jobs/{check['job_id']}/resume")
    assert wait_for_check(client, check["id"])["error"] is None


def test_measured_effects_stand_beside_the_scores(
    client: TestClient, answer: dict[str, Any], engine: FakeEngine
) -> None:
    path = f"/v1/attributions/{answer['id']}"
    assert {hit["effect"] for hit in client.get(path).json()["proponents"]} == {None}
    assert client.get(path).json()["trust"]["measured"] is None
    left_out = checked(client, answer["id"], rows=2)
    tail = checked(client, answer["id"], "tail_patch", rows=1)
    shown = client.get(path).json()
    for hit in shown["proponents"]:
        HitOut.model_validate(hit, extra="forbid")
    first, second, third = (hit["effect"] for hit in shown["proponents"])
    score = answer["proponents"][0]["score"]
    assert first == {
        "predicted": None, "measured": -score, "low": -score - 0.5, "high": -score + 0.5,
        "kind": "tail_patch", "check": tail["id"],
    }  # fmt: skip
    assert (second["kind"], second["check"], third) == ("leave_out", left_out["id"], None)
    (listed,) = client.get("/v1/attributions").json()["data"]
    assert listed == shown
    again = client.post("/v1/attributions", json=QUESTION | {"index": answer["index"], "top_k": 3}).json()
    assert again["proponents"] == shown["proponents"] or again["id"] != answer["id"]
    client.delete(f"/v1/checks/{tail['id']}")
    assert client.get(path).json()["proponents"][0]["effect"]["check"] == left_out["id"]


def test_a_leave_out_check_is_evidence_of_this_very_answer(client: TestClient, answer: dict[str, Any]) -> None:
    check = checked(client, answer["id"], rows=2)
    trust = client.get(f"/v1/attributions/{answer['id']}").json()["trust"]
    TrustOut.model_validate(trust, extra="forbid")
    assert trust["verdict"] == "unmeasured"  # one question, chosen by its asker, calibrates nothing
    assert (trust["measured"]["check"], trust["measured"]["change"], trust["measured"]["random_change"]) == (
        check["id"], -3.2, -0.1,
    )  # fmt: skip
    assert trust["measured"]["words"] == (
        "Measured on this very answer. The output's log-probability fell from -2.10 to -5.30 nats when the 2 top rows "
        "were left out (change -3.20, 95 %: -3.60 to -2.80); to -2.20 without as many random ones. These rows "
        "mattered more than chance explains (-3.10 nats, 95 %: -3.70 to -2.50)."
    )


def test_unlearning_makes_a_new_version_of_the_model(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any], tmp_path: Path
) -> None:
    check = checked(client, answer["id"], "unlearn", rows=2)
    assert check["result"]["held_out"] == {"before": 2.0, "after": 2.25}
    made = client.get(f"/v1/models/{check['new_model']}").json()
    assert (made["name"], made["version"], made["base"]) == (
        "bot",
        2,
        client.get(f"/v1/models/{index['model']}").json()["base"],
    )
    assert made["adapter"] == str(tmp_path.resolve() / "home" / "checks" / check["id"] / "adapter")
    removed = [hit["example_id"] for hit in answer["proponents"][:2]]
    noted = {"unlearned_by": check["id"], "unlearned_from": index["model"], "unlearned_rows": removed}
    assert made["metadata"] == noted and made["recipe"]["details"].items() >= noted.items()
    problem = assert_problem(client.delete(f"/v1/checks/{check['id']}"), 409, "in-use")
    assert problem["used_by"] == made["id"]
    built = wait_for_index(client, add_index(client, made["id"], index["dataset"])["id"])
    assert built["model"] == made["id"]
    client.delete(f"/v1/indexes/{built['id']}")
    client.delete(f"/v1/models/{made['id']}")
    assert client.delete(f"/v1/checks/{check['id']}").status_code == 204


def test_deleting_a_check_removes_its_files(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any], engine: FakeEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    check = add_check(client, answer["id"])
    wait_for_check(client, check["id"], "running")
    path = f"/v1/checks/{check['id']}"
    assert assert_problem(client.delete(path), 409, "in-use")["used_by"] == check["job_id"]
    assert assert_problem(client.delete(f"/v1/indexes/{index['id']}"), 409, "in-use")["used_by"] == check["id"]
    engine.gate.set()
    ready = wait_for_check(client, check["id"])
    kept = json.loads((tmp_path / "home" / "checks" / check["id"] / "result.json").read_text())
    assert kept == ready["result"]
    assert client.delete(path).status_code == 204
    assert list((tmp_path / "home" / "checks").iterdir()) == []
    assert_problem(client.get(path), 404, "not-found")


def test_what_was_measured_outlives_the_answer_and_its_index(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any]
) -> None:
    check = checked(client, answer["id"])
    client.delete(f"/v1/attributions/{answer['id']}")
    client.delete(f"/v1/indexes/{index['id']}")
    assert client.get(f"/v1/checks/{check['id']}").json() == check
    assert_problem(client.get(f"/v1/attributions/{answer['id']}/checks"), 404, "not-found")


def test_checks_are_listed_newest_first_without_their_results(
    client: TestClient, answer: dict[str, Any], index: dict[str, Any], model_dir: Path
) -> None:
    other = answer_of(client, index, top_k=2)
    asked = ((answer, "leave_out"), (other, "flip"), (answer, "tail_patch"))
    first, second, third = (checked(client, of["id"], kind)["id"] for of, kind in asked)

    def listed(path: str = "/v1/checks", **query: Any) -> list[str]:
        return [row["id"] for row in client.get(path, params=query).json()["data"]]

    assert listed() == [third, second, first]
    assert listed(f"/v1/attributions/{answer['id']}/checks") == [third, first] == listed(attribution=answer["id"])
    assert listed(kind="flip") == [second] == listed(limit=1, attribution=other["id"])
    assert listed(index=index["id"], model=index["model"], state="ready") == [third, second, first]
    assert listed(model="mdl_none") == []
    page = client.get("/v1/checks", params={"limit": 2}).json()
    assert "result" not in page["data"][0]
    assert listed(cursor=page["next_cursor"]) == [first]


def test_the_same_key_makes_one_check(client: TestClient, answer: dict[str, Any]) -> None:
    path, body = f"/v1/attributions/{answer['id']}/verify", {"kind": "leave_out", "rows": 1}
    sent = [client.post(path, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert sent[0].json() == sent[1].json()
    assert sent[1].headers["idempotent-replay"] == "true"
    assert len(client.get("/v1/checks").json()["data"]) == 1
    wait_for_check(client, sent[0].json()["id"])


def test_a_check_is_renamed_and_noted_on(client: TestClient, answer: dict[str, Any]) -> None:
    check = checked(client, answer["id"])
    path = f"/v1/checks/{check['id']}"
    etag = client.get(path).headers["etag"]
    changed = client.patch(path, json={"name": "kept", "metadata": {"a": 1}}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()) == (200, check | {"name": "kept", "metadata": {"a": 1}})
    assert client.patch(path, json={"name": "lost"}, headers={"If-Match": etag}).status_code == 412


def test_versions_of_a_model_that_is_unlearned_twice_are_counted(
    client: TestClient, answer: dict[str, Any], model_dir: Path
) -> None:
    add_model(client, model_dir)
    made = [checked(client, answer["id"], "unlearn")["new_model"] for _ in range(2)]
    assert [client.get(f"/v1/models/{model}").json()["version"] for model in made] == [3, 4]
