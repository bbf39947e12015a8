"""Text of models, rows, questions and errors on the pages: it stays text. Every page is found by following links from
/ui, so that one that is added is walked too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dashboard import pages as dashboard
from engine.errors import NonFiniteGradient
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    RECIPE,
    add_index,
    assert_problem,
    checked,
    evaluated,
    jsonl,
    post_dataset,
    wait_for_index,
    wait_for_job,
)
from tests.security.pages import Page, Walk, hostile

ROWS: list[dict[str, Any]] = [
    {
        "id": hostile("row"),
        "prompt": hostile("row prompt"),
        "completion": hostile("row completion"),
        "tags": {hostile("tag name"): hostile("tag")},
        "label": hostile("label"),
    },
    {"messages": [{"role": "user", "content": hostile("turn")}, {"role": "assistant", "content": hostile("answer")}]},
    {"text": hostile("row text"), "odd " + hostile("column"): 1},
    {
        "id": "=id()",
        "prompt": "@prompt()",
        "completion": "+completion()",
        "tags": {"=tag": "-tag()"},
        "label": "=label()",
    },
    *({"id": str(number), "text": f"row {number}"} for number in range(5)),
]
START = ["/ui", "/ui/", "/ui/attributions", "/ui/models", "/ui/datasets", "/ui/indexes", "/ui/evaluations", "/ui/jobs"]
START += ["/ui/keys", "/ui/status", "/ui/login", "/ui/compare", "/ui/batches", "/ui/audit-log", "/ui/static/whence.css"]


def test_the_walker_sees_what_is_not_escaped() -> None:
    """The text is hostile, and a page that shows it as it is would be found out."""
    for before in ("<p>", '<p title="', "<p title='", "<textarea>", "<title>", '<script type="application/json">'):
        assert Page(f"<!doctype html><body>{before}{hostile('x')}").faults, before
    assert Page('<a href="javascript:xss(x)">').faults and Page("<p onclick=a()>").faults
    assert not Page(
        '<p title="&quot;&gt;&lt;img src=x onerror=xss(x)&gt;">&lt;script&gt;xss(x)&lt;/script&gt;</p>'
    ).faults


def test_no_page_brings_a_text_to_life(client: TestClient, engine: FakeEngine, tmp_path: Path) -> None:
    made = fill(client, engine, tmp_path)
    walk = Walk(client)
    walk.everything([*START, *(f"/ui/{address}" for address in made)])
    assert {"row", "row prompt", "row completion", "tag", "label", "model", "dataset", "prompt", "output"} <= walk.shown
    for path in ("/ui/attributions/", "/ui/models/", "/ui/datasets/", "/ui/indexes/", "/ui/jobs/", "/ui/"):
        walk.everything([path + "%22%3E%3Cimg%20src=x%20onerror=xss(id)%3E"])
    walk.with_hostile_parameters(hostile("parameter"))
    walk.send_every_form(hostile("field"))
    assert walk.faults == {}
    assert "parameter" in walk.shown or "field" in walk.shown
    assert set(walk.others.values()) <= {
        "text/css",
        "text/javascript",
        "application/json",
        "text/csv",
        "",
        "text/plain",
    }


def fill(client: TestClient, engine: FakeEngine, tmp_path: Path) -> list[str]:
    """One of everything, with a hostile text in every field that takes one; returns addresses below /ui."""
    directory = tmp_path / hostile("path", slash=False)
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    note = {"metadata": {hostile("metadata name"): hostile("metadata")}}
    model = client.post("/v1/models", json={"name": hostile("model"), "base": str(directory), "recipe": RECIPE} | note)
    dataset = post_dataset(
        client, jsonl(ROWS), hostile("file name"), fields={"name": hostile("dataset"), "format": "jsonl"}
    )
    ids = {"model": model.json()["id"], "dataset": dataset.json()["id"]}
    index = wait_for_index(client, add_index(client, *ids.values(), name=hostile("index"), **note)["id"])
    engine.errors["build_index"] = NonFiniteGradient(hostile("error"), remedy=hostile("remedy"))
    failed = add_index(client, *ids.values(), name=hostile("failed index"))
    wait_for_job(client, failed["job_id"], "failed")
    engine.errors.clear()
    where = {"model": ids["model"], "index": index["id"]}
    question = {"prompt": hostile("prompt"), "completion": hostile("output")} | where
    asked = client.post("/v1/attributions", json=question | note).json()
    talk = [{"role": "user", "content": hostile("question")}, {"role": "assistant", "content": hostile("reply")}]
    client.post("/v1/attributions", json={"messages": talk} | where)
    lines = jsonl([question | {"top_k": top_k} for top_k in (1, 0)] + [{hostile("key"): 1}])
    batch = client.post(
        "/v1/attributions/batches", data={"name": hostile("batch")}, files={"file": (hostile("batch file"), lines)}
    )
    evaluation = evaluated(client, index)
    check = checked(client, asked["id"], "flip", name=hostile("check"))
    client.put("/v1/aliases/prod", json={"index": index["id"]})
    jobs = client.get("/v1/jobs").json()["data"]
    found = [
        f"models/{ids['model']}",
        f"datasets/{ids['dataset']}",
        f"indexes/{index['id']}",
        f"indexes/{failed['id']}",
    ]
    found += [f"checks/{check['id']}"]
    found += [f"attributions/{asked['id']}", f"evaluations/{evaluation['id']}", *(f"jobs/{job['id']}" for job in jobs)]
    return found + ([f"batches/{batch.json()['id']}"] if batch.status_code == 202 else [])


@pytest.mark.parametrize("field", ["next", "refused"])
def test_the_login_page_shows_nothing_of_its_address(client: TestClient, field: str) -> None:
    for text in (hostile("x"), "/ui/" + hostile("x"), "javascript:xss(x)", "invalid-key" + hostile("x")):
        page = client.get("/ui/login", params={field: text})
        assert page.status_code == 200 and Page(page.text).faults == []
        wrong = client.post("/ui/login", data={"key": hostile("key"), field: text})
        assert wrong.status_code == 401 and Page(wrong.text).faults == []
        assert "xss(key)" not in wrong.text


def test_every_answer_below_ui_has_the_policy(client: TestClient) -> None:
    """Also what no page made: files, redirects, refusals of the middleware."""
    asked = [
        client.get("/ui/static/whence.css"),
        client.get("/ui/static/icon.svg"),
        client.get("/ui/static/nothing"),
        client.get("/ui/", follow_redirects=False),
        client.get("/ui/a%00b"),
        client.post("/ui/ask", headers={"Sec-Fetch-Site": "cross-site"}),
        client.post("/ui/logout", follow_redirects=False),
        client.put("/ui"),
        client.post("/ui/ask", content=b"x" * (9 << 20)),
    ]
    for answer in asked:
        assert answer.headers["content-security-policy"] == dashboard.POLICY, answer.request.url
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_answers_of_the_api_are_never_taken_for_pages(client: TestClient) -> None:
    name = "<script>xss(x)</script>"
    for answer in (client.get(f"/v1/models/{name}"), client.get("/v1/models", params={"cursor": name})):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert_problem(answer, answer.status_code, answer.json()["type"].rpartition(":")[2])
