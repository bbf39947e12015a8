"""/ui/indexes and /ui/attributions, and what holds on every list, with the fake engine behind them."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.dashboard.browsing import rows as shown_rows
from app.dependencies import Services
from engine.errors import LowCoverage, NonFiniteGradient
from tests.app.conftest import wait_for
from tests.app.dashboard.browsed import EVIL, HOSTILE, HTMX, sent, text_of, upload
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    RECIPE,
    add_dataset,
    add_index,
    add_model,
    evaluated,
    jsonl,
    ready_index,
    wait_for_index,
)

# --- indexes ---


def build_form(index: dict[str, Any], **changes: str) -> dict[str, str]:
    return {"model": index["model"], "dataset": index["dataset"], "method": "ekfac", "checkpoints": "all"} | changes


def test_an_index_is_estimated_and_built_from_the_form(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    form = build_form(index, name="second", **{"options.damping": "0.5", "options.dtype": "int8", "options.seed": ""})
    shown = client.post("/ui/indexes/estimate", data=form, headers=HTMX)
    assert shown.status_code == 200 and "<html" not in shown.text
    assert "about 2.0 s" in shown.text and 'value="0.5"' in shown.text
    address = sent(client, "/ui/indexes", **form).headers["location"]
    built = wait_for_index(client, address.rpartition("/")[2])
    assert (built["name"], built["method"]) == ("second", "ekfac")
    page = text_of(client.get(address).text)
    assert "second version 1 ready" in page and "400 B" in page


def test_options_reach_the_build_as_what_they_are(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    index = ready_index(client, model_dir)
    options = {"damping": "0.5", "normalize": "cosine", "projection_dim": "auto", "modules": '["q_proj"]', "seed": "7"}
    form = build_form(index, **{f"options.{name}": value for name, value in options.items()})
    client.post("/ui/indexes/estimate", data=form)
    (_, _, config) = next(arguments for name, arguments in engine.calls if name == "estimate_index")
    assert config.method_options == {"damping": 0.5, "normalize": "cosine"}
    assert (config.options.modules, config.options.seed, config.options.projection_dim) == (("q_proj",), 7, "auto")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"options.damping": "much"}, "options.damping"),
        ({"options.damping": "-1"}, "options.damping"),
        ({"options.token_budget": "0"}, "options.token_budget"),
        ({"options.modules": '["("]'}, "options.modules"),
        ({"name": "x" * 300}, "name"),
    ],
)
def test_a_refused_build_is_told_at_its_field(
    client: TestClient, model_dir: Path, changes: dict[str, str], field: str
) -> None:
    index = ready_index(client, model_dir)
    answer = sent(client, "/ui/indexes", **build_form(index, **changes))
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert len(client.get("/v1/indexes").json()["data"]) == 1


def test_every_method_has_its_options(client: TestClient, model_dir: Path) -> None:
    ready_index(client, model_dir)
    for spec in client.get("/v1/methods").json()["data"]:
        page = client.get("/ui/indexes/new", params={"method": spec["name"]}, headers=HTMX).text
        fields = set(re.findall(r'name="options\.(\w+)"', page))
        assert set(spec["options"].get("properties", {})) <= fields, spec["name"]


def test_a_build_is_followed_cancelled_and_resumed(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    engine.gate.clear()
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    address = f"/ui/indexes/{index['id']}"
    wait_for(lambda: client.get(f"/v1/indexes/{index['id']}").json()["state"] == "building", "the build")
    page = client.get(address).text
    assert f'data-live-job="{index["job_id"]}"' in page and "/ui/static/live.js" in page
    assert f'data-live-job="{index["job_id"]}"' in client.get("/ui/indexes").text
    assert sent(client, f"{address}/cancel").headers["location"] == address
    wait_for_index(client, index["id"], "failed")
    assert "The build failed" in client.get(address).text
    engine.gate.set()
    assert sent(client, f"{address}/resume").status_code == 303
    wait_for_index(client, index["id"])
    assert sent(client, f"{address}/resume").status_code == 409


def test_a_failed_build_tells_why_and_what_to_do(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    engine.errors["build_index"] = NonFiniteGradient("Layer 3 gave <NaN>.")
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    wait_for_index(client, index["id"], "failed")
    page = text_of(client.get(f"/ui/indexes/{index['id']}").text)
    assert "Layer 3 gave <NaN>." in page and NonFiniteGradient.remedy in page


def test_an_estimate_that_is_refused_names_the_cause(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    index = ready_index(client, model_dir)
    engine.errors["estimate_index"] = LowCoverage("Only 3% can be tracked.")
    page = client.post("/ui/indexes/estimate", data=build_form(index))
    assert page.status_code == 422 and "Only 3% can be tracked." in page.text


def test_an_index_leads_to_its_scorecard_and_takes_a_name_once(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir, recipe=RECIPE)
    evaluation = evaluated(client, index)
    address = f"/ui/indexes/{index['id']}"
    assert f'href="/ui/evaluations/{evaluation["id"]}"' in client.get(address).text
    assert sent(client, address, name="prod", metadata="").status_code == 303
    assert client.get(f"/v1/indexes/{index['id']}").json()["name"] == "prod"
    assert 'name="name"' not in client.get(address).text


# --- saved answers ---


def test_answers_are_listed_with_their_trust_and_filtered(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    asked = client.post("/v1/attributions", json={"index": index["id"]} | QUESTION).json()
    page = client.get("/ui/attributions").text
    assert f'<a href="/ui/attributions/{asked["id"]}">Where was Mira born?</a>' in page
    assert 'class="state trust-unmeasured"' in page and "bot v1" in page
    for filters, found in (
        ({"model": index["model"]}, True),
        ({"model": "mdl_other"}, False),
        ({"index": index["id"], "state": "succeeded"}, True),
        ({"state": "failed"}, False),
        ({"since": "2020-01-01"}, True),
        ({"since": "2999-01-01"}, False),
    ):
        assert (asked["id"] in client.get("/ui/attributions", params=filters).text) is found, filters
    refused = client.get("/ui/attributions", params={"since": "yesterday"})
    assert refused.status_code == 422 and 'id="since-error"' in refused.text


@pytest.mark.parametrize("page", ["models", "datasets", "indexes", "attributions"])
def test_lists_ask_as_often_however_much_they_show(
    client: TestClient, model_dir: Path, services: Services, page: str
) -> None:
    index = ready_index(client, model_dir, name="n")
    client.post("/v1/attributions", json={"index": index["id"]} | QUESTION)
    few = _queries(client, services, f"/ui/{page}")
    for number in range(4):
        model, dataset = add_model(client, model_dir, f"bot-{number}"), add_dataset(client)
        wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])
        client.post("/v1/attributions", json={"index": index["id"], "prompt": f"{number}?", "completion": " x"})
    assert _queries(client, services, f"/ui/{page}") == few


def _queries(client: TestClient, services: Services, address: str) -> int:
    told: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        told.append(statement)

    event.listen(services.database.engine, "before_cursor_execute", note)
    try:
        assert client.get(address).status_code == 200
    finally:
        event.remove(services.database.engine, "before_cursor_execute", note)
    return len([statement for statement in told if statement.startswith("SELECT")])


def test_lists_are_paged(client: TestClient, many: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(26):
        add_dataset(client, [{"text": "a"}])
    first = client.get("/ui/datasets").text
    older = re.search(r'href="([^"]+)" rel="next"', first)
    assert older is not None
    second = client.get(html.unescape(older[1])).text
    assert many["id"] in second and many["id"] not in first
    assert 'href="/ui/datasets">Newest' in second


# --- everywhere ---


def test_rows_that_hold_markup_are_shown_as_text(client: TestClient, model_dir: Path) -> None:
    dataset = add_dataset(client, HOSTILE)
    model = add_model(client, model_dir, EVIL)
    index = wait_for_index(client, add_index(client, model["id"], dataset["id"], name=EVIL)["id"])
    client.post("/v1/attributions", json={"index": index["id"], "prompt": EVIL, "completion": EVIL})
    base = f"/ui/datasets/{dataset['id']}"
    pages = [
        *("/ui/models", "/ui/datasets", "/ui/indexes", "/ui/indexes/new", "/ui/attributions", base),
        *(f"/ui/models/{model['id']}", f"{base}/rows/0", f"{base}/rows/1?standing=1", f"/ui/indexes/{index['id']}"),
        f"/ui/indexes/{index['id']}/self-influence",
        f"{base}?q={EVIL}&tag={EVIL}%3Dx&label={EVIL}&go=",
    ]
    for address in pages:
        page = client.get(address).text
        assert EVIL not in page, address
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page), address
        if address not in ("/ui/datasets",):
            assert html.escape(EVIL) in page or "&lt;script&gt;" in page, address
    refused = upload(client, jsonl([{"text": EVIL, "tags": {"<i>": []}}]), name=EVIL)
    assert refused.status_code == 422 and EVIL not in refused.text and "<i>" not in refused.text


def test_every_field_has_a_label(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    client.post("/v1/attributions", json={"index": index["id"]} | QUESTION)
    for address in (
        *("/ui/models/new", "/ui/datasets/new", "/ui/indexes/new", "/ui/indexes", "/ui/attributions"),
        *(
            f"/ui/datasets/{index['dataset']}",
            f"/ui/models/{index['model']}",
            f"/ui/indexes/{index['id']}/self-influence",
        ),
    ):
        page = client.get(address).text
        ids = re.findall(r"<(?:input|select|textarea)[^>]*\bid=\"([^\"]+)\"", page)
        assert ids and len(ids) == len(set(ids)), address
        assert [field for field in ids if f'<label for="{field}"' not in page] == [], address


def test_the_page_size_is_what_these_tests_take_it_for() -> None:
    assert shown_rows.PAGE == 50
