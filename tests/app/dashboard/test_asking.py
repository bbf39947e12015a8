"""The page at /ui, with the fake engine behind it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.dashboard.asking import routes
from engine.errors import QueueFull
from tests.app.conftest import wait_for
from tests.app.dashboard.asked import HTMX, Asked, ready_to_ask
from tests.app.fakes import FakeEngine
from tests.app.resources import RECIPE, evaluated, ready_index


@pytest.fixture
def ready(client: TestClient, model_dir: Path) -> Asked:
    """An index that can be asked."""
    return ready_to_ask(client, model_dir)


def test_an_empty_server_says_how_to_begin(client: TestClient) -> None:
    page = client.get("/ui")
    assert page.status_code == 200
    assert "whence index build" in page.text
    assert "<form" not in page.text


def test_the_form_offers_ready_indexes_by_name(client: TestClient, ready: Asked) -> None:
    page = client.get("/ui").text
    assert f'<option value="{ready.index}"' in page
    assert "harbour-bot v1 · train (3 rows) · ekfac" in page


def test_every_field_has_a_label(client: TestClient, ready: Asked) -> None:
    page = client.get("/ui").text
    fields = re.findall(r"<(?:input|select|textarea)[^>]*\bid=\"([^\"]+)\"", page)
    assert fields[:6] == ["index", "prompt", "completion", "span_start", "span_end", "top_k"]
    assert all(f'<label for="{field}">' in page for field in fields)
    boxes = re.findall(r'<label class="check"><input type="checkbox" name="(\w+)"', page)
    assert boxes == ["tokens", "no_opponents", "log_odds"]
    assert page.count("<input") + page.count("<select") + page.count("<textarea") == len(fields) + len(boxes)


def test_without_scripts_the_form_leads_to_the_permalink(client: TestClient, ready: Asked) -> None:
    sent = client.post("/ui/ask", data=ready.form(), follow_redirects=False)
    assert sent.status_code == 303
    assert sent.headers["location"].startswith("/ui/attributions/att_")
    page = client.get(sent.headers["location"]).text
    assert "<html" in page
    assert "fact-1" in page
    assert "Where is the harbour?</textarea>" in page


def test_htmx_gets_the_answer_alone_and_its_address(client: TestClient, ready: Asked) -> None:
    sent = client.post("/ui/ask", data=ready.form(), headers=HTMX)
    assert sent.status_code == 200
    assert "<html" not in sent.text
    assert sent.headers["HX-Push-Url"].startswith("/ui/attributions/att_")
    assert "Not measured yet" in sent.text
    assert "does not prove" in sent.text
    assert "tuned − base = +0.25" in sent.text
    assert "task: facts" in sent.text


def test_the_page_says_how_far_to_trust_an_answer(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    index = ready_index(client, model_dir, recipe=RECIPE)
    form = {"index": index["id"], "prompt": "Where was Mira born?", "completion": " In Port Halvern.", "top_k": "2"}
    before = client.post("/ui/ask", data=form, headers=HTMX).text
    assert f"whence evaluate {index['id']}" in before
    assert "The evidence" not in before and "left out:" not in before
    engine.verdict = "untrusted"
    evaluation = evaluated(client, index)
    shown = client.post("/ui/ask", data=form, headers=HTMX).text
    assert 'class="callout verdict-untrusted"' in shown
    for told in ("Retraining said so of ekfac.", "Do not act on this ranking.", "the ranking was more reliable"):
        assert told in shown
    assert "What did these rows do in this very run?" in shown
    assert f'href="/ui/evaluations/{evaluation["id"]}"' in shown
    assert "left out: -2.5 nats (90%: -2.6 to -2.4)" in shown
    assert "Extrapolated" not in shown


def test_hits_come_in_order_of_rank_with_bars_to_scale(client: TestClient, ready: Asked) -> None:
    body = client.post("/ui/ask", data=ready.form(), headers=HTMX).text
    proponents = body.split('aria-label="Opponents"')[0]
    assert re.findall(r"<code>(.*?)</code>", proponents) == ["fact-1", "=cmd|&#39; /C calc&#39;!A0", "odd"]
    assert 'class="fill" width="100.0"' in proponents


def test_training_text_is_escaped(client: TestClient, ready: Asked) -> None:
    body = client.post("/ui/ask", data=ready.form(prompt="<b>bold</b>"), headers=HTMX).text
    assert "<script>alert" not in body
    assert "<img src=x" not in body
    assert html.escape("<img src=x onerror=alert(2)>") in body
    assert "<b>bold</b>" not in body


@pytest.mark.parametrize("path", ["/ui", "/ui/attributions/att_none", "/ui/static/none.js"])
def test_nothing_inline_may_run(client: TestClient, ready: Asked, path: str) -> None:
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", answer.text)


def test_nothing_is_loaded_from_elsewhere(client: TestClient, ready: Asked) -> None:
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", client.get("/ui").text):
        assert address.startswith(("/", "#"))


def test_line_breaks_of_browsers_become_those_of_the_rows(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    client.post("/ui/ask", data=ready.form(prompt="one\r\ntwo"), headers=HTMX)
    (arguments,) = [call for name, call in engine.calls if name == "submit_attribution"]
    assert arguments[3].prompt == "one\ntwo"


def test_a_full_queue_is_told_with_its_remedy(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    engine.errors["submit_attribution"] = QueueFull("64 queries wait.")
    sent = client.post("/ui/ask", data=ready.form(), headers=HTMX)
    assert sent.status_code == 429
    assert 'role="alert"' in sent.text
    assert "Retry after the stated time" in sent.text


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"index": "idx_none"}, 404, "idx_none"),
        ({"top_k": "many"}, 422, "top_k"),
        ({"top_k": "100000"}, 422, "top_k"),
        ({"prompt": "a\x00b"}, 422, "NUL"),
    ],
)
def test_bad_input_is_told_on_the_page_that_was_filled_in(
    client: TestClient, ready: Asked, changes: dict[str, str], status: int, told: str
) -> None:
    page = client.post("/ui/ask", data=ready.form(**changes))
    assert page.status_code == status
    assert told in page.text
    assert "What to do:" in page.text
    assert " In Halvern.</textarea>" in page.text


def test_another_site_cannot_send_the_form(client: TestClient, ready: Asked, engine: FakeEngine) -> None:
    sent = client.post("/ui/ask", data=ready.form(), headers={"Sec-Fetch-Site": "cross-site"})
    assert sent.status_code == 403
    assert not [name for name, _ in engine.calls if name == "submit_attribution"]


def test_a_slow_answer_is_looked_after_until_it_is_there(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "WAIT_SECONDS", 0.0)
    engine.gate.clear()
    waiting = client.post("/ui/ask", data=ready.form(), headers=HTMX)
    address = re.search(r'hx-get="([^"]+)" hx-trigger="load delay:1s"', waiting.text)
    assert address is not None
    assert "Still computing" in client.get(address[1], headers=HTMX).text
    engine.gate.set()
    wait_for(lambda: "fact-1" in client.get(address[1], headers=HTMX).text, "the answer")


def test_a_failed_question_tells_why(
    client: TestClient, ready: Asked, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import NonFiniteGradient

    monkeypatch.setattr(routes, "WAIT_SECONDS", 0.0)
    engine.gate.clear()
    engine.errors["attribution"] = NonFiniteGradient("Layer 3 gave NaN.")
    waiting = client.post("/ui/ask", data=ready.form(), headers=HTMX)
    engine.gate.set()
    address = waiting.headers["HX-Push-Url"]
    wait_for(lambda: "Layer 3 gave NaN." in client.get(address).text, "the reason")


def test_recent_answers_lead_to_their_permalinks(client: TestClient, ready: Asked) -> None:
    sent = client.post("/ui/ask", data=ready.form(), headers=HTMX)
    link = f'<a href="{sent.headers["HX-Push-Url"]}">Where is the harbour? <b>In Halvern.</b></a>'
    assert link in client.get("/ui").text
    assert link in sent.text


def test_an_unknown_attribution_is_a_page_with_the_reason(client: TestClient) -> None:
    page = client.get("/ui/attributions/att_none")
    assert page.status_code == 404
    assert "att_none" in page.text
    assert page.headers["content-type"].startswith("text/html")


def test_no_file_outside_the_folder_is_served(client: TestClient) -> None:
    assert client.get("/ui/static/..%2Froutes.py").status_code == 404
    assert client.get("/ui/static/%2e%2e/routes.py").status_code == 404


def test_the_page_is_not_part_of_the_api(app: FastAPI) -> None:
    assert not [path for path in app.openapi()["paths"] if path.startswith("/ui")]
