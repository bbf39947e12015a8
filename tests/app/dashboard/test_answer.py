"""One answer: its tokens, its groups, what to take away, deleting it."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import whence_client
from app.dashboard.asking import routes
from app.dashboard.asking.groups import MOST, groups_view
from app.dashboard.asking.snippets import snippets
from tests.app.conftest import make_settings, wait_for
from tests.app.dashboard.asked import HTMX, Asked, ready_to_ask
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE, evaluated, jsonl, ready_index, wait_for_job


@pytest.fixture
def ready(client: TestClient, model_dir: Path) -> Asked:
    return ready_to_ask(client, model_dir)


def shown(client: TestClient, ready: Asked, **changes: str) -> str:
    return client.get(f"/ui/attributions/{ready.answer(client, **changes)}").text


def test_tokens_are_scored_where_it_was_asked_for(client: TestClient, ready: Asked) -> None:
    without = shown(client, ready)
    assert 'class="token ' not in without and "Score the tokens" in without
    page = shown(client, ready, tokens="on")
    assert re.search(r'class="token pro-8 explained" data-token="1" data-from="1" data-to="3"', page)
    assert 'aria-label="In: ' in page
    assert re.search(r'data-parts="0 [0-9.]+ 0 [0-9.]+" data-words="“In” 50%, “Halvern\.” 50%" data-id="fact-1"', page)
    assert '<mark class="pro-8">Halvern.</mark>' in page
    assert "Score the tokens" not in page


def test_what_is_marked_is_text_too(client: TestClient, ready: Asked) -> None:
    hostile = "<img src=x onerror=alert(2)>"
    page = shown(client, ready, tokens="on", prompt="x", completion=hostile, top_k="1")
    assert '<mark class="pro-8">onerror=alert(2)&gt;</mark>' in page and 'aria-label="&lt;img: ' in page
    assert "<img" not in page


def test_the_button_scores_the_tokens_of_the_same_question(client: TestClient, ready: Asked) -> None:
    page = shown(client, ready, completion="", tags="task=facts")
    form = re.search(r'<form class="again".*?Score the tokens', page, re.DOTALL)
    assert form is not None
    fields = {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form[0])}
    assert fields["tags"] == "task=facts" and "completion" not in fields  # generated again, as it was
    scored = client.post("/ui/ask", data=fields, headers=HTMX).text
    assert 'class="token' in scored and "generated" in scored


def test_a_method_without_scores_by_token_says_so(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    from tests.app import fake_ranking

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_ranking, "asked_parts", lambda *_: {})
        page = shown(client, ready, tokens="on", method="bm25")
    assert "bm25 compares whole texts: it gives no scores by token." in page
    assert "Score the tokens" not in page


def test_groups_are_of_all_rows_where_it_was_asked_for(client: TestClient, ready: Asked) -> None:
    page = shown(client, ready)
    assert "of the rows shown only" in page
    assert re.search(r'<form class="again".*?name="group_by" value="task"', page, re.DOTALL)
    page = shown(client, ready, group_by="task")
    assert "scores added up over all rows searched" in page
    table = page.split('data-chart="bars"')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["facts", "&lt;b&gt;odd&lt;/b&gt;", "(no such tag)"]
    assert "data-skip" in table


def hit(score: float | None, **tags: str) -> dict[str, Any]:
    return {"score": score, "tags": tags, "label": tags.pop("label", None)}


def test_the_rows_shown_are_grouped_by_what_people_name_first() -> None:
    hits = [hit(2.0, source="a", id="1"), hit(1.0, source="b", id="2"), hit(None, source="a", id="3")]
    view = groups_view({"proponents": hits, "opponents": [hit(-4.0, source="b", id="4")]}, "")
    assert view is not None and view.by == "source" and not view.whole
    assert [(bar.label, bar.score, bar.rows) for bar in view.bars] == [("a", 2.0, 2), ("b", -3.0, 2)]
    assert groups_view({"proponents": [hit(1.0)], "opponents": []}, "") is None


def test_many_groups_are_cut_to_those_that_weigh_most() -> None:
    groups = [{"key": f"g{number}", "score": float(-number), "count": 1} for number in range(30)]
    view = groups_view({"proponents": [hit(1.0, source="a")], "opponents": [], "groups": groups}, "source")
    assert view is not None and view.whole
    assert [bar.label for bar in view.bars] == [f"g{number}" for number in range(30 - MOST, 30)]
    assert view.more == 30 - MOST


def test_predicted_effects_stand_beside_what_was_not_measured(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    index = ready_index(client, model_dir, recipe=RECIPE)
    form = {"index": index["id"], "prompt": "Where was Mira born?", "completion": " In Port Halvern.", "top_k": "2"}
    before = client.post("/ui/ask", data=form, headers=HTMX).text
    assert "no prediction" in before and "in nats needs an" in before
    evaluated(client, index)
    after = client.post("/ui/ask", data=form, headers=HTMX).text
    table = after.split("Predicted and measured, as a table")[1].split("</table>")[0]
    assert "-2.5 nats (90%: -2.6 to -2.4)" in table
    assert table.count("not checked yet") == table.count('<th scope="row">') == 2


def test_rows_are_saved_as_csv_that_no_spreadsheet_runs(client: TestClient, ready: Asked) -> None:
    attribution = ready.answer(client)
    saved = client.get(f"/ui/attributions/{attribution}/rows.csv")
    assert saved.headers["content-disposition"] == f'attachment; filename="{attribution}.csv"'
    rows = list(csv.DictReader(io.StringIO(saved.text)))
    assert [row["example_id"] for row in rows if row["side"] == "proponent"][1] == "'=cmd|' /C calc'!A0"
    assert [row["text"] for row in rows][1] == "'@SUM(1) is nothing of the kind."
    body = client.get(f"/v1/attributions/{attribution}").json()
    wanted = [hit["score"] for side in ("proponents", "opponents") for hit in body[side]]
    assert [float(row["score"]) for row in rows] == wanted
    assert any(score < 0 for score in wanted)  # a negative number is a number


def test_rows_of_no_answer_cannot_be_saved(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "WAIT_SECONDS", 0.0)
    engine.gate.clear()
    attribution = ready.answer(client)
    refused = client.get(f"/ui/attributions/{attribution}/rows.csv")
    assert refused.status_code == 409 and "is running: it has no rows" in html.unescape(refused.text)
    assert client.post(f"/ui/attributions/{attribution}/delete").status_code == 409
    engine.gate.set()
    wait_for(lambda: "fact-1" in client.get(f"/ui/attributions/{attribution}").text, "the answer")
    assert client.get("/ui/attributions/att_none/rows.csv").status_code == 404


def test_a_cancelled_question_can_be_asked_again(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "WAIT_SECONDS", 0.0)
    engine.gate.clear()
    attribution = ready.answer(client)
    running = client.get(f"/ui/attributions/{attribution}").text
    assert f'hx-get="/ui/attributions/{attribution}"' in running and "Ask again" not in running
    job = client.get(f"/v1/attributions/{attribution}").json()["job_id"]
    assert f'href="/ui/jobs/{job}"' in running
    client.post(f"/v1/jobs/{job}/cancel")
    wait_for_job(client, job, "cancelled")
    engine.gate.set()
    page = client.get(f"/ui/attributions/{attribution}").text
    assert "cancelled" in page.lower() and "What to do:" in page and ">Ask again</button>" in page


def test_an_answer_is_deleted_after_a_second_look(client: TestClient, ready: Asked) -> None:
    attribution = ready.answer(client)
    page = client.get(f"/ui/attributions/{attribution}").text
    assert re.search(
        rf'<details><summary>Delete this answer</summary>\s*<form method="post" action="[^"]*{attribution}', page
    )
    gone = client.post(f"/ui/attributions/{attribution}/delete", follow_redirects=False)
    assert (gone.status_code, gone.headers["location"]) == (303, "/ui/attributions")
    assert client.get(f"/v1/attributions/{attribution}").status_code == 404
    assert client.post(f"/ui/attributions/{attribution}/delete").status_code == 404


def test_conversations_and_sets_are_shown_but_not_asked_again_by_a_form(client: TestClient, ready: Asked) -> None:
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In <b>Halvern</b>."}]
    queries = [{"prompt": "Where?", "completion": " There."}, {"prompt": "Who?", "completion": " She."}]
    for asked, told in (({"messages": turns}, "&lt;b&gt;Halvern"), ({"queries": queries}, "a set of 2 questions")):
        made = client.post("/v1/attributions", json={"index": ready.index} | asked).json()
        page = client.get(f"/ui/attributions/{made['id']}")
        assert page.status_code == 200 and told in page.text
        assert 'class="again"' not in page.text


def test_only_what_was_said_is_in_the_snippets() -> None:
    request = {"index": "idx_a", "prompt": 'It\'s "so"\n$HOME', "top_k": 10, "opponents": True, "tokens": True}
    made = snippets(request | {"method": None}, "http://here", with_key=True)
    assert "tokens=True" in made.python and "top_k" not in made.python and "method" not in made.python
    assert "$WHENCE_API_KEY" in made.curl
    assert "API_KEY" not in snippets(request, "http://here", with_key=False).curl


def test_the_snippets_give_the_same_answer(tmp_path: Path, model_dir: Path) -> None:
    """Of a question full of quotes, against a server: as they stand on the page."""
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(jsonl())
    with serving(make_settings(tmp_path), FakeEngine()) as url, whence_client.Whence(url) as client:
        model, dataset = client.models.create("bot", base=model_dir), client.datasets.upload(rows)
        index = client.indexes.build(model=model.id, dataset=dataset.id)
        client.jobs.wait(index.job_id or "")
        odd = "It's \"born\" in $HOME `pwd` é\\n\n'''!"
        made = client.ask(
            index=index.id, prompt=odd, completion=" In Port Halvern.", top_k=2, filter={"tags": {"task": "facts"}}
        )
        page = html.unescape(httpx.get(f"{url}/ui/attributions/{made.id}").text)
        python = re.search(r'id="as-python"[^>]*><code>(.*?)</code>', page, re.DOTALL)
        curl = re.search(r'id="as-curl"[^>]*><code>(.*?)</code>', page, re.DOTALL)
        assert python is not None and curl is not None
        ran = subprocess.run([sys.executable, "-c", python[1]], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert [line.split()[2] for line in ran.stdout.splitlines()] == [hit.example_id for hit in made.proponents]
        if shutil.which("curl"):
            sent = subprocess.run(["sh", "-c", curl[1]], capture_output=True, text=True, timeout=60)
            assert json.loads(sent.stdout)["id"] == made.id
